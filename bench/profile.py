"""Show where the CPU goes at a fixed rate: `python -m bench.profile [RATE] [SECONDS]`.

On a stack of its own with a warm broker, py-spy watches each Python process (with root's rights, or where the kernel
lets a parent look into its children). Prints the cost of an order by process and the functions that were running most
often. Leaves the stacks of each process in the form that flame graph tools read.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from bench.command import out_directory, parser, run, say, shown
from bench.measure.meter import private_meter

RATE: Final = 2_000.0
SECONDS: Final = 20.0
WARM_UP_S: Final = 8.0
SAMPLES_PER_S: Final = 200
SHOWN: Final = 15


def profile(rate: float, seconds: float, directory: Path) -> None:
    with private_meter(directory, say) as meter:
        meter.warm_broker()
        meter.open("warm-up", rate, WARM_UP_S)
        meter.open("without py-spy", rate, seconds)
        pids = {name: pid for name, pid in meter.system.layout.pids.items() if name not in ("kafka", "postgres")}
        stacks = {name: out_directory() / f"profile-{name}.txt" for name in pids}
        watching = [watch(pid, seconds, stacks[name]) for name, pid in pids.items()]
        meter.open("with py-spy", rate, seconds)
        for process in watching:
            process.wait()
    for name in pids:
        show(name, stacks[name])


def watch(pid: int, seconds: float, stacks: Path) -> "subprocess.Popen[bytes]":
    command = ["py-spy", "record", "--pid", str(pid), "--duration", str(int(seconds)), "--rate", str(SAMPLES_PER_S)]
    command += ["--function", "--format", "raw", "--output", str(stacks)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def show(name: str, stacks: Path) -> None:
    """Print the functions that were running most often, and those whose callees were."""
    running: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for line in stacks.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        functions = stack.split(";")
        running[functions[-1]] += int(count)
        for function in set(functions):
            below[function] += int(count)
    total = max(1, running.total())
    print(f"\n{name}: {total} samples of a running thread, in {shown(stacks)}")
    for (function, own), (caller, all_of_it) in zip(running.most_common(SHOWN), below.most_common(SHOWN), strict=False):
        print(f"  {own / total:6.1%}  {function:<58.58}{all_of_it / total:6.1%} and below  {caller:.58}")


if __name__ == "__main__":
    options = parser("profile", __doc__)
    options.add_argument("rate", type=float, nargs="?", default=RATE, help="orders a second (%(default)s)")
    options.add_argument("seconds", type=float, nargs="?", default=SECONDS, help="length of a load (%(default)s)")
    chosen = options.parse_args()
    sys.exit(run(lambda directory: profile(chosen.rate, chosen.seconds, directory)))
