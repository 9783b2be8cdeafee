"""`python -m ops.verify`: proves that no order was lost, charged twice or oversold, or says what it found.

Exit code: 0 when everything is proved, 1 for a violation, 2 when something could not be proved or the tool failed.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common import log
from common.config.env import PORT_MAX, Env
from common.config.kafka import brokers
from common.config.telemetry import logs
from common.errors import Fatal
from common.http.heads import Hosts
from ops import tool
from ops.verify import proof, waiting
from ops.verify import watch as watching
from order.api.requests import order_id_in

DEADLINE_S = 3_600
STANDARD_INPUT = "-"


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="verify", description=__doc__.splitlines()[0])
    described.add_argument("--json", action="store_true", help="print the report as JSON")
    described.add_argument(
        "--accepted", metavar="FILE", help=f"ids of acknowledged orders, one a line ({STANDARD_INPUT}: standard input)"
    )
    described.add_argument(
        "--settle-within", type=seconds, default=waiting.SETTLE_S, metavar="S",
        help="how long accepted orders may take to settle (%(default)s s)",
    )  # fmt: skip
    described.add_argument(
        "--patience", type=seconds, default=waiting.PATIENCE_S, metavar="S",
        help="how long a reader may stand still before its unread records make a statement unproven (%(default)s s)",
    )  # fmt: skip
    described.add_argument(
        "--watch", type=seconds, metavar="S", help="prove again and again, S seconds apart, and serve metrics"
    )
    described.add_argument(
        "--port", type=port, default=watching.PORT, help="where --watch serves metrics (%(default)s)"
    )
    return described


def seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 30")


def port(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text) <= PORT_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port, from 1 to {PORT_MAX}")


def accepted_ids(file: str) -> list[str]:
    """The order ids in a client's list. Raises `Fatal` for a line that is not an order id."""
    path = "the standard input" if file == STANDARD_INPUT else file
    try:
        given = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
        lines = given.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise Fatal(f"verify: {error}") from error
    except UnicodeDecodeError as error:
        raise Fatal(f"verify: {path} is not UTF-8 text ({error}); write one order id a line") from error
    order_ids: list[str] = []
    for number, line in enumerate(lines, 1):
        if (order_id := order_id_in(line.strip())) is None:
            raise Fatal(f"verify: {path}, line {number}: {line!r} is not an order id")
        order_ids.append(order_id)
    return order_ids


def notify(text: str) -> None:
    """Print to a person who waits, apart from the report."""
    print(f"verify: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    chosen = parser().parse_args(arguments)
    env = Env("verify")
    settings = waiting.Settings(
        brokers=brokers(env),
        urls={name: env.database_url(f"{name.upper()}_AUDITOR_URL") for name in tool.GROUP_OF},
        deadline_s=env.integer("ORDER_SETTLE_DEADLINE_S", DEADLINE_S, least=1, most=10**9, unit="s"),
        patience_s=chosen.patience,
        settle_s=chosen.settle_within,
        workers=min(4, len(os.sched_getaffinity(0))),
    )
    if chosen.watch is not None:
        log.configure("verify", "verify", logs(env))
        hosts = Hosts(env.text("HTTP_HOST", "127.0.0.1"), env.hosts("ALLOWED_HOSTS"))
        watching.watch(settings, every_s=chosen.watch, hosts=hosts, port=chosen.port)
    accepted: list[str] = []
    if chosen.accepted is not None:
        accepted = accepted_ids(chosen.accepted)
        notify(f"{len(accepted)} accepted orders are listed")
    report = proof.prove(settings, accepted, notify)
    if chosen.json:
        sys.stdout.buffer.write(report.as_json())
    else:
        report.show()
    return report.exit_code


if __name__ == "__main__":
    tool.run(main)
