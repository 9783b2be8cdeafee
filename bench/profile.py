"""Where the CPU goes: `python -m bench.profile [RATE] [SECONDS]`, 2,000 orders a second for 20 s if not given.

A stack of its own, its broker warm, under a fixed rate; py-spy watches each Python process (with root's rights, or
where the kernel lets a parent look into its children). Prints the cost of an order by process and the functions that
were on top most often, and leaves the stacks of each, in the form that flame graph tools read.
"""

import argparse
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final

from bench.measure.meter import Meter
from bench.stack import warm
from bench.stack.system import System, out_directory, run_directory
from dev.settings import ROOT

RATE: Final = 2_000.0
SECONDS: Final = 20.0
WARM_S_MAX: Final = 45.0
WARM_UP_S: Final = 8.0
SAMPLES_PER_S: Final = 200
SHOWN: Final = 15


def main(rate: float, seconds: float) -> None:
    out = out_directory()
    with (
        run_directory() as directory,
        System(directory / "stack", root=ROOT) as system,
    ):
        print(warm.line(warm.broker_of(system, WARM_S_MAX)), flush=True)
        meter = Meter(system, directory, lambda text: print(text, flush=True))
        meter.open("before", rate, WARM_UP_S)
        meter.open("without py-spy", rate, seconds)
        pids = {name: pid for name, pid in system.layout.pids.items() if name not in ("kafka", "postgres")}
        watching = [_watch(pid, seconds, out / f"profile-{name}.txt") for name, pid in pids.items()]
        meter.open("watched", rate, seconds)
        for process in watching:
            process.wait()
    for name in pids:
        _show(name, out / f"profile-{name}.txt")


def _watch(pid: int, seconds: float, stacks: Path) -> "subprocess.Popen[bytes]":
    command = ["py-spy", "record", "--pid", str(pid), "--duration", str(int(seconds)), "--rate", str(SAMPLES_PER_S)]
    command += ["--function", "--format", "raw", "--output", str(stacks)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _show(name: str, stacks: Path) -> None:
    """The functions that were running, and those that had called what was running."""
    running: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for line in stacks.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        functions = stack.split(";")
        running[functions[-1]] += int(count)
        for function in set(functions):
            below[function] += int(count)
    total = max(1, running.total())
    print(f"\n{name}: {total} samples of a running thread, in {stacks}")
    for (function, own), (caller, all_of_it) in zip(running.most_common(SHOWN), below.most_common(SHOWN), strict=False):
        print(f"  {own / total:6.1%}  {function:<58.58}{all_of_it / total:6.1%} and below  {caller:.58}")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="just profile", description=(__doc__ or "").splitlines()[0])
    described.add_argument("rate", type=float, nargs="?", default=RATE, help="orders a second (%(default)s)")
    described.add_argument("seconds", type=float, nargs="?", default=SECONDS, help="of each load (%(default)s)")
    return described


if __name__ == "__main__":
    chosen = parser().parse_args()
    main(chosen.rate, chosen.seconds)
