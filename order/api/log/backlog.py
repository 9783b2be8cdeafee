"""How many accepted orders are not settled yet, as the log and the consumer groups tell, and who may come in therefore.

A thread asks the broker for the ends of the topics and for what each consumer group has committed, several times a
second: a few requests, whatever the load. The event loop only asks the gates.
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
from order.api.log.admission import EVERYTHING, LOOKS_KEPT, Admission, Feed, Gate, Look, admission, readers
from order.api.refusals import PLACED_NOTHING

LOOK_EVERY_S: Final = 0.25
RECORDS_AN_ORDER: Final = Counts(PUBLISHES.values())
"""On `orders`: that it was placed, and how it ended. While a service is away hardly any order ends, and each unread
record may be an order: for the limit each counts as one."""
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
        tell: Callable[[Sequence[Look]], None],
    ) -> None:
        """`backlog_max` is in orders. With outcomes among the unread it is reached by fewer. `tell` is told the last
        looks after each, and none when there are none."""
        super().__init__("backlog", self._watch, retries_fatal=True, stop_timeout_s=STOP_TIMEOUT_S)
        self._config = client_config(bootstrap_servers, f"{client_id}-backlog")
        self._partitions = partitions
        self._backlog_max = backlog_max
        self._tell = tell
        self._orders = Gate()
        # Batches have a gate of their own, for what single orders leave.
        self._batches = Gate()
        self._refusal = _OVERLOADED
        self._looks: deque[Look] = deque(maxlen=LOOKS_KEPT)
        self._in_force = EVERYTHING
        self._turned_away_at_s = -inf
        self._singles = 0
        self._set_at_s = time.monotonic()

    def missing(self) -> list[str]:
        """Without it orders are taken as before; nothing is missing for that."""
        return []

    def refusal(self) -> Problem | None:
        """Why a single order cannot be taken now. Counts it if it can."""
        return self._ask(self._orders, 1)

    def refusal_of_many(self, orders: int) -> Problem | None:
        """The same for so many orders of a batch."""
        return self._ask(self._batches, orders)

    def _ask(self, gate: Gate, orders: int) -> Problem | None:
        if not gate.limited or gate.admits(orders, at_s := time.monotonic()):
            return None
        refused_orders.inc()
        self._turned_away_at_s = at_s
        return self._refusal

    def _watch(self) -> None:
        admin = AdminClient(self._config)
        consumers = {group: Consumer({**self._config, "group.id": group}) for group in READS}
        try:
            while not self.stopping.wait(LOOK_EVERY_S):
                try:
                    self._looks.append(self._look(admin, consumers))
                    self._set(admission(readers(self._looks), self._backlog_max, self._binding_per_s()))
                    self._tell(tuple(self._looks))
                except Exception as error:
                    self._forget()
                    # Without an answer from the broker orders are refused anyway.
                    if not isinstance(error, Transient):
                        raise
        finally:
            for consumer in consumers.values():
                consumer.close()

    def _forget(self) -> None:
        """Without a look nobody is refused for a backlog."""
        self._looks.clear()
        self._set(EVERYTHING)
        self._tell(())

    def _look(self, admin: AdminClient, consumers: dict[str, Consumer]) -> Look:
        everything = [Partition(topic, number) for topic in READERS for number in range(self._partitions)]
        committed = {
            group: broker.committed_offsets(consumer, [p for p in everything if group in READERS[p.topic]])
            for group, consumer in consumers.items()
        }
        # After the commits, so that none is ahead of its topic.
        ends = broker.log_bounds(admin, everything)
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
        return Look(time.monotonic(), settled, waiting, waiting_most)

    def _binding_per_s(self) -> float | None:
        """The limit, unless nobody has been turned away for a while: then it can be lifted."""
        binding = not self._in_force.reason and time.monotonic() - self._turned_away_at_s < BINDING_S
        return self._in_force.singles_per_s if binding else None

    def _set(self, found: Admission) -> None:
        at_s = time.monotonic()
        before, self._in_force = self._in_force, found
        self._refusal = _full(found.reason) if found.reason else _OVERLOADED
        rate = found.orders_per_s
        self._orders.set_rate(found.singles_per_s, at_s)
        singles_per_s = (self._orders.admitted - self._singles) / (at_s - self._set_at_s)
        self._singles, self._set_at_s = self._orders.admitted, at_s
        self._batches.set_rate(None if rate is None else max(0.0, rate - singles_per_s), at_s)
        admitted_per_s.set(inf if rate is None else rate)
        if rate is not None and before.orders_per_s is None:
            logger.warning("more orders come than are settled; refusing some", admitted_per_s=round(rate))
        elif rate is None and before.orders_per_s is not None:
            logger.info("the backlog is gone; taking all orders")


def _full(reason: str) -> Problem:
    return problem.unavailable(f"{reason} (ORDERS_BACKLOG_MAX); {PLACED_NOTHING} later")


_OVERLOADED: Final = problem.unavailable(f"more orders come in than are settled; {PLACED_NOTHING} in a moment")
