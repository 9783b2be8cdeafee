"""Drives any URL that takes an order: `python -m bench.drive URL RATE SECONDS`, open loop, as the bench does.

RATE is in orders a second. Sends the demo data's customers and products, and says what came back and how long it took
from when each was due.
"""

import argparse
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from bench.load import runner
from bench.load.generator import Spec
from bench.load.latency import summary
from bench.load.runner import LATE_SHARE_MAX
from bench.load.wire import Population
from bench.measure.meter import CONNECTIONS_MAX


def main(url: str, rate: float, seconds: float) -> None:
    to = urlsplit(url)
    if to.scheme != "http" or not to.hostname:
        raise SystemExit(f"{url!r} is not like http://127.0.0.1:8081/api/v1/orders")
    with tempfile.TemporaryDirectory() as directory:
        spec = Spec(
            host=to.hostname,
            port=to.port or 80,
            path=to.path or "/",
            mode="open",
            rate=rate,
            duration_s=seconds,
            connections=CONNECTIONS_MAX,
            population=Population(),
            files=str(Path(directory) / "load"),
        )
        records = runner.run(spec)
    result = records.result
    cpu_us = result.cpu_s / max(1, result.requests) * 1e6
    print(f"{result.requests} requests on {result.connections} connections, {cpu_us:.0f} us of CPU each on this side")
    statuses = (f"{status or 'none'}: {count}" for status, count in sorted(records.by_status.items()))
    print(f"answers: {', '.join(statuses)}")
    found = summary(records.accept_us())
    figures = (("p50", found.p50), ("p95", found.p95), ("p99", found.p99), ("p99.9", found.p999), ("most", found.most))
    print("202, ms: " + ", ".join(f"{name} {value:.1f}" for name, value in figures if value is not None))
    if records.late_share > LATE_SHARE_MAX:
        print(f"the generator fell behind: {records.late_share:.1%} of the requests were sent over 5 ms late")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="just drive", description=(__doc__ or "").splitlines()[0])
    described.add_argument("url", help="such as http://127.0.0.1:8081/api/v1/orders")
    described.add_argument("rate", type=float, help="orders a second")
    described.add_argument("seconds", type=float)
    return described


if __name__ == "__main__":
    chosen = parser().parse_args()
    main(chosen.url, chosen.rate, chosen.seconds)
