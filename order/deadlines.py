"""The deadline timer. It decides nothing: it says in the log that an order's time is up, and the saga judges.

It speaks only of orders whose results the saga must have seen if there were any: the payments and inventory of that
partition are read past the deadline, or to the ends the log had when the sweep began. A saga that was down for two
hours must not cancel orders whose results lie unread. While an order stays pending it is named again, with the same
event id.

One instance sweeps at a time: the one whose session holds an advisory lock.
"""

import threading
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from loguru import logger

from common.backoff import delays_s
from common.config import Process
from common.errors import Failure, classify, describe
from common.events import INVENTORY, PAYMENTS, DeadlineData, Milliseconds, OrderDeadlinePassed, encode, make, now
from common.kafka import Outgoing, Publisher, client_config
from common.positions import REQUEST_TIMEOUT_S, Partition
from common.positions import describe as describe_topics
from common.postgres import Conn, connect, transaction
from order import store
from order.store import Overdue

RESULTS: Final = (PAYMENTS, INVENTORY)
SWEEP_EVERY_MAX_S: Final = 10.0
SWEEPS_PER_DEADLINE: Final = 10
FROZEN_AFTER_S: Final = 3 * int(SWEEP_EVERY_MAX_S)
FULL_SWEEP_EVERY_S: Final = 600.0
"""A sweep looks at orders placed since the last one's cutoff. Those that came into the database late (a saga that
lagged, a parked event redriven) are found by a sweep over all."""


class Reading(NamedTuple):
    """How far the saga has read a partition: the offset it reads next, and the time of the record before that."""

    next_offset: int
    record_time: Milliseconds | None


def cutoffs(
    readings: Mapping[Partition, Reading], ends: Mapping[Partition, int], at: Milliseconds, deadline_ms: int
) -> dict[int, Milliseconds]:
    """For each partition number: orders placed up to this time are due. None at all where a result may lie unread."""
    found: dict[int, Milliseconds] = {}
    for partition, end in ends.items():
        reading = readings.get(partition, Reading(0, None))
        seen = at if reading.next_offset >= end else reading.record_time or Milliseconds(0)
        cutoff = Milliseconds(min(at, seen) - deadline_ms)
        found[partition.number] = min(cutoff, found.get(partition.number, cutoff))
    return found


class DeadlineTimer:
    """Sweeps until stopped. A `common.server.Task`."""

    def __init__(self, process: Process, deadline_ms: int) -> None:
        self._process = process
        self._deadline_ms = deadline_ms
        self._every_s = min(SWEEP_EVERY_MAX_S, deadline_ms / 1000 / SWEEPS_PER_DEADLINE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
        self._missing = ""
        self._log = logger.bind(task="deadlines")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def missing(self) -> list[str]:
        """Why nobody's time is watched here: empty when it is."""
        return [f"deadlines: {self._missing}"] if self._missing else []

    def _run(self) -> None:
        delays = delays_s(cap_s=SWEEP_EVERY_MAX_S)
        while not self._stopping.is_set():
            try:
                self._sweep_until_stopped()
            except Exception as error:
                self._missing = describe(error)
                if classify(error) is not Failure.TRANSIENT:
                    self._log.opt(exception=error).error("deadlines: {}", describe(error))
                else:
                    self._log.warning("deadlines: starting over: {}", describe(error))
                self._stopping.wait(next(delays))

    def _sweep_until_stopped(self) -> None:
        servers = self._process.bootstrap_servers
        admin = AdminClient(client_config(servers, self._process.instance))
        publisher = Publisher(servers, self._process.instance)
        with connect(self._process.database_url, f"{self._process.instance}-deadlines") as connection:
            # A frozen process must not keep the lock: its session ends, and another instance sweeps.
            connection.execute(f"SET idle_session_timeout = '{FROZEN_AFTER_S}s'")
            connection.commit()
            since, full_at = Milliseconds(0), time.monotonic()
            while not self._stopping.wait(self._every_s):
                if time.monotonic() - full_at > FULL_SWEEP_EVERY_S:
                    since, full_at = Milliseconds(0), time.monotonic()
                since = self.sweep(connection, admin, publisher, since)
                self._missing = ""

    def sweep(self, connection: Conn, admin: AdminClient, publisher: Publisher, since: Milliseconds) -> Milliseconds:
        """Name the orders that are due; returns from when on the next sweep has to look."""
        at = now()
        ends = _ends(admin)
        with transaction(connection):
            if not store.lead_deadlines(connection):
                return Milliseconds(0)
            readings = {
                Partition(topic, number): Reading(offset, when)
                for topic, number, offset, when in store.readings(connection, RESULTS)
            }
            due_until = cutoffs(readings, ends, at, self._deadline_ms)
            overdue = store.overdue(connection, since, due_until)
        publisher.publish(self._passed(order, at) for order in overdue)
        if overdue:
            self._log.warning("deadline passed", orders=len(overdue), first=overdue[0].order_id)
            return overdue[0].placed_at
        return max(since, min(due_until.values()))

    def _passed(self, order: Overdue, at: Milliseconds) -> Outgoing:
        data = DeadlineData(
            order_id=order.order_id, customer_id=order.customer_id, reason="deadline", deadline_ms=self._deadline_ms
        )
        event = make(OrderDeadlinePassed, data, at=at, traceparent=order.traceparent)
        return Outgoing(event.topic, order.partition, order.customer_id.encode(), encode(event))


def _ends(admin: AdminClient) -> dict[Partition, int]:
    """The ends of the result topics, read before anything else: what the saga has read up to them it has read."""
    topics = describe_topics(admin, RESULTS).values()
    partitions = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    futures = admin.list_offsets(dict.fromkeys(partitions, latest), request_timeout=REQUEST_TIMEOUT_S)
    return {Partition(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}
