"""How many orders are admitted, and how long they linger, given how far the consumers are. Pure; `backlog` samples.

The log absorbs bursts. Orders are admitted as long as all that wait can be settled within `settle_within_s`, judged by
what the consumers have settled lately. Beyond that, orders are refused before they are read, and the wait stays as it
is: each sample leaves room for as many orders as have been settled since the one before.

A service that is away is another case. While a consumer stands still, or has had too little to do to show its speed,
orders are admitted up to `backlog_max`.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil, inf
from typing import Final, NamedTuple

SAMPLE_EVERY_S: Final = 0.25
CALM_SAMPLE_EVERY_S: Final = 1.0
"""A sample is four requests to the broker. While hardly an order waits, nothing is decided by it."""
CALM_ROOM_MIN: Final = 50_000
"""More orders than can arrive between two samples, in all processes."""
SAMPLES_KEPT: Final = 40
SPEED_S: Final = 10.0
"""A consumer's speed is that of so many seconds. The saga commits in bursts: the last second says little."""
BUSY_ORDERS: Final = 1_000
"""A consumer shows its speed while more orders than this wait for it."""
BUSY_SAMPLES_MIN: Final = 8
"""Two seconds of work show a consumer's speed; offsets are committed about as often as samples are taken."""
STANDSTILL_SAMPLES: Final = 12
"""A group that settles nothing over this many samples is away: three seconds, or more while hardly an order waits. The
saga may settle nothing for a second: it holds orders until their results are there."""
MANY_SHARE: Final = 0.5
"""Requests with many orders are refused at this share of the limit: single orders come first."""
LINGER_MAX_S: Final = 0.01
LINGER_SHARE: Final = 0.08
"""The share of the wait beyond `UNSEEN_S` that orders linger."""
UNSEEN_S: Final = 0.3
"""Orders seem to wait this long even when they do not: offsets are committed four times a second."""


class Feed(NamedTuple):
    """A topic as a consumer group reads it."""

    group: str
    topic: str

    def __str__(self) -> str:
        return f"{self.group} on {self.topic}"


class Sample(NamedTuple):
    """The backlog at one time (monotonic, in s): for each feed the orders settled so far, and those that wait. Each
    record counts as an order, so one that was refused or cancelled counts twice on `orders`."""

    at_s: float
    settled: Mapping[Feed, float]
    waiting: Mapping[Feed, float]


class Admission(NamedTuple):
    """Until the next sample: how many single orders are admitted, and how many in requests with many."""

    singles: float = inf
    many: float = inf
    wait_s: float = 0.0
    """How long an order waits for the slowest consumer; 0 while no speed is known."""
    reason: str = ""
    """Why nothing more is admitted after that; empty while there is no limit."""
    retry_after_s: int = 1


EVERYTHING: Final = Admission()


def admission(samples: Sequence[Sample], settle_within_s: float, backlog_max: int) -> Admission:
    """What to admit, from the last samples, the latest last. `backlog_max` is in orders."""
    latest = samples[-1]
    admitted = EVERYTHING
    for feed, waiting in latest.waiting.items():
        settled_per_s = speed(feed, samples)
        limit = min(float(backlog_max), settle_within_s * settled_per_s)
        if limit - waiting < admitted.singles:
            admitted = admitted._replace(
                singles=max(0.0, limit - waiting),
                many=max(0.0, MANY_SHARE * limit - waiting),
                reason=f"{waiting:,.0f} orders wait for {feed}, which is behind or away",
                retry_after_s=1 if settled_per_s == inf else 1 + ceil(max(0.0, waiting - limit) / settled_per_s),
            )
        admitted = admitted._replace(wait_s=max(admitted.wait_s, waiting / settled_per_s))
    return admitted


def next_sample_s(latest: Sample, admitted: Admission) -> float:
    """Seconds until the next sample: few while no consumer is behind and no limit is near."""
    is_behind = any(waiting > BUSY_ORDERS for waiting in latest.waiting.values())
    is_calm = not is_behind and admitted.many >= CALM_ROOM_MIN
    return CALM_SAMPLE_EVERY_S if is_calm else SAMPLE_EVERY_S


def speed(feed: Feed, samples: Sequence[Sample]) -> float:
    """Orders that a consumer settles in a second while it has work; infinite while that is not known."""
    if _stands_still(feed, samples):
        return inf
    busy = [
        (after.at_s - before.at_s, after.settled[feed] - before.settled[feed])
        for before, after in pairwise(samples)
        if min(before.waiting[feed], after.waiting[feed]) > BUSY_ORDERS and before.at_s >= samples[-1].at_s - SPEED_S
    ]
    settled = sum(orders for _, orders in busy)
    return settled / sum(seconds for seconds, _ in busy) if len(busy) >= BUSY_SAMPLES_MIN and settled else inf


def _stands_still(feed: Feed, samples: Sequence[Sample]) -> bool:
    """Whether the whole group of a feed stands still: it may be busy with another of its topics for seconds."""
    if len(samples) < STANDSTILL_SAMPLES:
        return False
    before, now = samples[-STANDSTILL_SAMPLES].settled, samples[-1].settled
    return all(now[other] == before[other] for other in now if other.group == feed.group)


def linger_s(least_s: float, wait_s: float) -> float:
    """Seconds that orders linger before they are sent to Kafka together.

    A request to the broker costs nearly the same however many orders are in it. While orders wait to be settled, a
    small share of the wait moves before the answer: none settles later because of it, and the machine settles more.
    """
    return max(least_s, min(LINGER_MAX_S, LINGER_SHARE * (wait_s - UNSEEN_S)))
