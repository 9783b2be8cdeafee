"""How many orders are admitted when more are offered than can be settled. Pure; `order.api.log.backlog` samples.

While the consumers keep up, every order is admitted. Once the accepted orders that wait take more than half of
`TARGET_S` to settle, they are admitted at the rate at which they are settled, more or less by how far the wait is from
the target. This proportional controller lets any number of api processes, none of which knows of the others, find their
balance. All other orders are refused before they are even read, which costs next to nothing. Accepting orders that
cannot be settled would only make all of them wait.

A limit that still refuses orders is not lifted when the backlog is gone, but raised step by step. Otherwise a lasting
overload would be admitted and refused in turn.

A service that is away is no overload. While a consumer stands still, its speed says nothing; orders are admitted up to
`backlog_max`.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from math import inf
from typing import Final, NamedTuple

TARGET_S: Final = 1.0
"""Half of it is always there at full speed: offsets are committed, and sampled, four times a second."""
BACKLOG_FREE: Final = 5_000
"""Fewer orders are no backlog, whatever the rate: some hundreds a second arrive while a killed consumer's partitions go
to another."""
FACTOR_MIN: Final = 0.05
SINGLES_FACTOR_MIN: Final = 0.25
"""Single orders are admitted at a quarter of the settled rate at least, however many other requests bring. With more
than three api processes under such a load the backlog does not shrink, and grows to `backlog_max`."""
BURST_S: Final = 0.05
SAMPLES_MIN: Final = 4
"""A consumer's speed is measured over this many samples at least: offsets are committed about as often as samples are
taken, so fewer say little."""
SAMPLES_KEPT: Final = 40
"""A consumer's speed is measured over this many samples at most: the saga commits in bursts."""
STANDSTILL_SAMPLES: Final = 12
"""A consumer that has settled nothing over this many samples stands still. The saga may settle nothing for a second: it
holds orders until their results are there."""
GAIN_PER_S: Final = 0.8
"""How much a second of excess wait lowers the limit, as a share of the settled rate. Samples are up to a second old, so
a higher gain would make the backlog swing."""
GROWTH: Final = 1.15
"""The factor by which each sample raises a limit while few orders wait."""
LITTLE: Final = 2_500
"""In orders: those that are always under way must not keep a low limit low."""
LITTLE_S: Final = 0.75
"""Or, if that is more, the orders admitted in this time."""


class Feed(NamedTuple):
    """A topic as a consumer group reads it."""

    group: str
    topic: str

    def __str__(self) -> str:
        return f"{self.group} on {self.topic}"


class Reader(NamedTuple):
    """How many orders of a feed are yet to be settled, about and at most, and how many are settled in a second."""

    feed: Feed
    waiting: float
    waiting_most: float
    settled_per_s: float
    """Infinite while no sample shows that it is slow."""


class Sample(NamedTuple):
    """The backlog at one time (monotonic, in s): for each feed the orders settled so far, and those that wait, about
    and at most."""

    at_s: float
    settled: Mapping[Feed, float]
    waiting: Mapping[Feed, float]
    waiting_most: Mapping[Feed, float]


def readers(samples: Sequence[Sample]) -> list[Reader]:
    """How far each consumer group is, from the last samples, the latest last."""
    return [
        Reader(feed, waiting, samples[-1].waiting_most[feed], _settled_per_s(feed, samples))
        for feed, waiting in samples[-1].waiting.items()
    ]


def _settled_per_s(feed: Feed, samples: Sequence[Sample]) -> float:
    """A consumer's speed shows only while it has orders to settle. A burst says nothing about it."""
    runs = [list(run) for busy, run in groupby(samples, lambda sample: sample.waiting[feed] > BACKLOG_FREE) if busy]
    if not runs:
        return inf
    latest = runs[-1]
    if latest[-1] is samples[-1] and len(latest) >= STANDSTILL_SAMPLES and stands_still(feed, samples):
        return 0.0
    for run in reversed(runs):
        moving = [sample for sample, after in pairwise(run) if after.settled[feed] != run[0].settled[feed]]
        if len(moving) >= SAMPLES_MIN - 1:
            return (run[-1].settled[feed] - moving[0].settled[feed]) / (run[-1].at_s - moving[0].at_s)
    return inf


def stands_still(feed: Feed, samples: Sequence[Sample]) -> bool:
    """Whether the whole group of a feed stands still: it may be busy with another of its topics for seconds."""
    if len(samples) < STANDSTILL_SAMPLES:
        return False
    before, now = samples[-STANDSTILL_SAMPLES].settled, samples[-1].settled
    return all(now[other] == before[other] for other in now if other.group == feed.group)


class Admission(NamedTuple):
    """How many orders a second are admitted, or all (None): of all orders, and of single orders, which come first. With
    a `reason` none are."""

    orders_per_s: float | None
    singles_per_s: float | None
    reason: str = ""


EVERYTHING: Final = Admission(None, None)


def admission(readers: list[Reader], backlog_max: int, binding_per_s: float | None = None) -> Admission:
    """What to admit, given how far the consumers are. `backlog_max` is in orders; `binding_per_s` is the limit in force
    for single orders, if it has refused any lately."""
    fullest = max(readers, key=lambda reader: reader.waiting_most)
    if fullest.waiting_most >= backlog_max:
        reason = f"up to {fullest.waiting_most:.0f} orders wait for {fullest.feed}, which is behind or away"
        return Admission(0.0, 0.0, reason)
    if any(reader.waiting > BACKLOG_FREE and not reader.settled_per_s for reader in readers):
        return EVERYTHING
    if binding_per_s is None and not any(_is_behind(reader) for reader in readers):
        return EVERYTHING
    singles_per_s = min(_allowed_per_s(reader, SINGLES_FACTOR_MIN) for reader in readers)
    orders_per_s = min(_allowed_per_s(reader, FACTOR_MIN) for reader in readers)
    if binding_per_s is not None:
        if singles_per_s == inf:  # the speed of the consumers is not known
            singles_per_s = orders_per_s = binding_per_s
        if all(reader.waiting < max(LITTLE, LITTLE_S * binding_per_s) for reader in readers):
            singles_per_s = max(singles_per_s, GROWTH * binding_per_s)
            orders_per_s = max(orders_per_s, GROWTH * binding_per_s)
    return Admission(orders_per_s, singles_per_s)


def _is_behind(reader: Reader) -> bool:
    return reader.waiting > BACKLOG_FREE and reader.waiting > TARGET_S / 2 * reader.settled_per_s


def _allowed_per_s(reader: Reader, factor_min: float) -> float:
    wait_s = reader.waiting / reader.settled_per_s
    return reader.settled_per_s * max(factor_min, 1 + GAIN_PER_S * (TARGET_S - wait_s))


class Gate:
    """Admits orders at a rate: a token bucket that holds what `BURST_S` bring."""

    def __init__(self) -> None:
        self._rate: float | None = None
        self._tokens = 0.0
        self._at_s = 0.0
        self.admitted = 0
        """Orders admitted while there was a rate, ever."""

    @property
    def limited(self) -> bool:
        return self._rate is not None

    def set_rate(self, orders_per_s: float | None, at_s: float) -> None:
        if self._rate is None and orders_per_s is not None:
            self._tokens, self._at_s = 0.0, at_s
        self._rate = orders_per_s

    def admits(self, orders: int, at_s: float) -> bool:
        """Whether this number of orders is admitted now; if so, it is counted. Many at once go into debt."""
        rate = self._rate
        if rate is None:
            return True
        self._tokens = min(max(1.0, rate * BURST_S), self._tokens + rate * (at_s - self._at_s))
        self._at_s = at_s
        if self._tokens < 1.0:
            return False
        self._tokens -= orders
        self.admitted += orders
        return True
