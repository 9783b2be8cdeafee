"""`python -m tests.model [--bound small|large] [--only PART_OF_A_NAME]`: check every reachable state of each scenario.

Prints, for each, the states, the transitions, the quiescent states and the time; for a violation the shortest way to
it. Exit code 1 when a statement is broken.
"""

import argparse
import sys

from tests.model.explore import run
from tests.model.scenarios import LARGE, SMALL


def main() -> int:
    parser = argparse.ArgumentParser(prog="model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--bound", choices=("small", "large"), default="small", help="small takes seconds, large takes minutes"
    )
    parser.add_argument("--only", default="", metavar="PART_OF_A_NAME", help="only scenarios with this in their name")
    chosen = parser.parse_args()
    scenarios = [s for s in (LARGE if chosen.bound == "large" else SMALL) if chosen.only in s.name]
    states = transitions = violations = 0
    seconds = 0.0
    print(f"{'scenario':40} {'states':>10} {'transitions':>12} {'quiescent':>10} {'seconds':>8}")
    for scenario in scenarios:
        result = run(scenario)
        counts = f"{result.states:10,} {result.transitions:12,} {result.quiescent:10,} {result.seconds:8.1f}"
        print(f"{scenario.name:40} {counts}", flush=True)
        states, transitions = states + result.states, transitions + result.transitions
        seconds += result.seconds
        if result.violation is not None:
            violations += 1
            print(result.violation)
        elif not result.complete:
            violations += 1
            print(f"   => not finished: more than {result.states:,} states")
    print(f"{'total':40} {states:10,} {transitions:12,} {'':10} {seconds:8.1f}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
