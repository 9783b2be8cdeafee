"""How the highest rate that the system holds is found: by letting its own backlog set the offered rate.

It rises by a quarter at each step until a backlog shows. From then on it follows what is settled, pulled towards a
backlog of `TARGET_S` seconds' worth of orders, so that it comes to rest where as much is decided as arrives. (Accepting
takes from the same cores as settling, so a flood would show a lower rate, not the highest one.)
"""

from collections.abc import Sequence
from typing import Final

TARGET_S: Final = 0.6
PULL_S: Final = 1.0
RATE_MIN: Final = 200.0
RATE_MAX: Final = 100_000.0
STEP_MAX: Final = 1.25
GROWTH_MAX: Final = 0.01
JITTER_S: Final = 0.25
BACKLOG_MAX_S: Final = 2.0


def has_backlog(rate: float, backlog: float) -> bool:
    """Whether more orders wait than the way through the system explains."""
    return backlog > TARGET_S * rate


def rise(rate: float) -> float:
    """The rate to offer next as long as there is no backlog."""
    return min(RATE_MAX, rate * STEP_MAX)


def next_rate(rate: float, settled_per_s: float, backlog: float) -> float:
    """The rate to offer next, given what was settled a second lately and how many orders wait."""
    wanted = settled_per_s + (TARGET_S * settled_per_s - backlog) / PULL_S
    return min(RATE_MAX, max(RATE_MIN, rate / STEP_MAX, min(wanted, rate * STEP_MAX)))


def slope_per_s(times_s: Sequence[float], values: Sequence[float]) -> float:
    """The least-squares slope of values over time."""
    count = len(times_s)
    if count < 2:
        return 0.0
    mean_t, mean_v = sum(times_s) / count, sum(values) / count
    spread = sum((t - mean_t) ** 2 for t in times_s)
    return sum((t - mean_t) * (v - mean_v) for t, v in zip(times_s, values, strict=True)) / spread if spread else 0.0


def why_not_held(rate: float, times_s: Sequence[float], backlog: Sequence[float]) -> str:
    """Why a fixed rate was not held; empty when it was.

    Held means: over the second half of the load the backlog grew by less than 1 % of what arrived, and at its end it
    was worth less than two seconds. In a short load a quarter of a second's worth is let pass: batches come and go.
    """
    half = len(times_s) // 2
    late_s = times_s[-1] - times_s[half] if times_s else 0.0
    growth = slope_per_s(times_s[half:], backlog[half:])
    if growth > GROWTH_MAX * rate and growth * late_s > JITTER_S * rate:
        return f"the backlog grew by {growth:.0f} orders/s at {rate:.0f}/s"
    if backlog and backlog[-1] > BACKLOG_MAX_S * rate:
        return f"{backlog[-1]:.0f} orders were waiting at the end, over {BACKLOG_MAX_S:.0f} s worth"
    return ""
