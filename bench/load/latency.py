"""Latencies as HdrHistograms of microseconds, and which percentiles their number of samples supports."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from hdrh.histogram import HdrHistogram
from msgspec import Struct

LOWEST_US: Final = 1
HIGHEST_US: Final = 600_000_000
SIGNIFICANT_DIGITS: Final = 3
PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)
# A percentile that fewer samples than this lie beyond is an anecdote about single requests.
SAMPLES_BEYOND: Final = 5


class Latency(Struct, frozen=True, kw_only=True):
    """A summary in milliseconds. A percentile that the samples do not support is None."""

    samples: int
    mean: float
    p50: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    most: float


def histogram(values_us: Iterable[int]) -> HdrHistogram:
    """Equal values are counted first, since recording in Python costs more than counting in C."""
    found = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
    for value, count in Counter(values_us).items():
        found.record_value(min(max(value, LOWEST_US), HIGHEST_US), count)
    return found


def supported(samples: int, percentile: float) -> bool:
    """Whether this many samples say anything about a percentile."""
    return round(samples * (100 - percentile), 6) >= 100 * SAMPLES_BEYOND


def summary(values_us: Iterable[int]) -> Latency:
    """The percentiles that the samples support, in milliseconds."""
    return summary_of(histogram(values_us))


def summary_of(found: HdrHistogram) -> Latency:
    samples = found.get_total_count()

    def at(percentile: float) -> float | None:
        return found.get_value_at_percentile(percentile) / 1_000 if supported(samples, percentile) else None

    p50, p95, p99, p999 = map(at, PERCENTILES)
    mean = found.get_mean_value() / 1_000 if samples else 0.0
    most = found.get_max_value() / 1_000 if samples else 0.0
    return Latency(samples=samples, mean=mean, p50=p50, p95=p95, p99=p99, p999=p999, most=most)
