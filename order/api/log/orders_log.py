"""The `orders` topic as the api uses it: an order is accepted exactly when this log has acknowledged it.

A thread checks every second that the broker answers; acknowledgements prove it too. While it does not, orders are
refused at once instead of each waiting for its deadline.
"""

import asyncio
import contextlib
import time
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from loguru import logger
from prometheus_client import Gauge

from common import metrics
from common.codec import encode
from common.errors import Transient
from common.events import ORDERS, PRODUCTS, OrderCancelRequested, OrderId
from common.http import problem
from common.http.problem import Problem, ProblemError
from common.kafka import broker
from common.kafka.async_publisher import AsyncPublisher, OnDelivery
from common.kafka.clients import DELIVERY_TIMEOUT_MS, Delivery, client_config, delivery_of
from common.kafka.identity import AdminClient
from common.kafka.produce.batch import Acknowledged
from common.kafka.settings import SettingsWatch
from common.tracing.live import Tracer
from common.worker import Worker
from order.api.log.admission import linger_s
from order.api.log.recent import RecentOrders
from order.api.log.silence import SILENT_S, Silence
from order.api.responses import PLACED_NOTHING
from order.config import Api

REFUSED_RETRY_AFTER_S: Final = 10
PROBE_EVERY_S: Final = 1.0
PROBE_TIMEOUT_S: Final = 2.0
# Once the client has lost every connection, a broker that is there answers quickly.
PROBE_TIMEOUT_AFTER_LOSS_S: Final = 0.5

linger_seconds: Final = Gauge(
    "tandem_order_linger_seconds", "How long orders linger in this process before they are sent to Kafka together."
)


class OrdersLog(Worker):
    """Appends to the topic. Knows whether the broker is there, what is in flight, and where the topic ends."""

    def __init__(self, settings: Api, recent: RecentOrders, tracer: Tracer | None = None) -> None:
        """Call it in the event loop."""
        super().__init__("broker-probe", self._watch_broker, retries_fatal=True, stop_timeout_s=PROBE_TIMEOUT_S + 1)
        self._settings = settings
        self._recent = recent
        self._tracer = tracer
        self._publisher = AsyncPublisher(
            settings.process.brokers,
            settings.process.instance,
            linger_s=settings.linger_ms / 1000,
            deadline_s=settings.deadline_ms / 1000,
        )
        metrics.watch_pool("orders-in-flight", settings.in_flight_max, lambda: self._publisher.in_flight)
        self._admin = AdminClient(client_config(settings.process.brokers, settings.process.instance))
        self.settings = SettingsWatch(self._admin, [ORDERS, PRODUCTS])
        # Whose order it is that may still reach the log although its request has been answered, and how often it was
        # sent so.
        self._undecided: dict[OrderId, tuple[str, int]] = {}
        # Until the broker has answered, nothing shows that it is there.
        self._unreachable = ""
        self._away: Problem | None = None
        self._set_reachable("Kafka has not answered yet")
        self._full = problem.unavailable(
            f"{settings.in_flight_max} orders are waiting for the log already (ORDERS_IN_FLIGHT_MAX); {PLACED_NOTHING}"
        )

    def set_linger(self, wait_s: float) -> None:
        """Let orders linger for longer when they wait to be settled. Any thread may call it."""
        self._publisher.linger_s = linger_s(self._settings.linger_ms / 1000, wait_s)
        linger_seconds.set(self._publisher.linger_s)

    def stop(self) -> None:
        self.stopping.set()
        self._publisher.all_brokers_down.set()  # which the thread waits for
        super().stop()

    def missing(self) -> list[str]:
        brokers = self._settings.process.brokers
        return [f"kafka at {brokers}: {self._unreachable}"] if self._unreachable else []

    def refusal(self) -> Problem | None:
        """Why no order can be taken now. Nearly free, so that refusing does not cost what serving needs."""
        if self._away is not None:
            return self._away
        if self._publisher.in_flight >= self._settings.in_flight_max:
            return self._full
        return None

    def send(self, order_id: OrderId, customer_id: str, value: bytes) -> "asyncio.Future[Acknowledged]":
        """Append an order's `order.placed`, and remember the order once the log has it. Orders are appended in the
        sequence of these calls. Pass the future to `acknowledged`, or to `fate` once it is done."""
        delivered: OnDelivery | None = partial(self._delivered, order_id, value)
        if self._tracer is not None and self._tracer.sampling.includes(order_id):
            delivered = self._tracer.sending(ORDERS, value, delivered)
        return self._publisher.send(ORDERS, customer_id.encode(), value, on_delivery=delivered)

    async def acknowledged(
        self, order_id: OrderId, customer_id: str, sent: "asyncio.Future[Acknowledged]"
    ) -> Acknowledged:
        """Wait until the log has an order that was sent. Raises what `fate` raises."""
        with contextlib.suppress(TimeoutError, KafkaException):
            await sent
        return self.fate(order_id, customer_id, sent)

    def fate(self, order_id: OrderId, customer_id: str, sent: "asyncio.Future[Acknowledged]") -> Acknowledged:
        """Where the log has a customer's order that was sent, now that its future is done.

        Raises `ProblemError` 503 when the log did not take it, or has not acknowledged it in time.
        """
        try:
            return sent.result()
        except (TimeoutError, KafkaException) as error:
            if isinstance(error, TimeoutError):
                _, times = self._undecided.get(order_id, ("", 0))
                self._undecided[order_id] = customer_id, times + 1
            raise ProblemError(self._not_acknowledged(order_id, error)) from None

    async def request_cancel(self, event: OrderCancelRequested, partition: int) -> Acknowledged:
        """Append a request to cancel, to the partition that has the order. Raises `ProblemError` 503 like `fate`."""
        if (refused := self.refusal()) is not None:
            raise ProblemError(refused)
        value = encode(event)
        delivered = None
        if self._tracer is not None and self._tracer.sampling.includes(event.subject):
            delivered = self._tracer.sending(ORDERS, value, None)
        try:
            return await self._publisher.send(
                ORDERS, event.partitionkey.encode(), value, partition, on_delivery=delivered
            )
        except (TimeoutError, KafkaException) as error:
            raise ProblemError(self._not_acknowledged(OrderId(event.subject), error)) from None

    def _delivered(self, order_id: OrderId, value: bytes, acknowledged: Acknowledged | None) -> None:
        if order_id in self._undecided:
            customer_id, times = self._undecided.pop(order_id)
            if times > 1:
                self._undecided[order_id] = customer_id, times - 1
        if acknowledged is not None:
            self._recent.remember(order_id, value, acknowledged)

    def _not_acknowledged(self, order_id: OrderId, error: TimeoutError | KafkaException) -> Problem:
        if isinstance(error, KafkaException):
            logger.warning("an event was not acknowledged: {}", error.args[0].str(), order=order_id)
            match delivery_of(error.args[0]):
                case Delivery.REFUSED:
                    return problem.unavailable(
                        f"the log refuses this: {error.args[0].str()}; {PLACED_NOTHING} when an operator has mended "
                        "that ('just topics' names settings that are not as they must be)",
                        retry_after_s=REFUSED_RETRY_AFTER_S,
                    )
                case Delivery.NOT_TAKEN if error.args[0].code() == KafkaError._QUEUE_FULL:
                    return self._full
                case Delivery.NOT_TAKEN:
                    return problem.unavailable(f"the log has not taken this: {error.args[0].str()}; {PLACED_NOTHING}")
        wait_s = -(-DELIVERY_TIMEOUT_MS // 1000)
        return problem.unavailable(
            f"the log has not acknowledged this in time and may still take it: ask for order {order_id} in {wait_s} s "
            "before you send it again",
            retry_after_s=wait_s,
            order_id=order_id,
        )

    def undecided(self, order_id: OrderId, customer: str | None) -> bool:
        """Whether the log may still take this order although its request was answered with an unknown outcome. If a
        customer is given, it says so of their own orders only."""
        of, _ = self._undecided.get(order_id, (None, 0))
        return of is not None and customer in (None, of)

    async def ends(self) -> dict[tuple[str, int], int]:
        """For each partition, by the topic's id and its number, the offset its next record will get. Raises `Transient`
        when the broker does not say."""
        if self._unreachable:
            raise Transient(self._unreachable)
        return await asyncio.to_thread(self._fetch_ends)

    def _fetch_ends(self) -> dict[tuple[str, int], int]:
        topic = broker.describe(self._admin, [ORDERS])[ORDERS]
        ends = broker.log_ends(self._admin, broker.all_partitions([topic]))
        return {(topic.topic_id, partition.number): end for partition, end in ends.items()}

    def _watch_broker(self) -> None:
        """The thread's work: know whether the broker answers and has the topic."""
        lost = self._publisher.all_brokers_down
        acknowledged_before = 0
        silence = Silence()
        while not self.stopping.is_set():
            timeout_s = PROBE_TIMEOUT_AFTER_LOSS_S if lost.is_set() else PROBE_TIMEOUT_S
            lost.clear()
            acknowledged = self._publisher.acknowledged
            sent = acknowledged > acknowledged_before
            unreachable = "" if sent else self._publisher.unreachable(ORDERS, timeout_s)
            acknowledged_before = acknowledged
            silent_s = silence.lasts_s(acknowledged, self._publisher.in_flight, time.monotonic())
            if silent_s >= SILENT_S and not unreachable:
                unreachable = f"Kafka answers, and has acknowledged nothing for {SILENT_S:.0f} s"
            self.settings.check(time.monotonic())
            if unreachable != self._unreachable:
                self._set_reachable(unreachable)
                if unreachable:
                    logger.warning("refusing orders: {}", unreachable)
                else:
                    logger.info("Kafka answers")
            lost.wait(PROBE_EVERY_S)

    def _set_reachable(self, unreachable: str) -> None:
        """Refuse orders for this reason; with none, take them."""
        self._unreachable = unreachable
        self._away = problem.unavailable(f"{unreachable}; {PLACED_NOTHING}") if unreachable else None

    async def close(self) -> None:
        """Wait until what is in flight is acknowledged or has failed."""
        await self._publisher.close()
