"""Which of the arrived records the saga settles next: an order together with its results, so that its row is written
once. No I/O, no clock.

An order's `order.placed` comes first, the two results some milliseconds later. Written as they come, an order costs
three writes of its row. So a placed order is held back, in memory, until both of its results are there, one has
refused, or results have lately been quicker by far (`Gatherer.hold_s`); a result that came before its fellow is held
back likewise. Nothing is lost by it: the positions move only with what is settled. Nobody waits longer for an outcome
either, since there is none before the results. A pending order can be seen in the order database that much later; who
asks for it sooner is answered from the api's memory, or waits (`order.api.read.lookup`).

Of each partition a beginning is due, whatever lies behind it: positions have no holes. A record is looked at when it
comes in and when it goes on, not in between, however many are held.
"""

from collections import deque
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from common.consume.parking import Opened
from common.events import ORDERS, OrderPlaced, PaymentCompleted, StockReserved
from common.kafka.broker import Partition

HOLD_MIN_S: Final = 0.4
HOLD_MAX_S: Final = 1.5
"""An order that waits for longer is behind a backlog, or its results do not come."""
HOLD_OF_LATENESS: Final = 2.0
HELD_RECORDS_MAX: Final = 20_000
"""No more is held back, whatever it waits for: it is kept in memory, about 30 MB."""
SEEN_S: Final = 1.0
"""For how long the lateness of a result tells how late others are."""

_PAID: Final = 1
_IN_STOCK: Final = 2
_DECIDABLE: Final = _PAID | _IN_STOCK


class Gatherer:
    """What has arrived and is not due yet. See `common.consume.inbox.Arrivals`."""

    def __init__(self, most: int = HELD_RECORDS_MAX) -> None:
        self.held = 0
        self._most = most
        self._orders: dict[Partition, deque[Opened]] = {}
        self._results: dict[Partition, deque[Opened]] = {}
        self._waiting: set[str] = set()
        """Orders whose `order.placed` is held."""
        self._sides: dict[str, int] = {}
        """Of an order, which results have come; all bits are set when one has refused."""
        self._latest: dict[str, Opened] = {}
        """By topic, the last result."""

    def add(self, one: Opened) -> None:
        partition, received = one.letter.partition, one.received
        topic = partition.topic
        queues = self._orders if topic == ORDERS else self._results
        queue = queues.get(partition)
        if queue is None:
            queue = queues[partition] = deque()
        queue.append(one)
        self.held += 1
        if received is None:
            return
        event = received.event
        kind = type(event)
        if kind is OrderPlaced:
            self._waiting.add(event.subject)
        elif topic != ORDERS:
            side = _PAID if kind is PaymentCompleted else _IN_STOCK if kind is StockReserved else _DECIDABLE
            self._sides[event.subject] = self._sides.get(event.subject, 0) | side
            self._latest[topic] = one

    def due(self, at_s: float) -> list[Opened]:
        """What to settle now, orders before their results: whether a result waits depends on whether its order does."""
        until_s = at_s - self.hold_s(at_s)
        due: list[Opened] = []
        for queue in self._orders.values():
            while queue and self._is_due(queue[0], until_s):
                due.append(queue.popleft())
        if (surplus := self.held - len(due) - self._most) > 0:
            holding = [queue for queue in self._orders.values() if queue]
            for queue in holding:
                for _ in range(min(-(-surplus // len(holding)), len(queue))):
                    self._waiting.discard(_subject(queue[0]))
                    due.append(queue.popleft())
        for queue in self._results.values():
            while queue and (subject := _subject(queue[0])) not in self._waiting:
                due.append(queue.popleft())
                self._sides.pop(subject, None)
        self.held -= len(due)
        return due

    def drop(self, gone: Collection[Partition]) -> None:
        """Forget what is held of partitions that this instance no longer has."""
        kept = [
            one
            for queues in (self._orders, self._results)
            for partition, queue in queues.items()
            if partition not in gone
            for one in queue
        ]
        self._orders.clear()
        self._results.clear()
        self._waiting.clear()
        self._sides.clear()
        self.held = 0
        for one in kept:
            self.add(one)

    def hold_s(self, at_s: float) -> float:
        """How long to hold an order, in seconds: twice as long as the slower side has lately taken to answer.

        When both are quick or none answers, that is `HOLD_MIN_S`. A result's `time` is when its order was placed.
        """
        late = [_lateness_s(one) for one in self._latest.values() if at_s - one.arrived_s < SEEN_S]
        return min(HOLD_MAX_S, max(HOLD_MIN_S, HOLD_OF_LATENESS * max(late, default=0.0)))

    def _is_due(self, one: Opened, until_s: float) -> bool:
        if one.received is None or type(one.received.event) is not OrderPlaced:
            return True
        subject = one.received.event.subject
        if one.arrived_s > until_s and self._sides.get(subject) != _DECIDABLE:
            return False
        self._waiting.discard(subject)
        return True


def _subject(one: Opened) -> Any:
    return None if one.received is None else one.received.event.subject


def _lateness_s(result: Opened) -> float:
    """From when its order was placed until the result was published, by the broker's clock."""
    assert result.received is not None
    try:
        placed_s = datetime.fromisoformat(result.received.event.time).timestamp()
    except (ValueError, OverflowError):  # any text may stand there, and any year
        return 0.0
    return result.received.at / 1_000 - placed_s
