"""The highest rate that is held without a growing backlog: the governor finds it, a load at a fixed rate proves it."""

from typing import Any, Final

from bench.load import governor
from bench.measure.measured import BUCKET_S, Measured
from bench.measure.meter import Meter

FIRST_RATE: Final = 500.0
HOLD_TRIES: Final = 5
HOLD_STEP: Final = 0.95
NOT_ACCEPTED_MAX: Final = 0.001


def highest_held(
    meter: Meter, name: str, first_rate: float, govern_s: float, hold_s: float, **options: Any
) -> Measured:
    """The highest rate that is held without a growing backlog, to 5 %.

    The governor's rate is lowered until it is held. If no rate is held, the last try is returned with a warning.
    """
    lines = max(1, options.get("lines", 0))
    governed = meter.governed(f"{name}, governed", max(FIRST_RATE, first_rate) / lines, govern_s, **options)
    rate = settled_late_per_s(governed)
    for _ in range(HOLD_TRIES - 1):
        held = meter.open(f"{name}, {rate:.0f}/s", rate / lines, hold_s, **options)
        if not why_not_held(held):
            return held
        rate *= HOLD_STEP
    held = meter.open(f"{name}, {rate:.0f}/s", rate / lines, hold_s, **options)
    if why := why_not_held(held):
        held.warnings.append(f"not held: {why}")
    return held


def settled_late_per_s(governed: Measured) -> float:
    """Orders settled a second in the second half of a load, when the governor had come to rest."""
    buckets = int(governed.duration_s / BUCKET_S)
    late = governed.series.decided[buckets // 2 : buckets]
    return sum(late) / len(late) / BUCKET_S


def why_not_held(measured: Measured) -> str:
    """Why the rate of a load was not held; empty when it was."""
    rate = measured.offered_per_s * measured.orders_a_request
    buckets = int(measured.duration_s / BUCKET_S)
    times = [number * BUCKET_S for number in range(buckets)]
    if why := governor.why_not_held(rate, times, measured.series.backlog[:buckets]):
        return why
    offered = rate * measured.duration_s
    if measured.orders < offered * (1 - NOT_ACCEPTED_MAX):
        return f"{offered - measured.orders:.0f} of {offered:.0f} orders were not accepted"
    return ""
