"""Measures the chain that Tandem replaces, with the same generator, on databases of its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from bench.chain.services import CREATED
from bench.load.latency import summary
from bench.load.runner import GeneratorFailed, Records
from bench.load.spec import Spec
from bench.load.wire import Population
from bench.measure import servers
from bench.measure.result import ChainPoint
from bench.stack.system import System
from dev.settings import free_ports

GATEWAY_MS: Final = (0, 50, 800)
CONNECTIONS: Final = (32, 128, 512, 1_024)
WARM_UP_S: Final = 2.0


def measure(directory: Path, reference_per_s: float, duration_s: float, say: Callable[[str], None]) -> list[ChainPoint]:
    """A point for each gateway delay."""
    points = []
    with System(directory / "chain", databases_only=True) as system:
        for gateway_ms in GATEWAY_MS:
            with running(system, gateway_ms) as (port, pids):
                files, orders = str(directory / "chain-load"), Population(seed=gateway_ms + 100)
                load = Spec(port=port, mode="closed", duration_s=duration_s, connections=16, files=files)
                load = replace(load, accepted=CREATED, population=orders)
                point = _point(load, pids, gateway_ms, reference_per_s)
            points.append(point)
            say(
                f"chain, gateway {gateway_ms} ms: p50 {point.at_reference.p50 or 0:.1f} ms at {reference_per_s:g}/s; "
                f"at most {point.highest_per_s:.0f}/s with {point.connections} connections, {point.total_cpu_us:.0f} us"
            )
    return points


def _point(load: Spec, pids: dict[str, int], gateway_ms: int, reference_per_s: float) -> ChainPoint:
    _run(replace(load, duration_s=WARM_UP_S), pids)
    reference, _ = _run(replace(load, mode="open", rate=reference_per_s, connections=512), pids)
    at_reference = summary(reference.accept_us())
    points = []
    for connections in CONNECTIONS:
        records, cpu_us = _run(replace(load, connections=connections), pids)
        points.append(
            ChainPoint(
                gateway_ms=gateway_ms,
                at_reference=at_reference,
                highest_per_s=records.result.requests / records.result.elapsed_s,
                connections=connections,
                at_highest=summary(records.accept_us()),
                cpu_us=cpu_us,
            )
        )
    return max(points, key=lambda point: point.highest_per_s)


def _run(load: Spec, pids: Mapping[str, int]) -> tuple[Records, dict[str, float]]:
    records, cpu_us = servers.drive(load, pids)
    if failed := {status: count for status, count in records.by_status.items() if status != CREATED}:
        raise GeneratorFailed(f"the chain gave answers other than {CREATED}: {failed}")
    return records, cpu_us


@contextmanager
def running(system: System, gateway_ms: int) -> Iterator[tuple[int, dict[str, int]]]:
    """The three services of the chain. Yields order's port, and the processes to account for by name."""
    ports = dict(zip(("payment", "inventory", "order"), free_ports(3), strict=True))
    environment = {
        **system.environment(),
        "GATEWAY_MS": str(gateway_ms),
        "CHAIN_PAYMENT_PORT": str(ports["payment"]),
        "CHAIN_INVENTORY_PORT": str(ports["inventory"]),
    }
    modules = {name: ["bench.chain.services", name, str(port)] for name, port in ports.items()}
    with servers.running(modules, ports.values(), environment) as pids:
        yield ports["order"], {**pids, "postgres": system.layout.pids["postgres"]}
