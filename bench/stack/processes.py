"""What the processes of a stack cost: CPU by process tree, and memory as PSS.

CPU time an order is the bench's primary figure. Rates depend on how the load generator shares the cores; CPU time does
so much less.
"""

import os
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final

import psutil
from msgspec import Struct

GROUPS: Final = ("api", "saga", "payment", "inventory", "broker", "postgres")
"""The order in which costs are shown."""
CORES: Final = os.cpu_count() or 1
_GROUP_OF: Final = {"order-api": "api", "order-saga": "saga", "kafka": "broker"}


class Running(Struct, frozen=True, kw_only=True):
    """The processes of a stack at one moment, by name."""

    pids: Mapping[str, int]
    ended_cpu_s: Mapping[str, float] = {}
    """CPU seconds of the processes that had this name and were stopped or killed."""


class Cpu(Struct, frozen=True, kw_only=True):
    """CPU used between two moments."""

    seconds: dict[str, float]
    """By group."""
    others_share: float
    """Share of the machine that processes outside the bench took, and interrupts."""


class Window:
    """CPU used from now on, also by processes that are started or end meanwhile."""

    def __init__(self, running: Callable[[], Running]) -> None:
        """`running` says which processes the stack has at the moment."""
        self._running = running
        self._before = _cpu_s(running())
        self._rest_before_s = _rest_s()
        self._began = time.monotonic()

    def end(self, generator_s: float = 0.0) -> Cpu:
        """What was used up to now, together with what the generator reports about itself."""
        now, elapsed_s = _cpu_s(self._running()), time.monotonic() - self._began
        used = dict.fromkeys(GROUPS, 0.0)
        for name in self._before | now:
            before_s = self._before.get(name, 0.0)
            # What a process used is not to be had when it ended by itself: it keeps its last reading.
            used_s = max(0.0, now.get(name, 0.0) - before_s)
            used[group_of(name)] = used.get(group_of(name), 0.0) + used_s
        others_s = _rest_s() - self._rest_before_s - sum(used.values())
        return Cpu(seconds=used | {"generator": generator_s}, others_share=max(0.0, others_s) / (elapsed_s * CORES))


def _cpu_s(running: Running) -> dict[str, float]:
    """CPU seconds by name, since the stack was started."""
    ended = running.ended_cpu_s
    return {**ended, **{name: ended.get(name, 0.0) + tree_cpu_s(pid) for name, pid in running.pids.items()}}


def _rest_s() -> float:
    """CPU seconds of the machine without the bench, of which the generator is a child."""
    bench, machine = psutil.Process().cpu_times(), psutil.cpu_times()
    machine_s = machine.user + machine.nice + machine.system + machine.irq + machine.softirq
    return float(machine_s - bench.user - bench.system - bench.children_user - bench.children_system)


def ended_cpu_s(end: Callable[[], object]) -> float:
    """End children of this process. Returns the CPU seconds of those that were waited for meanwhile."""
    before_s = _children_s()
    end()
    return _children_s() - before_s


def _children_s() -> float:
    """CPU seconds of the children that this process has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
            if process.pid == pid:
                total += times.children_user + times.children_system
    return total


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """The proportional set size of processes: shared memory is divided among the processes that share it."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total


def memory(pids: Mapping[str, int]) -> dict[str, int]:
    """PSS by group, in bytes."""
    by_group = dict.fromkeys(GROUPS, 0)
    for name, pid in pids.items():
        by_group[group_of(name)] += pss_bytes(tree(pid))
    return by_group
