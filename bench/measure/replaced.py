"""Measures the chain that Tandem replaces (`bench.measure.chain`), with the same generator, on databases of its own."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

from bench.load import runner
from bench.load.generator import Spec
from bench.load.latency import summary
from bench.load.runner import GeneratorFailed, Records
from bench.load.wire import Population
from bench.measure.ceilings import await_listening
from bench.measure.chain import CREATED
from bench.measure.result import ChainPoint
from bench.plan import REFERENCE_PER_S
from bench.stack import processes
from bench.stack.system import System
from dev.settings import free_ports

GATEWAY_MS: Final = (0, 50, 800)
CONNECTIONS: Final = (32, 128, 512, 1_024)
WARM_UP_S: Final = 2.0
_GROUPS: Final = {"order": "api", "payment": "payment", "inventory": "inventory"}


def measure(directory: Path, root: Path, duration_s: float, say: Callable[[str], None]) -> list[ChainPoint]:
    """A point for each gateway delay."""
    with System(directory / "chain", root=root, databases_only=True) as system:
        return [_point(directory, system, gateway_ms, duration_s, say) for gateway_ms in GATEWAY_MS]


def _point(
    directory: Path, system: System, gateway_ms: int, duration_s: float, say: Callable[[str], None]
) -> ChainPoint:
    with _running(system, gateway_ms) as (port, pids):

        def run(mode: Literal["open", "closed"], seconds: float, **given: Any) -> tuple[Records, dict[str, float]]:
            files = str(directory / "chain-load")
            population = Population(seed=gateway_ms + 100)
            spec = Spec(
                port=port, mode=mode, duration_s=seconds, accepted=CREATED, population=population, files=files, **given
            )
            before = {group: processes.tree_cpu_s(pid) for group, pid in pids.items()}
            records = runner.run(spec)
            a_request = 1e6 / max(1, records.result.requests)
            cpu = {group: (processes.tree_cpu_s(pid) - before[group]) * a_request for group, pid in pids.items()}
            failed = {s: n for s, n in records.by_status.items() if s != CREATED}
            if failed:
                raise GeneratorFailed(f"the chain gave answers other than {CREATED}: {failed}")
            return records, {**cpu, "generator": records.result.cpu_s * a_request}

        run("closed", WARM_UP_S, connections=16)
        reference, _ = run("open", duration_s, rate=REFERENCE_PER_S, connections=512)
        best: ChainPoint | None = None
        for connections in CONNECTIONS:
            records, cpu = run("closed", duration_s, connections=connections)
            per_s = records.by_status.get(CREATED, 0) / records.result.elapsed_s
            if best is None or per_s > best.highest_per_s:
                best = ChainPoint(
                    gateway_ms=gateway_ms,
                    at_reference=summary(reference.accept_us()),
                    highest_per_s=per_s,
                    connections=connections,
                    at_highest=summary(records.accept_us()),
                    cpu_us=cpu,
                )
    assert best is not None
    cpu_us = sum(us for group, us in best.cpu_us.items() if group != "generator")
    say(
        f"chain, gateway {gateway_ms} ms: p50 {best.at_reference.p50 or 0:.1f} ms at {REFERENCE_PER_S:g}/s; at most "
        f"{best.highest_per_s:.0f}/s with {best.connections} connections, {cpu_us:.0f} us"
    )
    return best


@contextlib.contextmanager
def _running(system: System, gateway_ms: int) -> Iterator[tuple[int, dict[str, int]]]:
    """The three services of the chain: order's port, and the processes by group."""
    ports = dict(zip(("payment", "inventory", "order"), free_ports(3), strict=True))
    environment = {
        **os.environ,
        **system.layout.variables,
        "GATEWAY_MS": str(gateway_ms),
        "CHAIN_PAYMENT_PORT": str(ports["payment"]),
        "CHAIN_INVENTORY_PORT": str(ports["inventory"]),
    }
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, port in ports.items():
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "bench.measure.chain", name, str(port)], env=environment
            )
        for port in ports.values():
            await_listening(port)
        pids = {_GROUPS[name]: process.pid for name, process in running.items()}
        yield ports["order"], {**pids, "postgres": system.layout.pids["postgres"]}
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
