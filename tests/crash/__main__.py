"""`python -m tests.crash [POINT …]`: every crash point, or those named, on real stacks. Ends with 1 for a failure.

A fault throws its stack away: the next point gets a new one, and the logs of the old one are kept.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.crash.points import POINTS, Point
from tests.crash.trial import Outcome, Trials

COLUMNS = ("point", "process", "passage", "ready s", "recovered s", "orders", "verdict")
WIDTHS = (30, 34, 7, 7, 11, 6, 8)


def outcomes(points: Iterable[Point], directory: Path) -> Iterator[Outcome]:
    """Try each point, in the order given, each as soon as it is asked for."""
    trials: Trials | None = None
    stacks = 0
    try:
        for point in points:
            if trials is None:
                stacks += 1
                trials = Trials(directory / f"stack-{stacks}")
            outcome = trials.run(point)
            yield outcome
            if outcome.fault:
                trials.stop()
                trials = None
    finally:
        if trials is not None:
            trials.stop()


def row(outcome: Outcome) -> tuple[str, ...]:
    point = outcome.point
    return (
        point.name,
        point.process,
        str(point.passage),
        "" if outcome.ready_s is None else f"{outcome.ready_s:.1f}",
        f"{outcome.recovered_s:.1f}",
        str(outcome.accepted),
        "FAILED" if outcome.fault else "survived",
    )


def print_row(cells: Sequence[str]) -> None:
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip(), flush=True)


def summary(tried: Sequence[Outcome], took_s: float) -> str:
    survived = sum(not outcome.fault for outcome in tried)
    accepted = sum(outcome.accepted for outcome in tried)
    return f"{survived} of {len(tried)} points survived, {accepted} orders accepted, {took_s:.0f} s"


def markdown(tried: Sequence[Outcome], took_s: float) -> str:
    """The table as it stands in docs/evidence/crash-points.md, with the place of each point."""
    lines = [f"| {' | '.join(COLUMNS)} | killed |", "|---|---|--:|--:|--:|--:|---|---|"]
    lines += [f"| {' | '.join(row(o))} | {o.point.at} `{o.point.target}` |" for o in tried]
    return "\n".join([*lines, "", f"{summary(tried, took_s)}.", ""])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="crash-matrix", description="Kill every process at each crash point.")
    parser.add_argument(
        "points", nargs="*", choices=[*POINTS, []], metavar="point", help="the name of a crash point (default: all)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table to this file")
    chosen = parser.parse_args(arguments)
    points = [point for point in POINTS.values() if not chosen.points or point.name in chosen.points]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the stack is stopped
    directory = Path(tempfile.mkdtemp(prefix="tandem-crash-"))
    began = time.monotonic()
    tried: list[Outcome] = []
    print_row(COLUMNS)
    for outcome in outcomes(points, directory):
        tried.append(outcome)
        print_row(row(outcome))
        if outcome.fault:
            print(outcome.fault, flush=True)
    took_s = time.monotonic() - began
    print(summary(tried, took_s))
    if chosen.markdown:
        chosen.markdown.write_text(markdown(tried, took_s))
    failed = any(outcome.fault for outcome in tried)
    if failed:
        print(f"the logs are in {directory}")
    else:
        shutil.rmtree(directory)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
