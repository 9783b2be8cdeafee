"""How many orders may be taken when more are offered than can be settled. Pure; what it is told is measured by
`order.backlog`.

As long as the consumers keep up, everything is let in. When the accepted orders that wait are worth more than
`TARGET_S` of settling, only as many are let in as are settled, less or more by what the wait differs from the target: a
proportional controller, so that any number of api processes, none of which knows of the others, find their balance. The
rest is refused before it is even read, and costs next to nothing: accepting what cannot be settled would only make all
wait.

A service that is away is no overload. While a consumer stands still, nothing can be told from its speed; orders are
taken on, up to `backlog_max`.
"""

from collections.abc import Mapping, Sequence
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
LOOKS: Final = 5
"""Over which a consumer's speed is measured."""


class Reader(NamedTuple):
    """A consumer group on a topic: how many orders it has yet to settle, about and at most, and how many it settles a
    second."""

    name: str
    waiting: float
    waiting_most: float
    settled_per_s: float
    """Infinite where nothing tells that it is slow."""


class Look(NamedTuple):
    """What was seen at one time (monotonic, in s): by consumer group and topic, the orders that it has settled, ever,
    and those that wait for it, about and at most."""

    at_s: float
    settled: Mapping[str, float]
    waiting: Mapping[str, float]
    waiting_most: Mapping[str, float]


def readers(looks: Sequence[Look]) -> list[Reader]:
    """How far the consumers are, from the last few looks, the latest last.

    A consumer's speed shows only while it has something to do. One that had nothing at some look, a moment before a
    burst, say, may be as quick as it likes.
    """
    first, last = looks[0], looks[-1]
    return [
        Reader(
            name,
            waiting,
            last.waiting_most[name],
            (last.settled[name] - first.settled[name]) / (last.at_s - first.at_s)
            if len(looks) >= LOOKS and min(look.waiting[name] for look in looks) > BACKLOG_FREE
            else inf,
        )
        for name, waiting in last.waiting.items()
    ]


class Admission(NamedTuple):
    """What may be let in, in orders a second, or everything (None): of all orders, and of those that come one by one,
    which go before batches. Nothing at all if there is a `reason`."""

    orders_per_s: float | None
    singles_per_s: float | None
    reason: str = ""


EVERYTHING: Final = Admission(None, None)


def admission(readers: list[Reader], backlog_max: int) -> Admission:
    """What to let in, given how far the consumers are. `backlog_max` is in orders."""
    fullest = max(readers, key=lambda reader: reader.waiting_most)
    if fullest.waiting_most >= backlog_max:
        reason = f"up to {fullest.waiting_most:.0f} orders wait for {fullest.name}, which is behind or away"
        return Admission(0.0, 0.0, reason)
    behind = [reader for reader in readers if reader.waiting > BACKLOG_FREE]
    if not behind or any(not reader.settled_per_s for reader in behind):
        return EVERYTHING
    slowest = max(behind, key=lambda reader: reader.waiting / reader.settled_per_s)
    wait_s = slowest.waiting / slowest.settled_per_s
    if wait_s < TARGET_S / 2:
        return EVERYTHING
    factor = 1 + TARGET_S - wait_s
    return Admission(
        slowest.settled_per_s * max(FACTOR_MIN, factor), slowest.settled_per_s * max(SINGLES_FACTOR_MIN, factor)
    )


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
