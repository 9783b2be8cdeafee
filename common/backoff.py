"""Exponential backoff with full jitter, as a pure function and as an iterator.

Full jitter (a delay drawn evenly from nothing to the exponential bound) spreads clients that failed together better
than a fixed or half-jittered delay: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
"""

import random
from collections.abc import Callable, Iterator

FIRST_S = 0.05
CAP_S = 5.0


def delay_s(attempt: int, draw: float, *, first_s: float = FIRST_S, cap_s: float = CAP_S) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0), given `draw` from [0, 1)."""
    # 2.0**1024 overflows: by attempt 60 any cap in use has long been reached.
    return draw * min(cap_s, first_s * 2.0 ** min(attempt, 60))


def delays_s(
    *, first_s: float = FIRST_S, cap_s: float = CAP_S, draw: Callable[[], float] = random.random
) -> Iterator[float]:
    """The waits of an endless series of retries, in seconds."""
    attempt = 0
    while True:
        yield delay_s(attempt, draw(), first_s=first_s, cap_s=cap_s)
        attempt += 1
