"""Finds the highest rate that the system holds: the system's own backlog sets the offered rate.

The rate rises by a quarter at each step until there is a backlog. From then on it follows the rate of settling, and is
pulled towards a backlog worth `TARGET_S` seconds, so it settles where as many orders are decided as arrive.
(Accepting orders takes CPU from settling them, so a flood would show a lower rate than the highest one.)
"""

from collections.abc import Callable, Sequence
from statistics import linear_regression
from typing import Final

TARGET_S: Final = 0.6
PULL_S: Final = 1.0
RATE_MIN: Final = 200.0
RATE_MAX: Final = 100_000.0
STEP_MAX: Final = 1.25
GROWTH_MAX: Final = 0.01
JITTER_S: Final = 0.25
BACKLOG_MAX_S: Final = 2.0
HOLD_STEP: Final = 0.95
HOLD_TRIES: Final = 8


def next_rate(rate: float, settled_per_s: float, backlog: float, *, rising: bool) -> tuple[float, bool]:
    """The next rate, from the recent rate of settling and the number of waiting orders, and whether it is still rising.

    A rate rises until more orders wait than the time through the system explains.
    """
    if rising and backlog <= TARGET_S * rate:
        return min(RATE_MAX, rate * STEP_MAX), True
    target = settled_per_s + (TARGET_S * settled_per_s - backlog) / PULL_S
    return min(RATE_MAX, max(RATE_MIN, rate / STEP_MAX, min(target, rate * STEP_MAX))), False


def why_not_held(rate: float, times_s: Sequence[float], backlog: Sequence[float]) -> str:
    """Why a fixed rate was not held; empty when it was.

    A rate is held when the backlog grew by less than 1 % of the arrivals over the second half of the load, and was
    worth less than two seconds at the end. A short load may end with a quarter of a second more: batches vary.
    """
    half = len(times_s) // 2
    late_s, late = times_s[half:], backlog[half:]
    growth = linear_regression(late_s, late).slope if len(late) > 1 else 0.0
    if growth > GROWTH_MAX * rate and growth * (late_s[-1] - late_s[0]) > JITTER_S * rate:
        return f"the backlog grew by {growth:.0f} orders/s at {rate:.0f}/s"
    if backlog and backlog[-1] > BACKLOG_MAX_S * rate:
        return f"{backlog[-1]:.0f} orders were waiting at the end, over {BACKLOG_MAX_S:.0f} s worth"
    return ""


def highest_held(first_rate: float, why_not: Callable[[float], str]) -> tuple[float, str]:
    """The highest rate that is held, to 5 %, and a warning, if there is one.

    `why_not` tries a rate. The first rate is raised while it is held, or else lowered until it is.
    """
    rate, why = first_rate, why_not(first_rate)
    step = HOLD_STEP if why else 1 / HOLD_STEP
    for _ in range(HOLD_TRIES - 1):
        following = why_not(rate * step)
        if why and not following:
            return rate * step, ""
        if following and not why:
            return rate, ""
        rate, why = rate * step, following
    return rate, f"not held: {why}" if why else "held, and no higher rate was tried: it may be higher"
