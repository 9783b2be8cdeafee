"""What the dashboards show at a moment, as a table: every panel with the values of its expressions."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from ops.observe.dashboards import DASHBOARDS, Query

EXPORTED: Final = "tandem-kafka"
"""The dashboard of the exporter, which only Compose has."""
MIB: Final = 1024 * 1024
SERIES_MAX: Final = 6
"""Of one panel; the others are counted."""
_LABEL: Final = re.compile(r"{{(\w+)}}")

Series = tuple[Mapping[str, str], float]


def table(query: Callable[[str], list[Series]], rate_interval: str) -> str:
    """The table in Markdown. `query` gives the series of an expression now."""
    lines = ["| dashboard | panel | now |", "|---|---|---|"]
    for dashboard in DASHBOARDS:
        if dashboard.uid == EXPORTED:
            continue
        for panel in dashboard.panels:
            values = [text for each in panel.queries for text in _values(query, each, panel.unit, rate_interval)]
            more = [f"and {len(values) - SERIES_MAX} more"] if len(values) > SERIES_MAX else []
            shown = "; ".join([*values[:SERIES_MAX], *more]) or "no data"
            lines.append(f"| {dashboard.title.removeprefix('Tandem: ')} | {panel.title} | {shown} |")
    return "\n".join(lines) + "\n"


def _values(query: Callable[[str], list[Series]], wanted: Query, unit: str, rate_interval: str) -> Iterator[str]:
    for labels, value in query(wanted.expr.replace("$__rate_interval", rate_interval)):
        words = [
            labels.get(part, "") if number % 2 else part for number, part in enumerate(_LABEL.split(wanted.legend))
        ]
        yield f"{''.join(words).strip()} {readable(value, unit)}".strip()


def readable(value: float, unit: str) -> str:
    """A value in one of the units that panels have."""
    if math.isnan(value):
        return "no value"
    match unit:
        case "s":
            return f"{value * 1000:.1f} ms" if abs(value) < 1 else f"{value:.1f} s"
        case "percentunit":
            return f"{value:.2%}"
        case "bytes":
            return f"{value / MIB:.0f} MiB"
        case "reqps":
            return f"{value:.1f}/s"
    return f"{value:g}"
