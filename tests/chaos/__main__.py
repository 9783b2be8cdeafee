"""`python -m tests.chaos --seed N --minutes M`: break a Tandem of its own in every way, and prove that it holds.

Exit code 0 when everything was proved, else 1. A failed run prints how to repeat it, and keeps the evidence.
"""

import argparse
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Final

from dev.settings import Settings
from tests.chaos import acts
from tests.chaos.arena import Arena
from tests.chaos.brokers.arena import Arena as Cluster
from tests.chaos.brokers.faults import PLAN
from tests.chaos.brokers.run import Run as BrokersRun
from tests.chaos.brokers.run import running
from tests.chaos.report import Report, Row, keep_evidence, show_rows
from tests.chaos.run import Run
from tests.chaos.schedule import NAMES, deal

RATE: Final = 60
RATE_FOR_MANY: Final = 1_500


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="chaos", description=(__doc__ or "").splitlines()[0])
    described.add_argument(
        "--seed", type=int, default=1, metavar="N", help="the seed that the faults are drawn from (%(default)s)"
    )
    described.add_argument(
        "--minutes", type=float, metavar="M", help="how long faults are injected (10, with --orders 0)"
    )
    described.add_argument(
        "--orders", type=int, default=0, metavar="N", help="continue until this many orders are accepted"
    )
    described.add_argument(
        "--rate", type=int, metavar="N", help=f"orders offered a second ({RATE}, with --orders {RATE_FOR_MANY})"
    )
    described.add_argument(
        "--brokers",
        type=int,
        choices=[1, 3],
        default=1,
        help="with 3: kill, freeze, cut off, wipe and restart each of three brokers, and nothing else",
    )
    described.add_argument(
        "--only", default="", metavar="KIND,KIND", help=f"only these (default: all): {', '.join((*NAMES, *acts.ACTS))}"
    )
    return described


def main(arguments: list[str]) -> int:
    chosen = parser().parse_args(arguments)
    if chosen.brokers > 1:
        return _brokers(chosen.rate or RATE, shlex.join(arguments))
    only = [name for name in chosen.only.split(",") if name]
    if unknown := set(only) - {*NAMES, *acts.ACTS}:
        parser().error(f"there is no fault {', '.join(sorted(unknown))}")
    directory = Settings.from_environment().home / "chaos" / f"seed-{chosen.seed}-{time.strftime('%H%M%S')}"
    command = f"just chaos {shlex.join(arguments)}"
    failed = False
    if faults := [name for name in only if name in NAMES] if only else list(NAMES):
        seconds = 60 * (chosen.minutes if chosen.minutes is not None else 0 if chosen.orders else 10)
        rate = chosen.rate or (RATE_FOR_MANY if chosen.orders else RATE)
        failed |= _chaos(directory, chosen.seed, faults, seconds, chosen.orders, rate, command)
    if last := [name for name in acts.ACTS if not only or name in only]:
        failed |= _acts(directory, last)
    if failed:
        print(f"FAILED. Evidence: {directory}\nAgain: {command}", flush=True)
    return int(failed)


def _brokers(rate: int, arguments: str) -> int:
    """Play what happens to three brokers. Returns the exit code."""
    directory = Settings.from_environment().home / "chaos" / f"brokers-{time.strftime('%H%M%S')}"
    directory.mkdir(parents=True)
    with running(Cluster(directory)) as cluster:
        run = BrokersRun(cluster, rate)
        run.play(PLAN)
    if run.failures:
        print("\n".join(run.failures))
        print(f"FAILED. Evidence: {directory}\nAgain: just chaos {arguments}", flush=True)
    else:
        shutil.rmtree(directory)
    return int(bool(run.failures))


def _chaos(directory: Path, seed: int, faults: list[str], seconds: float, orders: int, rate: int, command: str) -> bool:
    """Play the schedule; returns whether something was wrong."""
    arena = Arena(directory / "arena")
    report = Report()
    failed = True
    try:
        arena.start()
        run = Run(arena, seed, rate)
        report = run.report
        run.play(deal(seed, faults), seconds=seconds, orders=orders)
        report.show()
        failed = bool(report.failures)
    finally:
        if failed:
            print("\n".join(report.failures))
            keep_evidence(arena, report, command)
        arena.stop()
        arena.unmount()
    if not failed:
        shutil.rmtree(arena.directory)
    return failed


def _acts(directory: Path, names: list[str]) -> bool:
    """The faults that end a stack, each on one of its own; returns whether something was wrong."""
    rows: list[Row] = []
    for name in names:
        row = Row(name, acts.TARGETS[name], 0.0)
        rows.append(row)
        began = time.monotonic()
        try:
            row.effect = acts.ACTS[name](directory / name)
            row.verdict = "detected, named and mended"
        except Exception as error:
            row.failed, row.verdict = True, f"{type(error).__name__}: {error}"
        else:
            shutil.rmtree(directory / name)
        row.lasted_s = time.monotonic() - began
        print("  ".join(row.cells()), flush=True)
    show_rows(rows)
    return any(row.failed for row in rows)


if __name__ == "__main__":
    # A run that is ended from outside, by `timeout` for instance, leaves no stack behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("chaos: ended by SIGTERM"))
    sys.exit(main(sys.argv[1:]))
