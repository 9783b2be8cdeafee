"""Measures the chain that Tandem replaces, with the same generator, on databases of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from bench.chain.services import CREATED, SERVICES
from bench.load.latency import summary
from bench.load.runner import GeneratorFailed
from bench.load.spec import Records, Spec
from bench.load.wire import Population
from bench.measure import servers
from bench.measure.result import ChainPoint
from bench.stack.private import System
from dev.settings import free_ports

GATEWAY_MS: Final = (0, 50, 800)
CONNECTIONS: Final = (32, 128, 512, 1_024)
WARM_UP_S: Final = 2.0


def measure(directory: Path, reference_per_s: float, duration_s: float, say: Callable[[str], None]) -> list[ChainPoint]:
    """A point for each gateway delay."""
    points = []
    with System(directory / "chain", options=["--databases-only"]) as system:
        for gateway_ms in GATEWAY_MS:
            ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
            environment = system.environment() | {"GATEWAY_MS": str(gateway_ms)}
            environment |= {f"CHAIN_{name.upper()}_PORT": str(port) for name, port in ports.items()}
            load = Spec(port=ports["order"], mode="closed", duration_s=duration_s, connections=16, accepted=CREATED)
            load = replace(load, population=Population(seed=gateway_ms + 100))
            modules = {name: ("bench.chain.services", name) for name in SERVICES}
            with servers.running(modules, ports.values(), environment) as pids:
                pids["postgres"] = system.layout.pids["postgres"]
                point = _point(load, pids, gateway_ms, reference_per_s)
            points.append(point)
            say(
                f"chain, gateway {gateway_ms} ms: p50 {point.at_reference.p50 or 0:.1f} ms at {reference_per_s:g}/s; "
                f"at most {point.highest_per_s:.0f}/s with {point.connections} connections, {point.total_cpu_us:.0f} us"
            )
    return points


def _point(load: Spec, pids: Mapping[str, int], gateway_ms: int, reference_per_s: float) -> ChainPoint:
    _run(replace(load, duration_s=WARM_UP_S), pids)
    reference, _ = _run(replace(load, mode="open", rate=reference_per_s, connections=512), pids)
    loads = [_run(replace(load, connections=connections), pids) for connections in CONNECTIONS]
    highest, cpu_us = max(loads, key=lambda load: load[0].per_s)
    return ChainPoint(
        gateway_ms=gateway_ms,
        at_reference=summary(reference.accept_us()),
        highest_per_s=highest.per_s,
        connections=highest.connections,
        at_highest=summary(highest.accept_us()),
        cpu_us=cpu_us,
    )


def _run(load: Spec, pids: Mapping[str, int]) -> tuple[Records, dict[str, float]]:
    records, cpu_us = servers.drive(load, pids)
    if failed := {status: count for status, count in records.by_status.items() if status != CREATED}:
        raise GeneratorFailed(f"the chain gave answers other than {CREATED}: {failed}")
    return records, cpu_us
