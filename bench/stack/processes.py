"""What the processes of a stack cost: CPU by process tree, and memory as PSS.

CPU time an order is the bench's primary figure. Rates depend on how the load generator shares the cores; CPU time does
so much less.
"""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

import psutil
from msgspec import Struct

GROUPS: Final = ("api", "saga", "payment", "inventory", "broker", "postgres")
"""The order in which costs are shown."""
CORES: Final = os.cpu_count() or 1
_GROUP_OF: Final = {"order-api": "api", "order-saga": "saga", "kafka": "broker"}


class Cpu(Struct, frozen=True, kw_only=True):
    """CPU used between two moments."""

    seconds: dict[str, float]
    """By group."""
    others_share: float
    """Share of the machine that processes outside the bench took, and interrupts."""


class Window:
    """CPU used from now on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = self._read()
        self._began = time.monotonic()

    def _read(self) -> dict[str, float]:
        """CPU seconds by group, of the bench and of the machine."""
        counters = dict.fromkeys(GROUPS, 0.0)
        for name, pid in self._pids.items():
            counters[group_of(name)] = counters.get(group_of(name), 0.0) + tree_cpu_s(pid)
        bench, machine = psutil.Process().cpu_times(), psutil.cpu_times()
        counters["bench"] = bench.user + bench.system + bench.children_user + bench.children_system
        counters["machine"] = machine.user + machine.nice + machine.system + machine.irq + machine.softirq
        return counters

    def end(self, generator_s: float = 0.0) -> Cpu:
        """What was used up to now, together with what the generator reports about itself."""
        now, elapsed_s = self._read(), time.monotonic() - self._began
        used = {name: now[name] - before for name, before in self._before.items()}
        # The generator is a child of the bench.
        others_s = used.pop("machine") - used.pop("bench") - sum(used.values())
        return Cpu(seconds=used | {"generator": generator_s}, others_share=max(0.0, others_s) / (elapsed_s * CORES))


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
