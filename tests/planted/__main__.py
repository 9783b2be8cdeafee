"""`python -m tests.planted [NAME ...] [--jobs N]`: plant each bug in a copy of the checkout; some check has to find it.

Prints a table in Markdown. At the end the tests that found something run once more, with nothing planted: one that
fails anyway has found nothing. Exit code 1 for a bug that is not caught, and for such a test.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.planted.bugs import BUGS, Bug
from tests.planted.plant import Finding, NotPlanted, copy_of_checkout, hunt, passed, run


@dataclass
class Arguments:
    names: list[str]
    jobs: int


def main() -> int:
    chosen = arguments()
    bugs = [bug for bug in BUGS if not chosen.names or bug.name in chosen.names]
    began = time.monotonic()
    print("| bug | what it breaks | caught by | s |\n|---|---|---|---|", flush=True)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        findings = [*zip(bugs, pool.map(hunt_and_print, bugs), strict=True)]
    caught = list(dict.fromkeys(finding.caught_by for _, finding in findings if finding.caught_by))
    print(f"\n{sum(bool(finding.caught_by) for _, finding in findings)} of {len(bugs)} caught", end="", flush=True)
    fails_anyway = with_nothing_planted(caught) if caught else ""
    print(f", in {time.monotonic() - began:.0f} s")
    for bug, finding in findings:
        if not finding.caught_by:
            print(f"\nnot caught: {bug.name}\n{finding.output}", file=sys.stderr)
    if fails_anyway:
        print(f"\nwith nothing planted:\n{fails_anyway}", file=sys.stderr)
    return 1 if fails_anyway or any(not finding.caught_by for _, finding in findings) else 0


def arguments() -> Arguments:
    parser = argparse.ArgumentParser(prog="planted-bugs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="the name of a bug (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="how many bugs to plant at a time")
    chosen = parser.parse_args(namespace=Arguments([], 2))
    if unknown := set(chosen.names) - {bug.name for bug in BUGS}:
        parser.error(f"no such bug: {', '.join(sorted(unknown))}; there are {', '.join(bug.name for bug in BUGS)}")
    return chosen


def hunt_and_print(bug: Bug) -> Finding:
    try:
        finding = hunt(bug)
    except NotPlanted as error:
        finding = Finding("", 0, str(error))
    caught_by = f"`{finding.caught_by}`" if finding.caught_by else "**nothing**"
    print(f"| {bug.name} | {bug.breaks} | {caught_by} | {finding.seconds:.0f} |", flush=True)
    return finding


def with_nothing_planted(tests: list[str]) -> str:
    """The output if some of these tests fail with nothing planted."""
    with copy_of_checkout() as copy:
        _, output = run(copy, *tests)
    return "" if passed(output) else output


if __name__ == "__main__":
    sys.exit(main())
