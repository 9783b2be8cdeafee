"""`python -m ops.verify`: proves that no order was lost, charged twice or oversold, or says what it found.

Ends with 0 when all is proved, with 1 for a violation, with 2 when something could not be proved.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from common import log
from common.config import Env
from common.errors import Fatal
from common.events import UUID_PATTERN
from ops.verify import proof
from ops.verify import watch as watching
from ops.verify.report import UNPROVEN
from ops.verify.sources import databases

DEADLINE_S = 3_600


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="verify", description=__doc__.splitlines()[0])
    described.add_argument("--json", action="store_true", help="the report for a machine")
    described.add_argument("--accepted", type=Path, metavar="FILE", help="ids of acknowledged orders, one a line")
    described.add_argument(
        "--settle-within",
        type=float,
        default=proof.SETTLE_S,
        metavar="S",
        help="how long the accepted orders may take to settle (%(default)s s)",
    )
    described.add_argument(
        "--patience",
        type=float,
        default=proof.PATIENCE_S,
        metavar="S",
        help="how long a reader may stand still before what it has not read is unproven (%(default)s s)",
    )
    described.add_argument(
        "--watch", type=float, metavar="S", help="prove for ever, with a rest of so many seconds, and serve metrics"
    )
    described.add_argument("--port", type=int, default=watching.PORT, help="where --watch serves metrics (%(default)s)")
    return described


def accepted_ids(path: Path) -> list[str]:
    """The order ids of a client's list. Raises `Fatal` for a line that is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise Fatal(f"verify: {error}") from error
    for number, line in enumerate(lines, 1):
        if not re.match(UUID_PATTERN, line.strip()):
            raise Fatal(f"verify: {path}, line {number}: {line!r} is not an order id")
    return [line.strip() for line in lines]


def say(what: str) -> None:
    """To a person who waits: apart from the report."""
    print(f"verify: {what}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    chosen = parser().parse_args(arguments)
    env = Env("verify")
    settings = proof.Settings(
        servers=env.text("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
        urls=databases.urls(env),
        deadline_s=env.integer("ORDER_SETTLE_DEADLINE_S", DEADLINE_S, least=1, most=10**9, unit="s"),
        patience_s=chosen.patience,
        settle_s=chosen.settle_within,
        workers=min(4, proof.cores()),
    )
    if chosen.watch is not None:
        log.configure("verify", "verify")
        watching.watch(settings, every_s=chosen.watch, host=env.text("HTTP_HOST", "127.0.0.1"), port=chosen.port)
    accepted = accepted_ids(chosen.accepted) if chosen.accepted else []
    report = proof.prove(settings, accepted, say)
    if chosen.json:
        sys.stdout.buffer.write(report.as_json())
    else:
        report.show()
    return report.exit_code


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except Fatal as error:
        print(error, file=sys.stderr)
        status = UNPROVEN
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = UNPROVEN
    sys.exit(status)
