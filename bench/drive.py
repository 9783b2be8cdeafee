"""Send orders to any URL at a fixed rate, as the bench does: `python -m bench.drive URL RATE SECONDS`.

Sends orders for the demo data's customers and products, in an open loop. Prints the answers and their latencies, which
count from when each request was due.
"""

import argparse
import socket
import sys
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from bench.command import parser, run
from bench.load import runner
from bench.load.latency import PERCENTILES, summary
from bench.load.runner import LATE_SHARE_MAX
from bench.load.spec import Spec
from bench.measure.meter import CONNECTIONS_MAX
from common.tls.authority import Authority
from dev.settings import Settings

CONNECT_S: Final = 5.0


class Address(NamedTuple):
    """Where the orders go."""

    secure: bool
    host: str
    port: int
    path: str


def drive(address: Address, rate: float, seconds: float, token_file: str, authority: str) -> None:
    records = runner.run(
        Spec(
            host=address.host,
            port=address.port,
            path=address.path,
            mode="open",
            rate=rate,
            duration_s=seconds,
            connections=CONNECTIONS_MAX,
            tokens=token_file,
            authority=authority,
        )
    )
    cpu_us = records.cpu_s / max(1, records.requests) * 1e6
    print(
        f"{records.requests} requests on {records.connections} connections, {cpu_us:.0f} us of the generator's CPU each"
    )
    statuses = (f"{status or 'none'}: {count}" for status, count in records.by_status.items())
    print(f"answers: {', '.join(statuses)}")
    accept = summary(records.accept_us())
    figures = zip((*PERCENTILES, "most"), (*accept.percentiles, accept.most), strict=True)
    print("202, ms: " + ", ".join(f"{name} {value:.1f}" for name, value in figures if value is not None))
    if records.late_share > LATE_SHARE_MAX:
        print(f"the generator fell behind: it sent {records.late_share:.1%} of the requests over 5 ms late")


def parsed(url: str) -> Address:
    """Raises `ArgumentTypeError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{url!r} is not like http://127.0.0.1:8081/api/v1/orders")
    secure = parts.scheme == "https"
    return Address(secure, parts.hostname, parts.port or (443 if secure else 80), parts.path or "/")


def authority_of(address: Address, chosen: str) -> str:
    """The file by which the server's certificate is verified: the chosen one, or that of the stack; none for http."""
    return (chosen or str(Authority(Settings.from_environment().secrets).path)) if address.secure else ""


def main(arguments: list[str]) -> int:
    options = parser("drive", __doc__)
    options.add_argument("url", type=parsed, help="such as http://127.0.0.1:8081/api/v1/orders")
    options.add_argument("rate", type=float, help="orders a second")
    options.add_argument("seconds", type=float)
    options.add_argument("--token-file", default="", metavar="FILE", help="a merchant's token, to be sent along")
    options.add_argument("--ca-file", default="", metavar="FILE", help="by which https is verified (the stack's own)")
    chosen = options.parse_args(arguments)
    host, port, authority = chosen.url.host, chosen.url.port, authority_of(chosen.url, chosen.ca_file)
    if authority and not Path(authority).is_file():
        print(f"drive: there is no {authority}: name the certificate of the server's authority", file=sys.stderr)
        return 2
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        print(f"drive: cannot connect to {host}:{port}: {error.strerror or error}", file=sys.stderr)
        return 2
    return run(lambda _: drive(chosen.url, chosen.rate, chosen.seconds, chosen.token_file, authority))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
