"""The deadline timer publishes `order.deadline_passed` for orders that are overdue. The saga decides what follows.

An order is due only if the saga would have seen its results: it has read the order's partition of every topic past the
deadline, or to the end that the log had when the sweep began. A saga that was down for two hours must not cancel orders
whose results are unread. The event is published again, with the same id, while the order stays pending.

A sweep reads the next slice of the orders, by the time they were placed, so it costs the same however many are stored.
Orders that are pending then, due or not, are watched: every sweep reads them again. A second walk reads all orders over
and over, since some are stored late, such as one whose event was parked and redriven.

One instance sweeps at a time: the one whose session has the advisory lock.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Final

from common.codec import encode
from common.config.process import Process
from common.events import ORDERS, READS, SAGA, DeadlineData, Milliseconds, OrderDeadlinePassed, make, now
from common.kafka import broker
from common.kafka.broker import Partition
from common.kafka.clients import client_config
from common.kafka.identity import AdminClient
from common.kafka.produce.batch import Outgoing
from common.kafka.publisher import Publisher
from common.postgres import Conn, connect, lead, transaction
from common.tracing.live import tracer_of
from common.worker import Worker
from order.saga import store
from order.saga.store import Pending, Reading

ROLE: Final = "order deadlines"
SWEEP_EVERY_MAX_S: Final = 10.0
SWEEPS_PER_DEADLINE: Final = 10
FROZEN_AFTER_S: Final = 3 * int(SWEEP_EVERY_MAX_S)
BEHIND_EVERY_S: Final = 0.2
"""The pause between sweeps while the walk is behind, as after a start."""
LAGGARD_MS: Final = 60_000
"""A partition that is read this much less far than the furthest one does not delay the walk."""
WATCHED_MAX: Final = 10_000
"""More pending orders are left to the second walk."""
READ_WITHIN_S: Final = 60.0
"""The longest time to wait until the saga has read the last events of the timer. Otherwise the timer would publish the
same events again behind a backlog, and make it longer."""

_NEVER: Final = Milliseconds(0)


def cutoffs(
    readings: Mapping[Partition, Reading], ends: Mapping[Partition, int], at: Milliseconds, deadline_ms: int
) -> dict[int, Milliseconds]:
    """For each partition number, the time up to which placed orders are due: none of their results can be unread.

    All orders placed up to that time are stored too, or parked.
    """
    due_until: dict[int, Milliseconds] = {}
    for partition, end in ends.items():
        reading = readings.get(partition, Reading(0, None))
        seen = at if reading.next_offset >= end else reading.record_time or Milliseconds(0)
        cutoff = Milliseconds(min(at, seen) - deadline_ms)
        due_until[partition.number] = min(cutoff, due_until.get(partition.number, cutoff))
    return due_until


def walk_end(due_until: Mapping[int, Milliseconds]) -> Milliseconds:
    """The time up to which the walk may read placed orders: a millisecond before more may be stored."""
    times = due_until.values()
    return Milliseconds(max(min(times), max(times) - LAGGARD_MS) - 1)


def to_watch(pending: Iterable[Pending]) -> set[str]:
    """The orders to read again at the next sweep, at most `WATCHED_MAX`: first those not due yet, then the newest of
    the others, which a wrong clock may have made due too early."""
    ranked = sorted(pending, key=lambda order: (order.due, -order.placed_at))
    return {order.order_id for order in ranked[:WATCHED_MAX]}


class DeadlineTimer(Worker):
    """Sweeps until stopped, whatever fails: without it, an order with no results stays pending for ever."""

    def __init__(self, process: Process, deadline_ms: int) -> None:
        super().__init__("deadlines", self._sweep_until_stopped, retries_fatal=True, delay_max_s=SWEEP_EVERY_MAX_S)
        self.report("")
        self._process = process
        self._deadline_ms = deadline_ms
        self._every_s = min(SWEEP_EVERY_MAX_S, deadline_ms / 1000 / SWEEPS_PER_DEADLINE)
        self._walked = self._walked_again = _NEVER
        self._watched: set[str] = set()
        self._published_to: dict[Partition, int] = {}
        """The ends of `orders` after the last events of the timer."""
        self._published_at_s = 0.0
        self._tracer = tracer_of(SAGA, process.tracing)

    def _sweep_until_stopped(self) -> None:
        brokers = self._process.brokers
        admin = AdminClient(client_config(brokers, self._process.instance))
        url, name = self._process.database_url, f"{self._process.instance}-deadlines"
        # A frozen process must not keep the lock: its session ends, and another instance sweeps.
        with (
            closing(Publisher(brokers, self._process.instance)) as publisher,
            connect(url, name, idle_timeout_s=FROZEN_AFTER_S) as connection,
        ):
            wait_s = self._every_s
            while not self.stopping.wait(wait_s):
                wait_s = self._every_s if self.sweep(connection, admin, publisher) else BEHIND_EVERY_S
                self.report("")

    def sweep(self, connection: Conn, admin: AdminClient, publisher: Publisher) -> bool:
        """Publish for the due orders of the next slice. Returns whether all due orders have been read.

        The walk goes on only after the events are in the log: a sweep that fails is repeated.
        """
        at = now()
        ends = broker.topic_ends(admin, READS[SAGA])  # before the positions are read: what lies below them is settled
        with transaction(connection):
            if not lead(connection, ROLE):
                self._walked = self._walked_again = _NEVER
                self._watched.clear()
                return True
            readings = store.readings(connection, READS[SAGA])
            if not self._has_read_last(readings):
                return False
            due_until = cutoffs(readings, ends, at, self._deadline_ms)
            upto = walk_end(due_until)
            walked = min(self._walked, upto)  # a clock that was ahead has been put right
            slice_end = store.slice_end(connection, walked, upto)
            pending = store.pending(connection, walked, slice_end or upto, due_until, self._watched)
            again_end = None
            if slice_end is None:
                again_end = store.slice_end(connection, self._walked_again, upto)
                pending += store.pending(connection, self._walked_again, again_end or upto, due_until)
        orders = {order.order_id: order for order in pending}.values()
        if overdue := [(order.partition, self._deadline_passed(order, at)) for order in orders if order.due]:
            self._publish(overdue, publisher)
            self._log.warning("deadline passed", orders=len(overdue), first=overdue[0][1].subject)
            self._published_to = broker.topic_ends(admin, [ORDERS])
            self._published_at_s = time.monotonic()
        self._walked = slice_end or upto
        if slice_end is None:
            self._walked_again = again_end or _NEVER
        self._watched = to_watch(orders)
        return slice_end is None

    def _has_read_last(self, readings: Mapping[Partition, Reading]) -> bool:
        """Whether the saga has read the last events of the timer, or has had long enough to."""
        if time.monotonic() - self._published_at_s > READ_WITHIN_S:
            return True
        return all(readings.get(p, Reading(0, None)).next_offset >= end for p, end in self._published_to.items())

    def _deadline_passed(self, order: Pending, at: Milliseconds) -> OrderDeadlinePassed:
        data = DeadlineData(
            order_id=order.order_id, customer_id=order.customer_id, reason="deadline", deadline_ms=self._deadline_ms
        )
        return make(OrderDeadlinePassed, data, at=at, traceparent=order.traceparent)

    def _publish(self, overdue: Sequence[tuple[int, OrderDeadlinePassed]], publisher: Publisher) -> None:
        if self._tracer is not None:
            self._tracer.watched(overdue)
        publisher.publish(
            Outgoing(event.topic, partition, event.partitionkey.encode(), encode(event)) for partition, event in overdue
        )
        if self._tracer is not None:
            self._tracer.published()
            self._tracer.end_without_batch()
