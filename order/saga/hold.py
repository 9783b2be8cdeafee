"""Holds an order back until its results are there, so that the saga writes its row once. No I/O, no clock.

An order's `order.placed` arrives first, its two results some milliseconds later. Written as they arrive, an order would
cost three writes of its row. So a placed order is held, in memory, until both results are there, one side has refused,
or it has waited for longer than results lately took (`HeldOrders.hold_s`). A result whose order is held waits with it.

Behind a backlog an order may be given out before any result. Then its first result waits for the second one, for as
long as an order would, so that the row is written a second time, and not a third.

A saga with a backlog of its own reads the topics at different speeds: a request brings the same number of bytes of each
partition, and an order has more of them than a result. So a result also waits for an order that has not been read yet,
and of results that are far ahead of their orders no more are read for a while (`HeldOrders.ahead`).

Nothing is lost by it: positions move only with what is processed. No outcome comes later either, since there is none
before the results. A pending order appears in the order database that much later; until then the api answers from its
memory, or waits (`order.api.read.lookup`).

Positions have no holes, so the records of a partition are given out in order: those behind a held order wait too. A
record is examined when it comes in and when it goes out, not in between, however many are held.
"""

from collections import defaultdict, deque
from collections.abc import Collection
from datetime import datetime
from itertools import islice
from math import inf
from typing import Final

from common.consume.handler import HELD_RECORDS_MAX
from common.consume.records import Arrival
from common.events import ORDERS, READS, SAGA, Milliseconds, OrderPlaced, PaymentCompleted, StockReserved, rfc3339
from common.kafka.broker import Partition

HOLD_MIN_S: Final = 0.4
HOLD_MAX_S: Final = 1.5
"""An order that waits for longer is behind a backlog, or its results do not come."""
UNREAD_MAX_S: Final = 10.0
"""A result waits no longer than this for an order that is not read yet."""
HOLD_OF_LATENESS: Final = 2.0
BATCH_COUNTS_S: Final = 0.25
"""The most that the time of one batch counts. While the saga is busy for longer, it is the results that wait for it."""
BUSY_MAX_S: Final = 5.0
"""By so much, at most, an order is held for longer because the saga was busy."""
TOGETHER: Final = 20
"""How many records of a partition's orders are given out before the results that waited for them. A batch may end
anywhere in what is given out, and an order that comes without its results is written twice."""
TOPICS_READ: Final = len(READS[SAGA])
AHEAD_SHARE: Final = 0.5
"""A partition from which no more is read is read again when it holds this share of what it may."""
RESULTS_MAX: Final = 40_000
"""The most orders whose results are remembered; the oldest are forgotten. About 8 MB of memory."""
SEEN_S: Final = 1.0
"""For how long the lateness of a result counts."""

_PAID: Final = 1
_IN_STOCK: Final = 2
_DECIDABLE: Final = _PAID | _IN_STOCK


class HeldOrders:
    """What has arrived and is not due yet. See `common.consume.handler.Arrivals`."""

    def __init__(self) -> None:
        self.held = 0
        self.ahead: set[Partition] = set()
        self._orders: defaultdict[int, deque[Arrival]] = defaultdict(deque)
        """By the number of the partition."""
        self._results: defaultdict[int, defaultdict[str, deque[Arrival]]] = defaultdict(lambda: defaultdict(deque))
        """By the number of the partition, which is that of their orders, and by topic."""
        self._waiting: set[str] = set()
        """Orders whose `order.placed` is held."""
        self._sides: dict[str, int] = {}
        """The results that have come for each order; all bits are set when a side has refused.

        A result may come before its order, which then does not wait for it. An order that is given out is forgotten.
        """
        self._alone: dict[str, int] = {}
        """Orders that were given out before any result, with the one that has come since, if any."""
        self._latest: dict[str, Arrival] = {}
        """The last result in each topic."""
        self._read_until: dict[int, Milliseconds] = {}
        """The latest time of a record that was read of `orders`, by the number of the partition. Times may go back when
        another broker becomes the leader."""
        self._until_s = inf
        """What has arrived before this has been held for long enough."""
        self._unread_until_s = -inf
        """A result that has arrived before this no longer waits for an order that is not read yet."""

    def add(self, arrival: Arrival) -> None:
        partition, received = arrival.record.partition, arrival.received
        topic = partition.topic
        queue = self._orders[partition.number] if topic == ORDERS else self._results[partition.number][topic]
        queue.append(arrival)
        self.held += 1
        if topic == ORDERS:
            number = partition.number
            self._read_until[number] = max(arrival.record.at, self._read_until.get(number, arrival.record.at))
        if received is None:
            return
        event = received.event
        kind = type(event)
        if kind is OrderPlaced:
            self._waiting.add(event.subject)
        elif topic != ORDERS:
            side = _PAID if kind is PaymentCompleted else _IN_STOCK if kind is StockReserved else _DECIDABLE
            if event.subject not in self._alone:
                self._sides[event.subject] = self._sides.get(event.subject, 0) | side
            elif self._alone[event.subject] | side == _DECIDABLE:
                del self._alone[event.subject]
            else:
                self._alone[event.subject] = side
            self._latest[topic] = arrival

    def due(self, at_s: float) -> list[Arrival]:
        """Give out what is to be processed now. Results follow their orders soon, and wait only while those do."""
        until_s = self._until_s = self._held_until_s(at_s)
        self._unread_until_s = at_s - UNREAD_MAX_S
        due: list[Arrival] = []
        numbers = list(self._orders)
        while numbers:
            numbers = [number for number in numbers if self._give_out_some(number, until_s, due)]
        if (surplus := self.held - len(due) - HELD_RECORDS_MAX) > 0:
            holding = [queue for queue in self._orders.values() if queue]
            for queue in holding:
                share = min(-(-surplus // len(holding)), len(queue))
                due += [self._give_out(queue) for _ in range(share)]
        for number in self._results:
            self._give_out_results(number, until_s, due)
        for sides in (self._sides, self._alone):
            for subject in list(islice(sides, max(0, len(sides) - RESULTS_MAX))):
                del sides[subject]
        self.held -= len(due)
        if not self.held:
            self._until_s = inf
        self._find_those_ahead()
        return due

    def drop(self, lost: Collection[Partition]) -> None:
        """Forget the records of partitions that this instance no longer has."""
        results = (queue for queues in self._results.values() for queue in queues.values())
        kept = [
            arrival
            for queue in (*self._orders.values(), *results)
            for arrival in queue
            if arrival.record.partition not in lost
        ]
        self._orders.clear()
        self._results.clear()
        self._waiting.clear()
        self._sides.clear()
        self._alone.clear()
        self._read_until.clear()
        self.ahead -= set(lost)
        self.held = 0
        for arrival in kept:
            self.add(arrival)

    def hold_s(self, at_s: float) -> float:
        """How long to hold an order, in seconds: twice as long as the slower side has lately taken to answer.

        When both are quick or none answers, that is `HOLD_MIN_S`. A result's `time` is when its order was placed.
        """
        late = [_lateness_s(result) for result in self._latest.values() if at_s - result.arrived_s < SEEN_S]
        return min(HOLD_MAX_S, max(HOLD_MIN_S, HOLD_OF_LATENESS * max(late, default=0.0)))

    def _held_until_s(self, at_s: float) -> float:
        """The time of arrival up to which orders have been held for long enough."""
        until_s = at_s - self.hold_s(at_s)
        return max(until_s - BUSY_MAX_S, min(until_s, self._until_s + BATCH_COUNTS_S))

    def _is_due(self, arrival: Arrival, until_s: float) -> bool:
        if arrival.received is None or type(arrival.received.event) is not OrderPlaced:
            return True
        return arrival.arrived_s <= until_s or self._sides.get(arrival.received.event.subject) == _DECIDABLE

    def _give_out_some(self, number: int, until_s: float, due: list[Arrival]) -> bool:
        """Give out the next records of a partition of orders, and their results. Returns whether more may be due."""
        orders = self._orders[number]
        up_to = len(due) + TOGETHER
        while orders and len(due) < up_to and self._is_due(orders[0], until_s):
            due.append(self._give_out(orders))
        is_all = len(due) < up_to
        self._give_out_results(number, until_s, due)
        return not is_all

    def _give_out(self, orders: deque[Arrival]) -> Arrival:
        arrival = orders.popleft()
        if arrival.received is not None and type(arrival.received.event) is OrderPlaced:
            order_id = arrival.received.event.subject
            self._waiting.discard(order_id)
            if not self._sides.pop(order_id, 0):
                self._alone[order_id] = 0
        return arrival

    def _give_out_results(self, number: int, until_s: float, due: list[Arrival]) -> None:
        order_read_until = self._order_read_until(number)
        for results in self._results[number].values():
            while results and self._is_result_due(results[0], until_s, order_read_until):
                due.append(results.popleft())

    def _is_result_due(self, result: Arrival, until_s: float, order_read_until: str | None) -> bool:
        if result.received is None:
            return True
        subject = result.received.event.subject
        if subject in self._alone:
            return result.arrived_s <= until_s
        if subject in self._waiting:
            return False
        return not _is_ahead(result, order_read_until) or result.arrived_s <= self._unread_until_s

    def _find_those_ahead(self) -> None:
        """Only results: whether orders are read must not depend on how far payment and inventory are. And only those
        whose orders are not read: others wait for results that may be in the same partition."""
        waiting = {number: results for number, results in self._results.items() if any(results.values())}
        most = HELD_RECORDS_MAX / (TOPICS_READ * max(1, len(waiting)))
        ahead = set()
        for number, results in waiting.items():
            for topic, queue in results.items():
                partition = Partition(topic, number)
                enough = most * AHEAD_SHARE if partition in self.ahead else most
                if len(queue) > enough and _is_ahead(queue[-1], self._order_read_until(number)):
                    ahead.add(partition)
        self.ahead = ahead

    def _order_read_until(self, number: int) -> str | None:
        """The time up to which the orders of a partition are read, in the form of a result's `time`, which is that of
        its order's record. None before the first order."""
        read_until = self._read_until.get(number)
        return None if read_until is None else rfc3339(read_until)


def _is_ahead(result: Arrival, order_read_until: str | None) -> bool:
    """Whether the order of a result is not read yet. Of other instances' orders, before a restart for one, nothing has
    been read."""
    return (
        result.received is not None and order_read_until is not None and result.received.event.time > order_read_until
    )


def _lateness_s(result: Arrival) -> float:
    """Seconds from when its order was placed until the result was published, by the broker's clock."""
    assert result.received is not None
    try:
        placed_s = datetime.fromisoformat(result.received.event.time).timestamp()
    except (ValueError, OverflowError):  # it may be any text, and any year
        return 0.0
    return result.received.at / 1_000 - placed_s
