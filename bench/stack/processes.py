"""What the processes of a stack cost: CPU from /proc, by process tree, and memory as PSS.

CPU time a request is the bench's primary figure. Rates depend on how well the load generator shares the cores, CPU
time much less; and what it leaves of a core is what a faster disk or a second machine would find.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import psutil
from msgspec import Struct

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
GROUPS: Final = ("api", "saga", "payment", "inventory", "broker", "postgres")
"""The order in which costs are shown."""
_GROUP_OF: Final = {
    "order-api": "api",
    "order-saga": "saga",
    "payment": "payment",
    "inventory": "inventory",
    "kafka": "broker",
    "postgres": "postgres",
}


class CpuSample(Struct, frozen=True):
    """CPU seconds used up to now, by group, and by the whole machine."""

    by_group: dict[str, float]
    machine_busy_s: float
    machine_stolen_s: float
    loopback_bytes: int


class Cpu(Struct, frozen=True, kw_only=True):
    """CPU seconds used between two samples."""

    by_group: dict[str, float]
    others_s: float
    """What the machine spent on processes that are not ours, interrupts included."""
    stolen_s: float
    loopback_bytes: int

    @property
    def ours_s(self) -> float:
        return sum(self.by_group.values())


def group_of(instance: str) -> str:
    """The group that an instance (`payment-2`) or a server (`kafka`) is counted in."""
    name = instance if instance in _GROUP_OF else instance.rpartition("-")[0]
    return _GROUP_OF[name]


def own_cpu_s(pid: int, *, with_reaped: bool = False) -> float:
    """CPU seconds of a process, all threads; 0 when it is gone. `with_reaped` adds children that have ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    # The second field, the name, may contain anything; what follows its last parenthesis is regular.
    fields = stat.rpartition(")")[2].split()
    ticks = fields[11:15] if with_reaped else fields[11:13]
    return sum(map(int, ticks)) / TICKS_PER_S


def tree(pid: int) -> list[int]:
    """A process and its descendants. (PostgreSQL's backends are children of the postmaster.)"""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process tree, with those of its children that have ended."""
    return sum(own_cpu_s(member, with_reaped=member == pid) for member in tree(pid))


def sample(pids: Mapping[str, int]) -> CpuSample:
    """Where the counters of these processes stand."""
    by_group = dict.fromkeys(GROUPS, 0.0)
    for name, pid in pids.items():
        by_group[group_of(name)] += tree_cpu_s(pid)
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return CpuSample(
        by_group,
        (user + nice + system + irq + softirq) / TICKS_PER_S,
        steal / TICKS_PER_S,
        _loopback_bytes(),
    )


def _loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    return 0


def between(before: CpuSample, after: CpuSample, generator_s: float) -> Cpu:
    """What was used between two samples, together with what the generator says of itself."""
    by_group = {group: after.by_group[group] - before.by_group[group] for group in before.by_group}
    by_group["generator"] = generator_s
    busy_s = after.machine_busy_s - before.machine_busy_s
    return Cpu(
        by_group=by_group,
        others_s=max(0.0, busy_s - sum(by_group.values())),
        stolen_s=after.machine_stolen_s - before.machine_stolen_s,
        loopback_bytes=after.loopback_bytes - before.loopback_bytes,
    )


def pss_bytes(pids: Iterable[int]) -> int:
    """The proportional set size of processes: what is shared is divided among those who share it."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        total += next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return total


def memory(pids: Mapping[str, int]) -> dict[str, int]:
    """PSS by group, in bytes."""
    found = dict.fromkeys(GROUPS, 0)
    for name, pid in pids.items():
        found[group_of(name)] += pss_bytes(tree(pid))
    return found
