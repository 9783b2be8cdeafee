"""Pure: what the metrics of an instance say, and percentiles out of histograms.

Only the metrics named here are parsed, by one regular expression: the library's parser takes ten times as long.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

NAMES: Final = (
    "http_requests_total", "order_batch_lines_total", "order_accept_seconds_bucket", "pool_in_use",
    "backlog_orders", "backlog_wait_seconds", "batches_total", "records_total", "published_total",
    "batch_stage_seconds_sum",
)  # fmt: skip
"""Without the prefix that all of them have."""
ORDERS_ROUTE: Final = "/api/v1/orders"
HISTORY_S: Final = 15 * 60
POINT_S: Final = 10
POINTS: Final = HISTORY_S // POINT_S
QUANTILES: Final = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}

_LINE: Final = re.compile(rf"^tandem_({'|'.join(NAMES)})(?:\{{([^\n]*)\}})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = tuple[tuple[str, str], ...]
Values = Mapping[tuple[str, Labels], float]
"""By name and labels."""
Counts = Mapping[float, float]
"""How many observations fell into each bucket of a histogram, by its upper bound in seconds; not cumulative."""


def parse(text: str) -> dict[tuple[str, Labels], float]:
    """The values of the metrics that the console shows."""
    return {(name, tuple(_LABEL.findall(labels))): float(value) for name, labels, value in _LINE.findall(text)}


def total(values: Values, name: str, **labels: str) -> float:
    """The sum of a metric's values that have these labels; 0 without any."""
    wanted = set(labels.items())
    return sum(value for (known, has), value in values.items() if known == name and wanted <= set(has))


def requests(values: Values) -> dict[str, float]:
    """How many orders an api has accepted, refused and failed to take since it started: alone and many at once."""
    counts = {"accepted": 0.0, "refused": 0.0, "failed": 0.0}
    for (name, has), value in values.items():
        labels = dict(has)
        is_order = name == "http_requests_total" and labels["method"] == "POST" and labels["route"] == ORDERS_ROUTE
        if is_order or name == "order_batch_lines_total":
            counts[_outcome(int(labels["status"]))] += value
    return counts


def _outcome(status: int) -> str:
    if status < 400:
        return "accepted"
    return "refused" if status < 500 or status == 503 else "failed"


def buckets(values: Values, name: str) -> dict[float, float]:
    """The cumulative counts of a histogram without further labels, by the upper bounds of its buckets in seconds."""
    found = {float(dict(has)["le"]): value for (known, has), value in values.items() if known == f"{name}_bucket"}
    return dict(sorted(found.items()))


def increments(before: Counts, after: Counts) -> dict[float, float]:
    """How many observations each bucket got, given cumulative counts. A process that has restarted counts from 0."""
    if any(after.get(bound, 0.0) < count for bound, count in before.items()):
        before = {}
    grown, lower = {}, 0.0
    for bound, count in after.items():
        more = count - before.get(bound, 0.0)
        grown[bound] = max(0.0, more - lower)
        lower = more
    return grown


def quantile(counts: Counts, share: float) -> float | None:
    """The value in seconds below which this share of the observations is, drawn evenly within its bucket; None without
    an observation. In the last bucket, which has no upper bound, it is the lower one."""
    wanted = share * sum(counts.values())
    if not wanted:
        return None
    lower, seen = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if seen + count >= wanted and count:
            return lower if bound == float("inf") else lower + (bound - lower) * (wanted - seen) / count
        lower, seen = bound, seen + count
    return lower


def of_values(seconds: Iterable[float], bounds: Iterable[float]) -> dict[float, float]:
    """Values sorted into the buckets of a histogram."""
    edges = [*sorted(bounds), float("inf")]
    counts = dict.fromkeys(edges, 0.0)
    for value in seconds:
        counts[next(edge for edge in edges if value <= edge)] += 1
    return counts


def merged(several: Iterable[Counts]) -> dict[float, float]:
    sums: dict[float, float] = {}
    for counts in several:
        for bound, count in counts.items():
            sums[bound] = sums.get(bound, 0.0) + count
    return sums


def percentiles(counts: Counts) -> dict[str, float | None]:
    """p50, p95 and p99 in milliseconds, and the number of observations."""
    answer: dict[str, float | None] = {}
    for name, share in QUANTILES.items():
        value = quantile(counts, share)
        answer[name] = None if value is None else round(value * 1e3, 2)
    return answer | {"count": round(sum(counts.values()))}


@dataclass
class Latency:
    """A histogram of the last 15 minutes, in intervals of `POINT_S`. Its size is fixed."""

    intervals: deque[Counts] = field(default_factory=lambda: deque(maxlen=POINTS))
    pending: list[Counts] = field(default_factory=list)

    def add(self, counts: Counts) -> None:
        """Observations of the present interval."""
        self.pending = [merged([*self.pending, counts])]

    def end_interval(self) -> dict[str, float | None]:
        """Begin the next interval; returns the percentiles of the one that ends."""
        counts = merged(self.pending)
        self.pending = []
        self.intervals.append(counts)
        return percentiles(counts)

    def window(self) -> dict[str, float | None]:
        """The percentiles of the last 15 minutes."""
        return percentiles(merged([*self.intervals, *self.pending]))
