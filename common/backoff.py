"""Exponential backoff with full jitter.

Full jitter (a delay drawn evenly from nothing to the exponential bound) spreads clients that failed together better
than a fixed or half-jittered delay: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
"""

import random
from collections.abc import Iterator

FIRST_S = 0.05
CAP_S = 5.0


def delays_s(cap_s: float = CAP_S, first_s: float = FIRST_S) -> Iterator[float]:
    """The waits of an endless series of retries, in seconds: below `first_s`, then below twice that, up to `cap_s`."""
    bound_s = first_s
    while True:
        yield random.random() * min(bound_s, cap_s)
        bound_s = min(2 * bound_s, cap_s)
