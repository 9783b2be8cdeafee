"""How long orders linger before they are sent to Kafka together. Pure; `order.api.log.backlog` takes the samples.

A request to the broker costs nearly the same however many orders are in it. The longer orders linger, the cheaper each
is, and the longer its client waits. While orders are settled as quickly as they arrive, they linger for the least time.
When accepted orders wait to be settled, a small share of that wait moves before the answer. No order settles later
because of it, and the machine settles more.
"""

from collections.abc import Sequence
from typing import Final

from order.api.log.admission import SAMPLES_MIN, Sample, stands_still

LINGER_MAX_S: Final = 0.02
UNSEEN_S: Final = 0.3
"""Orders seem to wait this long even when they do not: offsets are committed, and sampled, four times a second."""
SHARE: Final = 0.08
"""The share of the wait beyond `UNSEEN_S` that orders linger."""
WAITING_MIN: Final = 300.0
"""With fewer orders waiting a longer linger gains nothing."""


def linger_s(least_s: float, samples: Sequence[Sample]) -> float:
    """Seconds to linger, at least `least_s`, given the last samples, the latest last."""
    return max(least_s, min(LINGER_MAX_S, SHARE * (waited_s(samples) - UNSEEN_S)))


def waited_s(samples: Sequence[Sample]) -> float:
    """How many seconds an order waits for the slowest reader: those that wait over those settled in a second (J. D. C.
    Little, 1961). 0 while few wait, while there are too few samples, and while a reader stands still, which a longer
    linger would not help."""
    lately = samples[-SAMPLES_MIN:]
    if len(lately) < SAMPLES_MIN:
        return 0.0
    first, last = lately[0], lately[-1]
    if any(waiting >= WAITING_MIN and stands_still(feed, samples) for feed, waiting in last.waiting.items()):
        return 0.0
    waits_s = [0.0]
    for feed in last.waiting:
        waiting = sum(sample.waiting[feed] for sample in lately) / SAMPLES_MIN
        settled_per_s = (last.settled[feed] - first.settled[feed]) / (last.at_s - first.at_s)
        if waiting >= WAITING_MIN and settled_per_s > 0:
            waits_s.append(waiting / settled_per_s)
    return max(waits_s)
