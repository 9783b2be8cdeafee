"""`python -m bench.million [ORDERS]`: a million orders over HTTP on a stack of its own, each settled, all proved.

They go through the batch endpoint, as fast as they are settled, in loads of a minute. Exit code 0 when `verify` proves
every one of them, 1 when one was lost or is not proved, 2 when the stack or the load could not run.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from bench import scenarios
from bench.load.runner import GeneratorFailed
from bench.measure.meter import Lost, Meter
from bench.scenarios import Refuted
from bench.stack.private import NotReady
from bench.stack.system import System, run_directory
from dev.settings import ROOT

LOAD_S: Final = 60.0
FIRST_REQUESTS_PER_S: Final = 10.0
LINES: Final = 100


def say(text: str) -> None:
    print(text, flush=True)


def place_and_prove(orders: int, directory: Path, load_s: float) -> None:
    """Raises `Lost` and `Refuted`."""
    with System(directory / "stack", root=ROOT) as system:
        meter = Meter(system, directory, say)
        requests_per_s = FIRST_REQUESTS_PER_S
        while meter.orders < orders:
            found = meter.governed(f"{meter.orders:,} of {orders:,}", requests_per_s, load_s, lines=LINES)
            if not found.orders:
                raise GeneratorFailed("no order was accepted")
            requests_per_s = max(requests_per_s, found.confirmed_per_s / LINES)
        took_s = sum(measured.duration_s + measured.drain_s for measured in meter.measured)
        confirmed = sum(measured.confirmed for measured in meter.measured)
        say(f"{meter.orders:,} orders, {confirmed:,} confirmed, in {took_s:.0f} s: {meter.orders / took_s:,.0f}/s")
        verified = scenarios.verify(system, meter.accepted_file, meter.orders)
        say(f"{verified.output}\nall {verified.orders:,} acknowledged orders proved in {verified.seconds:.1f} s")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="million", description=__doc__.splitlines()[0])
    parser.add_argument("orders", type=int, nargs="?", default=1_000_000, help="at least so many (%(default)s)")
    parser.add_argument("--load-s", type=float, default=LOAD_S, metavar="S", help="how long a load is (%(default)s s)")
    chosen = parser.parse_args(arguments)
    with run_directory() as directory:
        try:
            place_and_prove(chosen.orders, directory, chosen.load_s)
        except (Lost, Refuted) as error:
            say(f"NOT PROVED: {error}")
            return 1
        except (GeneratorFailed, NotReady) as error:
            say(f"it could not run: {error}")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
