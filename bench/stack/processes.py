"""What the processes of a stack cost: CPU by process tree, and memory as PSS.

CPU time an order is the bench's primary figure. Rates depend on how the load generator shares the cores; CPU time does
so much less.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import psutil
from msgspec import Struct

GROUPS: Final = ("api", "saga", "payment", "inventory", "broker", "postgres")
"""The order in which costs are shown."""
_GROUP_OF: Final = {"order-api": "api", "order-saga": "saga", "kafka": "broker"}


class CpuSample(Struct, frozen=True):
    """CPU seconds used up to now, by group, and by the whole machine."""

    by_group: dict[str, float]
    machine_s: float
    loopback_bytes: int


class Cpu(Struct, frozen=True, kw_only=True):
    """CPU seconds used between two samples."""

    by_group: dict[str, float]
    others_s: float
    """CPU of all other processes of the machine, and of interrupts."""
    loopback_bytes: int


def group_of(instance: str) -> str:
    """The group that an instance (`payment-2`) or a server (`kafka`) is counted in."""
    service = instance.rstrip("0123456789").removesuffix("-")
    return _GROUP_OF.get(service, service)


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants. (PostgreSQL's backends are children of the postmaster.)"""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process tree, with those of its children that have ended."""
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if process.pid == pid:
            total += times.children_user + times.children_system
    return total


def sample(pids: Mapping[str, int]) -> CpuSample:
    """Where the counters of these processes stand."""
    by_group = dict.fromkeys(GROUPS, 0.0)
    for name, pid in pids.items():
        by_group[group_of(name)] += tree_cpu_s(pid)
    machine = psutil.cpu_times()
    busy_s = machine.user + machine.nice + machine.system + machine.irq + machine.softirq
    return CpuSample(by_group, busy_s, psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def between(before: CpuSample, after: CpuSample, generator_s: float) -> Cpu:
    """CPU used between two samples. `generator_s` is what the generator reports about itself."""
    by_group = {group: after.by_group[group] - before.by_group[group] for group in before.by_group}
    by_group["generator"] = generator_s
    return Cpu(
        by_group=by_group,
        others_s=max(0.0, after.machine_s - before.machine_s - sum(by_group.values())),
        loopback_bytes=after.loopback_bytes - before.loopback_bytes,
    )


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """The proportional set size of processes: shared memory is divided among the processes that share it."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def memory(pids: Mapping[str, int]) -> dict[str, int]:
    """PSS by group, in bytes."""
    by_group = dict.fromkeys(GROUPS, 0)
    for name, pid in pids.items():
        by_group[group_of(name)] += pss_bytes(tree(pid))
    return by_group
