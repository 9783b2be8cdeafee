"""The deadline timer. It decides nothing: it says in the log that an order's time is up, and the saga judges.

It speaks only of orders whose results the saga must have seen if there were any: that partition of every topic is read
past the deadline, or to the end the log had when the sweep began. A saga that was down for two hours must not cancel
orders whose results lie unread. While an order stays pending it is named again, with the same event id.

It walks along the orders by the time they were placed, a slice at a time, so that a sweep costs the same however many
are stored. What is pending when it passes it watches, due or not. A second walk looks at all orders again and again:
some came into the database late, such as one whose event was parked and redriven.

One instance sweeps at a time: the one whose session holds an advisory lock.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from confluent_kafka.admin import AdminClient

from common.codec import encode
from common.config import Process
from common.events import ORDERS, READS, SAGA, DeadlineData, Milliseconds, OrderDeadlinePassed, make, now
from common.kafka import broker
from common.kafka.broker import Partition
from common.kafka.clients import client_config
from common.kafka.publisher import Outgoing, Publisher
from common.postgres import Conn, connect, transaction
from common.worker import Worker
from order.saga import store
from order.saga.store import Pending

SWEEP_EVERY_MAX_S: Final = 10.0
SWEEPS_PER_DEADLINE: Final = 10
FROZEN_AFTER_S: Final = 3 * int(SWEEP_EVERY_MAX_S)
BEHIND_EVERY_S: Final = 0.2
"""While the walk has not come to what is not due yet, as after a start."""
LAGGARD_MS: Final = 60_000
"""A partition that is read no further than so long before the furthest does not hold up the walk."""
WATCHED_MAX: Final = 10_000
"""What is pending beyond that is left to the second walk."""
JUDGED_WITHIN_S: Final = 60.0
"""For so long the timer waits until the saga has read what it was told last, before it says more. Behind a backlog it
would else say the same again and again, and lengthen it."""

_NEVER: Final = Milliseconds(0)


class Reading(NamedTuple):
    """How far the saga has read a partition: the offset it reads next, and the time of the record before that."""

    next_offset: int
    record_time: Milliseconds | None


def cutoffs(
    readings: Mapping[Partition, Reading], ends: Mapping[Partition, int], at: Milliseconds, deadline_ms: int
) -> dict[int, Milliseconds]:
    """For each partition number: orders placed up to this time are due. None at all where a result may lie unread.

    Before that time nothing is to come any more either: the orders themselves are read as far.
    """
    found: dict[int, Milliseconds] = {}
    for partition, end in ends.items():
        reading = readings.get(partition, Reading(0, None))
        seen = at if reading.next_offset >= end else reading.record_time or Milliseconds(0)
        cutoff = Milliseconds(min(at, seen) - deadline_ms)
        found[partition.number] = min(cutoff, found.get(partition.number, cutoff))
    return found


def walk_end(due_until: Mapping[int, Milliseconds]) -> Milliseconds:
    """Up to when, by the time they were placed, to look at orders: a millisecond before others may still come."""
    times = due_until.values()
    return Milliseconds(max(min(times), max(times) - LAGGARD_MS) - 1)


def to_watch(pending: Iterable[Pending]) -> set[str]:
    """Which orders to look at again at the next sweep, at most `WATCHED_MAX`: those that are not due yet before those
    that were named, and of these the newest, which a wrong clock may have named too early."""
    wanted = sorted(pending, key=lambda order: (order.due, -order.placed_at))
    return {order.order_id for order in wanted[:WATCHED_MAX]}


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
        self._told: dict[Partition, int] = {}
        """The ends of `orders` after the timer has last said something there."""
        self._told_at_s = 0.0

    def _sweep_until_stopped(self) -> None:
        servers = self._process.bootstrap_servers
        admin = AdminClient(client_config(servers, self._process.instance))
        publisher = Publisher(servers, self._process.instance)
        with connect(self._process.database_url, f"{self._process.instance}-deadlines") as connection:
            # A frozen process must not keep the lock: its session ends, and another instance sweeps.
            connection.execute(f"SET idle_session_timeout = '{FROZEN_AFTER_S}s'")
            connection.commit()
            wait_s = self._every_s
            while not self.stopping.wait(wait_s):
                wait_s = self._every_s if self.sweep(connection, admin, publisher) else BEHIND_EVERY_S
                self.report("")

    def sweep(self, connection: Conn, admin: AdminClient, publisher: Publisher) -> bool:
        """Name the orders that are due, of the next slice. Returns whether all that are due have been looked at.

        Where it has come to is noted when its words are in the log: a sweep that fails is made again.
        """
        at = now()
        ends = _log_ends(admin, READS[SAGA])  # before the positions are read: what lies below them is settled
        with transaction(connection):
            if not store.lead_deadlines(connection):
                self._walked = self._walked_again = _NEVER
                self._watched.clear()
                return True
            readings = {
                Partition(topic, number): Reading(offset, when)
                for topic, number, offset, when in store.readings(connection, READS[SAGA])
            }
            if not self._is_judged(readings):
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
        found = {order.order_id: order for order in pending}.values()
        if overdue := [order for order in found if order.due]:
            publisher.publish(self._passed(order, at) for order in overdue)
            self._log.warning("deadline passed", orders=len(overdue), first=overdue[0].order_id)
            self._told = _log_ends(admin, [ORDERS])
            self._told_at_s = time.monotonic()
        self._walked = slice_end or upto
        if slice_end is None:
            self._walked_again = again_end or _NEVER
        self._watched = to_watch(found)
        return slice_end is None

    def _is_judged(self, readings: Mapping[Partition, Reading]) -> bool:
        """Whether the saga has read what it was last told, or has had long enough to."""
        if time.monotonic() - self._told_at_s > JUDGED_WITHIN_S:
            return True
        return all(readings.get(p, Reading(0, None)).next_offset >= end for p, end in self._told.items())

    def _passed(self, order: Pending, at: Milliseconds) -> Outgoing:
        data = DeadlineData(
            order_id=order.order_id, customer_id=order.customer_id, reason="deadline", deadline_ms=self._deadline_ms
        )
        event = make(OrderDeadlinePassed, data, at=at, traceparent=order.traceparent)
        return Outgoing(event.topic, order.partition, order.customer_id.encode(), encode(event))


def _log_ends(admin: AdminClient, topics: Sequence[str]) -> dict[Partition, int]:
    return broker.log_ends(admin, broker.all_partitions(broker.describe(admin, topics).values()))
