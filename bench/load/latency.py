"""Latencies in HdrHistograms of microseconds, and the percentiles that the number of samples supports."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from hdrh.histogram import HdrHistogram
from msgspec import Struct

LOWEST_US: Final = 1
HIGHEST_US: Final = 600_000_000
PERCENTILES: Final = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
SAMPLES_BEYOND: Final = 5
"""A percentile with fewer samples beyond it describes single requests, not the system."""


class Latency(Struct, frozen=True, kw_only=True):
    """Milliseconds. A percentile that the samples do not support is None."""

    samples: int
    p50: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    most: float

    @property
    def percentiles(self) -> tuple[float | None, float | None, float | None, float | None]:
        return self.p50, self.p95, self.p99, self.p999


def supported(samples: int, percentile: float) -> bool:
    """Whether enough samples lie beyond a percentile."""
    return round(samples * (100 - percentile), 6) >= 100 * SAMPLES_BEYOND


def summary(values_us: Iterable[int]) -> Latency:
    """The percentiles of these values."""
    histogram = HdrHistogram(LOWEST_US, HIGHEST_US, significant_figures=3)
    # Equal values are counted first: recording costs more in Python than counting does in C.
    for value, count in Counter(values_us).items():
        histogram.record_value(min(max(value, LOWEST_US), HIGHEST_US), count)
    samples = histogram.get_total_count()
    p50, p95, p99, p999 = (
        histogram.get_value_at_percentile(percentile) / 1_000 if supported(samples, percentile) else None
        for percentile in PERCENTILES.values()
    )
    most = histogram.get_max_value() / 1_000 if samples else 0.0
    return Latency(samples=samples, p50=p50, p95=p95, p99=p99, p999=p999, most=most)
