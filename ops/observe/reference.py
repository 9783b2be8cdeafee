"""The tables of metrics and alerts in docs/OPERATIONS.md, made from the code."""

import importlib
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ops.observe.gauges import Gauges, ProofGauges
from ops.observe.rules import RUNBOOKS, SLO_SECTION, duration
from ops.observe.slos import BURNS, SLOS
from ops.observe.symptoms import SYMPTOMS

METERED: Final = (
    "common.metrics",
    "common.http.connections",
    "order.api.app",
    "order.saga.consumer",
)
"""The modules with which all metrics of the services are loaded."""


def metrics_table() -> list[str]:
    """The metrics of the services."""
    for module in METERED:
        importlib.import_module(module)
    return _table(REGISTRY)


def console_table() -> list[str]:
    """The metrics of the console."""
    registry = CollectorRegistry()
    Gauges(registry)
    ProofGauges(registry)
    return _table(registry)


def _table(registry: CollectorRegistry) -> list[str]:
    rows = sorted(
        f"| `{name}` | {family.type} | {', '.join(_labels(collector)) or 'none'} | {family.documentation} |"
        for collector, names in registry._collector_to_names.items()
        for family in (next(iter(_described(collector)), None),)
        if family is not None and names[0].startswith("tandem_")
        for name in (family.name + ("_total" if family.type == "counter" else ""),)
    )
    return ["| metric | type | labels | |", "|---|---|---|---|", *rows]


def _described(collector: Collector) -> Sequence["Metric"]:
    describe = getattr(collector, "describe", collector.collect)
    return list(describe())


def _labels(collector: Collector) -> Sequence[str]:
    return collector._labelnames if isinstance(collector, Counter | Gauge | Histogram) else ()


def alerts_table() -> list[str]:
    """The alerts, those of the SLOs first."""
    return ["| alert | severity | when | see |", "|---|---|---|---|", *_slo_rows(), *_symptom_rows()]


def _slo_rows() -> Iterator[str]:
    burns = "; ".join(
        f"{burn.factor:g}x over {duration(burn.long_s)} and {duration(burn.short_s)}: {burn.severity}" for burn in BURNS
    )
    for slo in SLOS:
        yield f"| `{slo.alert}` | by burn rate | not: {slo.summary} ({burns}) | [runbook](#{SLO_SECTION}) |"


def _symptom_rows() -> Iterator[str]:
    for alert in SYMPTOMS:
        expr = alert.expr.replace("$age", duration(alert.age_s) if "[$age]" in alert.expr else str(alert.age_s))
        lasting = f", for {duration(alert.for_s)}" if alert.for_s else ""
        when = f"`{expr}`{lasting}".replace("|", "\\|")
        yield f"| `{alert.name}` | {alert.severity} | {when} | [runbook](#{alert.section}) |"


def with_tables(page: str) -> str:
    """The text of docs/OPERATIONS.md with its tables as they must be. Raises `ValueError` if a place is not there."""
    for name, lines in {"metrics": metrics_table(), "console": console_table(), "alerts": alerts_table()}.items():
        begin, end = f"<!-- {name}: made by ops.observe -->\n", f"<!-- end of {name} -->"
        if end not in page.partition(begin)[2]:
            raise ValueError(f"{RUNBOOKS} has no place for the table of {name}: {begin.strip()!r} to {end!r}")
        before, _, rest = page.partition(begin)
        page = "\n".join([before + begin, *lines, "", end]) + rest.partition(end)[2]
    return page
