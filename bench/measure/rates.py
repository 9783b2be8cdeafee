"""The highest rate that is held with no growing backlog: looked for by the governor, then proved at a fixed rate."""

from typing import Any, Final

from bench.load import governor
from bench.measure.meter import BUCKET_S, Measured, Meter

FIRST_RATE: Final = 500.0
HOLD_TRIES: Final = 5
HOLD_STEP: Final = 0.95
NOT_ACCEPTED_MAX: Final = 0.001


def highest_held(
    meter: Meter, name: str, first_rate: float, govern_s: float, hold_s: float, climbs: int = 0, **given: Any
) -> Measured:
    """The highest rate that is held with no growing backlog, to 5 %.

    The governor's rate is lowered until it is held; if it was held at once, it is raised up to `climbs` times. Where
    nothing is held, the last try is returned, with a warning in it that says so.
    """
    lines = max(1, given.get("lines", 0))
    governed = meter.governed(f"{name}, governed", max(FIRST_RATE, first_rate) / lines, govern_s, **given)
    rate = settled_late_per_s(governed)
    best: Measured | None = None
    tries = HOLD_TRIES
    while True:
        tries -= 1
        held = meter.open(f"{name}, {rate:.0f}/s", rate / lines, hold_s, **given)
        why = not_held(held)
        if not why:
            best = held
            if not climbs or not tries:
                return held
            climbs -= 1
            rate /= HOLD_STEP
        elif best is not None:
            return best
        else:
            climbs = 0
            rate *= HOLD_STEP
            if not tries:
                held.warnings.append(f"not held: {why}")
                return held


def settled_late_per_s(governed: Measured) -> float:
    """What was settled a second in the second half of a load, when the governor had come to rest."""
    buckets = int(governed.duration_s / BUCKET_S)
    late = governed.series.decided[buckets // 2 : buckets]
    return sum(late) / len(late) / BUCKET_S


def not_held(measured: Measured) -> str:
    """Why the rate of a load was not held; empty when it was."""
    rate = measured.offered_per_s * measured.orders_a_request
    buckets = int(measured.duration_s / BUCKET_S)
    times = [number * BUCKET_S for number in range(buckets)]
    why = governor.why_not_held(rate, times, measured.series.backlog[:buckets])
    if not why and measured.orders < rate * measured.duration_s * (1 - NOT_ACCEPTED_MAX):
        why = (
            f"{rate * measured.duration_s - measured.orders:.0f} of {rate * measured.duration_s:.0f} were not accepted"
        )
    return why
