"""`python -m tests.alerts`: each fault of the drill raises exactly its alert, and a clean soak raises none.

Exit code 0 when that is so, else 1.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, get_args

from dev.observe import MISSING, PROGRAMS, binary
from dev.servers.quorum import NODES
from tests.alerts.drill import Drill
from tests.alerts.faults import FAULTS, Place
from tests.chaos.disk import Disk
from tests.pair import Pair
from tests.servers import Servers
from tests.stack import Stack

ERROR_MAX: Final = 2_000
"""Characters of an error that are printed."""


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="alerts-drill", description=(__doc__ or "").splitlines()[0])
    described.add_argument("faults", nargs="*", metavar="fault", help=f"only these: {', '.join(FAULTS)}")
    described.add_argument(
        "--soak", type=float, default=300.0, metavar="S",
        help="how long nothing is broken first, at the real pace (%(default)s s)",
    )  # fmt: skip
    described.add_argument(
        "--panels", type=Path, metavar="FILE", help="write what the dashboards show at the end of the soak"
    )
    described.add_argument(
        "--secure", action="store_true", help="all of it on a stack in which everything is encrypted"
    )
    return described


def main(arguments: list[str]) -> int:
    chosen = parser().parse_args(arguments)
    if unknown := set(chosen.faults) - set(FAULTS):
        parser().error(f"there is no fault {', '.join(sorted(unknown))}")
    if missing := [name for name in PROGRAMS if binary(name) is None]:
        print(f"alerts-drill: there is no {' and no '.join(missing)} on PATH: {MISSING}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="tandem-drill-") as directory:
        faults = chosen.faults or list(FAULTS)
        return int(drilled(Path(directory), faults, chosen.soak, chosen.panels, secure=chosen.secure))


def drilled(directory: Path, faults: list[str], soak_s: float, panels: Path | None, *, secure: bool) -> bool:
    """Play the faults one after the other, each where it can happen; returns whether something was wrong."""
    if secure:
        return played("secure", directory, [f for f in faults if FAULTS[f].place != "copies"], soak_s, panels)
    failed = False
    for place in get_args(Place):
        if here := [fault for fault in faults if FAULTS[fault].place == place]:
            failed |= played(place, directory / place, here, soak_s, panels)
            soak_s, panels = 0.0, None
    return failed


def played(place: Place, directory: Path, faults: list[str], soak_s: float, panels: Path | None) -> bool:
    """The same on one stack."""
    disk = Disk(directory / "kafka")
    if "disk-nearly-full" in faults:
        disk.mount()
        if not disk.mounted:
            print("the disk cannot be filled here: that takes the right to mount")
            faults = [fault for fault in faults if fault != "disk-nearly-full"]
    failed = False
    try:
        with serving(place, directory) as stack, logs_of_failed(stack):
            stack.launch_all()
            drill = Drill(stack, directory / "observe")
            with drill.running():
                if soak_s:
                    raised = drill.soak(soak_s, panels)
                    failed |= bool(raised)
                    print(
                        f"{'clean soak':<18}  {soak_s:>5.0f} s  {', '.join(sorted(raised)) or 'no alert'}", flush=True
                    )
                for fault in faults:
                    try:
                        verdict = drill.play(fault, disk)
                    except AssertionError as error:  # such as that its alert is not sent; the others are played still
                        failed = True
                        print(f"{fault:<18}  {'WRONG':>7}  {str(error)[:ERROR_MAX]}", flush=True)
                        continue
                    failed |= not verdict.is_exact
                    sent = ", ".join(f"{name} after {after:.0f} s" for name, after in verdict.after_s.items())
                    late = f"{verdict.late_share:.0%} of naps late"
                    print(f"{fault:<18}  {'ok' if verdict.is_exact else 'WRONG':>7}  {sent}; {late}", flush=True)
    finally:
        disk.unmount()
    return failed


@contextmanager
def serving(place: Place, directory: Path) -> Iterator[Stack]:
    """A stack whose servers run, without an instance."""
    if place == "copies":
        with Pair(directory, synchronous=False, brokers=NODES).stack() as stack:
            yield stack
        return
    stack = Stack(directory, servers=Servers(directory, secure=place == "secure"), owns_servers=True)
    try:
        stack.start_infrastructure()
        yield stack
    finally:
        stack.stop()


@contextmanager
def logs_of_failed(stack: Stack) -> Iterator[None]:
    try:
        yield
    except BaseException:
        print(stack.logs(), file=sys.stderr)
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("alerts-drill: ended by SIGTERM"))
    sys.exit(main(sys.argv[1:]))
