"""How many orders may be taken when more are offered than can be settled. Pure; what it is told is measured by
`order.api.log.backlog`.

As long as the consumers keep up, everything is let in. When the accepted orders that wait are worth more than
half of `TARGET_S` of settling, only as many are let in as are settled, less or more by what the wait differs from the
target: a proportional controller, so that any number of api processes, none of which knows of the others, find their
balance. The rest is refused before it is even read, and costs next to nothing: accepting what cannot be settled would
only make all wait.

A limit that still turns somebody away is not lifted when the backlog is gone, but raised step by step: otherwise an
overload that lasts would be let in and shut out in turn.

A service that is away is no overload. While a consumer stands still, nothing can be told from its speed; orders are
taken on, up to `backlog_max`.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from math import inf
from typing import Final, NamedTuple

TARGET_S: Final = 1.0
"""Half of it is always there at full speed: offsets are committed, and looked at, four times a second."""
BACKLOG_FREE: Final = 5_000
"""So few orders are no backlog, whatever the rate: some hundreds a second for the time in which a killed consumer's
partitions go to another."""
FACTOR_MIN: Final = 0.05
SINGLES_FACTOR_MIN: Final = 0.25
"""Single orders are let in at a quarter of what is settled, whatever batches have brought before. With more than three
api processes under such a load this no longer lets the backlog shrink; it ends at `backlog_max` then."""
BURST_S: Final = 0.05
LOOKS: Final = 4
"""Over so many at least a consumer's speed is measured: offsets are committed about as often as one looks, so that
fewer say little."""
LOOKS_KEPT: Final = 40
"""And over so many at most: the saga goes on by leaps."""
STANDSTILL_LOOKS: Final = 12
"""A consumer that has settled nothing over so many stands still. For a second the saga may well: it holds orders back
until their results are there."""
GAIN_PER_S: Final = 0.8
"""What a second too much of waiting takes from the limit, as a share of what is settled. What is seen is up to a second
old, so a higher gain would have the backlog swing."""
GROWTH: Final = 1.15
"""By which a limit is raised at each look, when little waits."""
LITTLE: Final = 2_500
"""In orders: what is always under way, with some batches among it, must not keep a low limit low."""
LITTLE_S: Final = 0.75
"""Or so much of what is let in."""


class Feed(NamedTuple):
    """A topic as a consumer group reads it."""

    group: str
    topic: str

    def __str__(self) -> str:
        return f"{self.group} on {self.topic}"


class Reader(NamedTuple):
    """How many orders are yet to be settled from a feed, about and at most, and how many are settled in a second."""

    feed: Feed
    waiting: float
    waiting_most: float
    settled_per_s: float
    """Infinite where nothing tells that it is slow."""


class Look(NamedTuple):
    """What was seen at one time (monotonic, in s): by feed, the orders that have been settled, ever, and those that
    wait, about and at most."""

    at_s: float
    settled: Mapping[Feed, float]
    waiting: Mapping[Feed, float]
    waiting_most: Mapping[Feed, float]


def readers(looks: Sequence[Look]) -> list[Reader]:
    """How far the consumers are, from the last looks, the latest last."""
    return [
        Reader(feed, waiting, looks[-1].waiting_most[feed], _settled_per_s(feed, looks))
        for feed, waiting in looks[-1].waiting.items()
    ]


def _settled_per_s(feed: Feed, looks: Sequence[Look]) -> float:
    """A consumer's speed shows only while it has something to do; before a burst it may be as quick as it likes."""
    runs = [list(run) for busy, run in groupby(looks, lambda look: look.waiting[feed] > BACKLOG_FREE) if busy]
    if not runs:
        return inf
    latest = runs[-1]
    if latest[-1] is looks[-1] and len(latest) >= STANDSTILL_LOOKS and stands_still(feed, looks):
        return 0.0
    for run in reversed(runs):
        moving = [look for look, after in pairwise(run) if after.settled[feed] != run[0].settled[feed]]
        if len(moving) >= LOOKS - 1:
            return (run[-1].settled[feed] - moving[0].settled[feed]) / (run[-1].at_s - moving[0].at_s)
    return inf


def stands_still(feed: Feed, looks: Sequence[Look]) -> bool:
    """Whether its whole group does: a consumer may for seconds be busy with another of its topics."""
    if len(looks) < STANDSTILL_LOOKS:
        return False
    before, now = looks[-STANDSTILL_LOOKS].settled, looks[-1].settled
    return all(now[other] == before[other] for other in now if other.group == feed.group)


class Admission(NamedTuple):
    """What may be let in, in orders a second, or everything (None): of all orders, and of those that come one by one,
    which go before batches. Nothing at all if there is a `reason`."""

    orders_per_s: float | None
    singles_per_s: float | None
    reason: str = ""


EVERYTHING: Final = Admission(None, None)


def admission(readers: list[Reader], backlog_max: int, binding_per_s: float | None = None) -> Admission:
    """What to let in, given how far the consumers are. `backlog_max` is in orders; `binding_per_s` is the limit in
    force for single orders, if it has lately turned somebody away."""
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
        if singles_per_s == inf:  # nothing tells how quick the consumers are
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
    """Lets orders in at a rate: a token bucket that holds what `BURST_S` bring."""

    def __init__(self) -> None:
        self._rate: float | None = None
        self._tokens = 0.0
        self._at_s = 0.0
        self.admitted = 0
        """Orders let in while there was a rate, ever."""

    @property
    def limited(self) -> bool:
        return self._rate is not None

    def set_rate(self, orders_per_s: float | None, at_s: float) -> None:
        if self._rate is None and orders_per_s is not None:
            self._tokens, self._at_s = 0.0, at_s
        self._rate = orders_per_s

    def admits(self, orders: int, at_s: float) -> bool:
        """Whether so many orders may come in now; those that may are counted. Many at once go into debt."""
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
