"""What every process counts. Names follow Prometheus' conventions: base units, `_total` for counters, bounded labels.

What stands here is counted once a batch or once a request, or asked for only when somebody scrapes.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

STAGE_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a line more a counter in each scrape, and nothing asks for it

batches = Counter("tandem_batches_total", "Batches committed.", ["group"])
records = Counter("tandem_records_total", "Records processed, by whether they were new or repeats.", ["group", "kind"])
parked = Counter("tandem_parked_total", "Events parked, as root causes or behind one.", ["group", "as"])
published = Counter("tandem_published_total", "Records published and acknowledged.", ["group"])
stage_seconds = Histogram(
    "tandem_batch_stage_seconds",
    "Time a batch spends in a stage: store, publish or commit.",
    ["group", "stage"],
    buckets=STAGE_BUCKETS_S,
)
failures = Counter(
    "tandem_failures_total", "Failures of a batch or of a thread (group), by class: transient or fatal.",
    ["group", "failure"],
)  # fmt: skip
lag = Gauge(
    "tandem_lag_records",
    "Records that this instance has yet to process, as of its last fetch: it stands still while the consumer waits.",
    ["group", "topic"],
)
http_requests = Counter("tandem_http_requests_total", "Responses, by route and status.", ["method", "route", "status"])
oldest_snapshot_s = Gauge(
    "tandem_database_oldest_transaction_seconds", "Age of the oldest open transaction in the database.", ["group"]
)
ready = Gauge("tandem_ready", "Whether /readyz answers 200: 1 or 0.")
degraded = Gauge("tandem_degraded", "How many things /readyz lists as degraded.")
loss_detected = Gauge(
    "tandem_loss_detected", "Whether a consumer or a thread (group) has detected a loss and waits: 1 or 0.", ["group"]
)
worker_ended = Gauge(
    "tandem_worker_ended", "Whether a consumer or a thread (group) has ended for good and waits for an operator.",
    ["group"],
)  # fmt: skip
certificate_expiry = Gauge(
    "tandem_certificate_expiry_timestamp_seconds",
    "When a certificate in use expires, in seconds since 1970: what this process shows, and the authorities that it "
    "trusts; in the console, also those of Kafka and of the databases.",
    ["certificate"],
)
pool_in_use = Gauge(
    "tandem_pool_in_use", "What is taken of a pool, with those that wait for a place in a database pool.", ["pool"]
)
pool_limit = Gauge("tandem_pool_limit", "The size of a pool.", ["pool"])


def watch_pool(name: str, limit: float, in_use: Callable[[], float]) -> None:
    """Show how much of a pool is taken: `in_use` is called at each scrape, and never in between."""
    pool_limit.labels(name).set(limit)
    pool_in_use.labels(name).set_function(in_use)


class BatchHistogram(Collector):
    """A histogram for values that come by the thousand. A value costs a bisection of its bounds; one passed to
    `Histogram.observe` costs five times as much. Belongs to one thread; a scrape may see half a batch."""

    def __init__(
        self, name: str, documentation: str, buckets: Sequence[float], registry: CollectorRegistry = REGISTRY
    ) -> None:
        """`buckets` are the upper bounds, rising, in the unit that the name ends with."""
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(map(float, buckets))
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_all(self, values: Iterable[float]) -> None:
        counts, bounds = self._counts, self._bounds
        total = 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self._sum += total

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._documentation)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        cumulative, buckets = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            cumulative += count
            buckets.append((bound, cumulative))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)
