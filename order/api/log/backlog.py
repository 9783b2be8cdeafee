"""How many accepted orders are not settled yet, and whether more can be admitted.

A thread asks the broker several times a second where the topics end and what each consumer group has committed: a few
requests, whatever the load. The event loop only asks the gates.
"""

import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from loguru import logger
from prometheus_client import Counter, Gauge

from common.errors import Transient
from common.events import PUBLISHES, READERS, READS
from common.http import problem
from common.http.problem import Problem
from common.kafka import broker
from common.kafka.broker import Partition
from common.kafka.clients import client_config
from common.worker import Worker
from order.api.log.admission import EVERYTHING, SAMPLES_KEPT, Admission, Feed, Gate, Sample, admission, readers
from order.api.refusals import PLACED_NOTHING

SAMPLE_EVERY_S: Final = 0.25
RECORDS_AN_ORDER: Final = Counts(PUBLISHES.values())
"""On `orders` an order is placed and ends. While a service is away hardly any order ends, and each unread record may be
an order; so for `backlog_max` each counts as one."""
BINDING_S: Final = 1.0
STOP_TIMEOUT_S: Final = 5.0

waiting_orders: Final = Gauge("tandem_backlog_orders", "Accepted orders that a reader has yet to settle.", ["reader"])
admitted_per_s: Final = Gauge(
    "tandem_admitted_orders_per_second", "Orders let in by this process at most; infinite when all are."
)
refused_orders: Final = Counter("tandem_orders_refused_total", "Requests refused unread because of the backlog.")


class Backlog(Worker):
    """Watches the backlog and opens and closes the gates."""

    def __init__(
        self,
        bootstrap_servers: str,
        client_id: str,
        partitions: int,
        backlog_max: int,
        on_samples: Callable[[Sequence[Sample]], None],
    ) -> None:
        """`backlog_max` is in orders; it is reached earlier when outcomes are among the unread records. `on_samples` is
        called with the last samples after each, and with none when sampling has failed."""
        super().__init__("backlog", self._watch, retries_fatal=True, stop_timeout_s=STOP_TIMEOUT_S)
        self._config = client_config(bootstrap_servers, f"{client_id}-backlog")
        self._partitions = partitions
        self._backlog_max = backlog_max
        self._on_samples = on_samples
        self._orders = Gate()
        # Many orders in one request have a gate of their own, for what single orders leave.
        self._many = Gate()
        self._refusal = _OVERLOADED
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self._in_force = EVERYTHING
        self._refused_at_s = -inf
        self._singles = 0
        self._set_at_s = time.monotonic()

    def missing(self) -> list[str]:
        """Nothing is: without samples all orders are admitted."""
        return []

    def refusal(self) -> Problem | None:
        """Why a single order is not admitted now. An admitted order is counted."""
        return self._refusal_at(self._orders, 1)

    def refusal_of_many(self, orders: int) -> Problem | None:
        """The same for this number of orders of one request."""
        return self._refusal_at(self._many, orders)

    def _refusal_at(self, gate: Gate, orders: int) -> Problem | None:
        if not gate.limited or gate.admits(orders, at_s := time.monotonic()):
            return None
        refused_orders.inc()
        self._refused_at_s = at_s
        return self._refusal

    def _watch(self) -> None:
        admin = AdminClient(self._config)
        consumers = {group: Consumer({**self._config, "group.id": group}) for group in READS}
        try:
            while not self.stopping.wait(SAMPLE_EVERY_S):
                try:
                    self._samples.append(self._sample(admin, consumers))
                    self._set(admission(readers(self._samples), self._backlog_max, self._binding_per_s()))
                    self._on_samples(tuple(self._samples))
                except Exception as error:
                    self._admit_all()
                    # Without an answer from the broker orders are refused anyway.
                    if not isinstance(error, Transient):
                        raise
        finally:
            for consumer in consumers.values():
                consumer.close()

    def _admit_all(self) -> None:
        """Without samples no order is refused because of the backlog."""
        self._samples.clear()
        self._set(EVERYTHING)
        self._on_samples(())

    def _sample(self, admin: AdminClient, consumers: dict[str, Consumer]) -> Sample:
        partitions = [Partition(topic, number) for topic in READERS for number in range(self._partitions)]
        committed = {
            group: broker.committed_offsets(consumer, [p for p in partitions if group in READERS[p.topic]])
            for group, consumer in consumers.items()
        }
        # After the commits, so that none is ahead of its topic.
        ends = broker.log_bounds(admin, partitions)
        settled: dict[Feed, float] = {}
        waiting: dict[Feed, float] = {}
        waiting_most: dict[Feed, float] = {}
        for group, offsets in committed.items():
            for partition, (first, end) in ends.items():
                if group in READERS[partition.topic]:
                    at, share = offsets.get(partition, first), 1 / RECORDS_AN_ORDER[partition.topic]
                    feed = Feed(group, partition.topic)
                    settled[feed] = settled.get(feed, 0.0) + at * share
                    waiting[feed] = waiting.get(feed, 0.0) + (end - at) * share
                    waiting_most[feed] = waiting_most.get(feed, 0.0) + end - at
        for feed, orders in waiting.items():
            waiting_orders.labels(str(feed)).set(orders)
        return Sample(time.monotonic(), settled, waiting, waiting_most)

    def _binding_per_s(self) -> float | None:
        """The limit in force, unless it has refused no order for `BINDING_S`: then it can be lifted."""
        binding = not self._in_force.reason and time.monotonic() - self._refused_at_s < BINDING_S
        return self._in_force.singles_per_s if binding else None

    def _set(self, new: Admission) -> None:
        at_s = time.monotonic()
        before, self._in_force = self._in_force, new
        self._refusal = _full(new.reason) if new.reason else _OVERLOADED
        rate = new.orders_per_s
        self._orders.set_rate(new.singles_per_s, at_s)
        singles_per_s = (self._orders.admitted - self._singles) / (at_s - self._set_at_s)
        self._singles, self._set_at_s = self._orders.admitted, at_s
        self._many.set_rate(None if rate is None else max(0.0, rate - singles_per_s), at_s)
        admitted_per_s.set(inf if rate is None else rate)
        if rate is not None and before.orders_per_s is None:
            logger.warning("more orders arrive than are settled; refusing some", admitted_per_s=round(rate))
        elif rate is None and before.orders_per_s is not None:
            logger.info("the backlog is gone; admitting all orders")


def _full(reason: str) -> Problem:
    return problem.unavailable(f"{reason} (ORDERS_BACKLOG_MAX); {PLACED_NOTHING} later")


_OVERLOADED: Final = problem.unavailable(f"more orders arrive than are settled; {PLACED_NOTHING} in a moment")
