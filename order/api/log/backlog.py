"""How many accepted orders are not settled yet, and whether more can be admitted.

A thread asks the broker now and then where the topics end and what each consumer group has committed: a few requests,
whatever the load. The event loop only counts.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from loguru import logger
from prometheus_client import Counter, Gauge

from common.errors import Transient
from common.events import READERS, READS, SAGA
from common.http import problem
from common.http.problem import Problem
from common.kafka import broker
from common.kafka.broker import Partition
from common.kafka.clients import client_config
from common.kafka.identity import AdminClient, Consumer
from common.worker import Worker
from order.api.log.admission import (
    EVERYTHING,
    SAMPLE_EVERY_S,
    SAMPLES_KEPT,
    Admission,
    Feed,
    Sample,
    admission,
    next_sample_s,
)
from order.api.responses import PLACED_NOTHING
from order.config import Api

STOP_TIMEOUT_S: Final = 5.0

waiting_orders: Final = Gauge("tandem_backlog_orders", "Accepted orders that a reader has yet to settle.", ["reader"])
wait_seconds: Final = Gauge("tandem_backlog_wait_seconds", "How long an accepted order waits for the slowest reader.")
refused_orders: Final = Counter("tandem_orders_refused_total", "Requests refused unread because of the backlog.")


class Backlog(Worker):
    """Samples the backlog, and admits orders while there is room for them."""

    def __init__(self, settings: Api, on_wait: Callable[[float], None]) -> None:
        """`on_wait` gets, with each sample, the seconds that an order waits to be settled; 0 if that is not known."""
        super().__init__("backlog", self._watch, retries_fatal=True, stop_timeout_s=STOP_TIMEOUT_S)
        process = settings.process
        self._config = client_config(process.brokers, f"{process.instance}-backlog")
        self._partitions = process.partitions
        self._settings = settings
        self._on_wait = on_wait
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self._admitted = 0
        """Orders admitted, ever. Only the event loop changes it."""
        self._refused = 0
        self._is_limited = False
        self.set(EVERYTHING)

    def set(self, new: Admission) -> None:
        """Admit this until the next sample."""
        self._refusal = problem.unavailable(
            f"{new.reason}; {PLACED_NOTHING} in {new.retry_after_s} s", retry_after_s=new.retry_after_s
        )
        self._singles_up_to, self._many_up_to = self._admitted + new.singles, self._admitted + new.many
        wait_seconds.set(new.wait_s)
        self._on_wait(new.wait_s)
        refused, self._refused = self._refused, 0
        if (refused > 0) is not self._is_limited:
            self._is_limited = refused > 0
            if refused:
                logger.warning("more orders arrive than can be settled in time; refusing some: {}", new.reason)
            else:
                logger.info("admitting all orders again")

    def refusal(self) -> Problem | None:
        """Why a single order is not admitted now. An admitted order is counted."""
        return self._admit(1, self._singles_up_to)

    def refusal_of_many(self, orders: int) -> Problem | None:
        """The same for this number of orders of one request, which may overdraw what is left."""
        return self._admit(orders, self._many_up_to)

    def _admit(self, orders: int, up_to: float) -> Problem | None:
        if self._admitted < up_to:
            self._admitted += orders
            return None
        refused_orders.inc()
        self._refused += 1
        return self._refusal

    def _watch(self) -> None:
        admin = AdminClient(self._config)
        consumers = {group: Consumer({**self._config, "group.id": group}) for group in READS}
        wait_s = SAMPLE_EVERY_S
        try:
            while not self.stopping.wait(wait_s):
                wait_s = SAMPLE_EVERY_S
                try:
                    self._samples.append(self._sample(admin, consumers))
                    for feed, orders in self._samples[-1].waiting.items():
                        waiting_orders.labels(str(feed)).set(orders)
                    admitted = admission(self._samples, self._settings.settle_within_s, self._settings.backlog_max)
                    self.set(admitted)
                    wait_s = next_sample_s(self._samples[-1], admitted)
                except Exception as error:
                    # Without samples no order is refused because of the backlog. Without a broker all are, elsewhere.
                    self._samples.clear()
                    self.set(EVERYTHING)
                    if not isinstance(error, Transient):
                        raise
        finally:
            for consumer in consumers.values():
                consumer.close()

    def _sample(self, admin: AdminClient, consumers: dict[str, Consumer]) -> Sample:
        partitions = [Partition(topic, number) for topic in READS[SAGA] for number in range(self._partitions)]
        committed = {
            group: broker.committed_offsets(consumer, [p for p in partitions if group in READERS[p.topic]])
            for group, consumer in consumers.items()
        }
        never_committed = {p for p in partitions if any(p not in committed[group] for group in READERS[p.topic])}
        starts = broker.log_starts(admin, never_committed)
        # After the commits, so that none is ahead of its topic.
        ends = broker.log_ends(admin, partitions)
        settled: dict[Feed, float] = {}
        waiting: dict[Feed, float] = {}
        for group, offsets in committed.items():
            for partition, end in ends.items():
                if group in READERS[partition.topic]:
                    at = offsets[partition] if partition in offsets else starts[partition]
                    feed = Feed(group, partition.topic)
                    settled[feed] = settled.get(feed, 0.0) + at
                    waiting[feed] = waiting.get(feed, 0.0) + end - at
        return Sample(time.monotonic(), settled, waiting)
