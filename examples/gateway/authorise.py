"""Asks the gateway about each order when its record arrives, and holds the record until the answer is there.

The batch loop waits for nobody: a record becomes due when its order is answered. Orders are asked about side by side,
`AT_ONCE` at most, and those of one customer one after the other. An order without an answer after `hold_s` is
`unknown`, and is declined; so are those of the same customer for `SLOW_S`. So one slow card holds back the other
customers of its partition by `hold_s`, at most once in `SLOW_S`. The time in which the gateway is down does not count:
then all orders wait, and none is declined because of it.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Collection, Set
from concurrent.futures import Future
from typing import Final, Literal
from weakref import WeakValueDictionary

from loguru import logger

from common.consume.records import Arrival
from common.events import OrderId, OrderPlaced, PlacedData
from common.kafka.broker import Partition
from examples.gateway.client import Gateway, State, Unanswered

HOLD_S: Final = 3
AT_ONCE: Final = 50
"""After an outage, thousands of orders wait. Asked all at once, the gateway would answer none of them in time."""
SLOW_S: Final = 10.0
PAUSE_S: Final = 0.1

Answer = State | Literal["unknown"]


class Authoriser:
    """Has a thread with an event loop for the gateway. The other methods are called by the batch loop's thread."""

    def __init__(self, url: str, hold_s: float = HOLD_S) -> None:
        self.hold_s = hold_s
        self._url = url
        self._answers: dict[OrderId, Future[Answer]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._slow_until_s: dict[str, float] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._gateway: Gateway | None = None

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="authoriser", daemon=True).start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def degraded(self) -> list[str]:
        """Why orders wait for the gateway; empty when they do not."""
        is_down = self._gateway is not None and self._gateway.breaker.is_open
        return ["the card gateway does not answer; orders wait for it"] if is_down else []

    def ask(self, order: PlacedData) -> "Future[Answer]":
        """Ask about an order, unless it has been asked about. A free order needs no card."""
        order_id = OrderId(order.order_id)
        if order_id not in self._answers:
            self._answers[order_id] = asyncio.run_coroutine_threadsafe(self._authorise(order), self._loop)
        return self._answers[order_id]

    def forget(self, order_id: OrderId) -> None:
        """The order is decided, or another instance has its partition."""
        if (answer := self._answers.pop(order_id, None)) is not None:
            answer.cancel()

    async def _authorise(self, order: PlacedData) -> Answer:
        gateway = self._gateway = self._gateway or Gateway(self._url)
        customer_id = order.customer_id
        async with self._turns.setdefault(customer_id, asyncio.Lock()), self._slots:
            if gateway.up_s() < self._slow_until_s.get(customer_id, 0.0):
                return "unknown"
            until_s = gateway.up_s() + self.hold_s
            attempted = False
            while (left_s := until_s - gateway.up_s()) > 0:
                await gateway.admitted()
                try:
                    async with asyncio.timeout(left_s):
                        # After an attempt without an answer, what became of it is asked first.
                        state = await gateway.state(order.order_id, customer_id) if attempted else None
                        attempted = True
                        state = state or await gateway.authorise(
                            order.order_id, customer_id, order.amount, order.currency
                        )
                        self._slow_until_s.pop(customer_id, None)
                        return state
                except (Unanswered, TimeoutError) as problem:
                    logger.debug("no answer from the card gateway: {}", problem, order=order.order_id)
                    await asyncio.sleep(min(PAUSE_S, max(0.0, until_s - gateway.up_s())))
            at_s = gateway.up_s()
            slow = {customer: until_s for customer, until_s in self._slow_until_s.items() if until_s > at_s}
            self._slow_until_s = {**slow, customer_id: at_s + SLOW_S}
        return "unknown"


class HeldForCards:
    """Records that wait for their orders' answers. See `common.consume.handler.Arrivals`."""

    def __init__(self, authoriser: Authoriser) -> None:
        self.held = 0
        self.ahead: Set[Partition] = frozenset()
        self._authoriser = authoriser
        self._queues: dict[Partition, deque[Arrival]] = {}

    def add(self, arrival: Arrival) -> None:
        self._queues.setdefault(arrival.record.partition, deque()).append(arrival)
        self.held += 1
        if (order := card_order(arrival)) is not None:
            self._authoriser.ask(order)

    def due(self, _: float) -> list[Arrival]:
        due: list[Arrival] = []
        for queue in self._queues.values():
            while queue and ((order := card_order(queue[0])) is None or self._authoriser.ask(order).done()):
                due.append(queue.popleft())
        self.held -= len(due)
        return due

    def drop(self, lost: Collection[Partition]) -> None:
        for partition in lost:
            for arrival in self._queues.pop(partition, ()):
                self.held -= 1
                if (order := card_order(arrival)) is not None:
                    self._authoriser.forget(OrderId(order.order_id))


def card_order(arrival: Arrival) -> PlacedData | None:
    """The order of a record that needs a card."""
    event = arrival.received and arrival.received.event
    return event.data if isinstance(event, OrderPlaced) and event.data.amount else None
