"""Sends single records from an event loop, several together, and reports the fate of each."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from common.config.kafka import Brokers
from common.kafka.identity import refusal
from common.kafka.produce.batch import Acknowledged, Outgoing
from common.kafka.produce.producer import CLOCK_S, Producer

CLOSED_EVERY_S: Final = 0.1
GRACE_S: Final = 0.001
"""How much longer than the linger records wait for one to come, whose arrival wakes the loop anyway: a timer that wakes
an idle core costs as much as an order."""

OnDelivery = Callable[[Acknowledged | None], None]
"""Called with a record's place in the log, or None when it failed; also after its future has timed out."""


class AsyncPublisher:
    """Sends single records from an event loop, several together.

    A record goes to the producer at once if none has gone there within the last `linger_s`. Otherwise it lingers until
    a record comes that need not, or for `GRACE_S` longer, together with those that follow it.
    """

    def __init__(self, brokers: Brokers, client_id: str, *, linger_s: float, deadline_s: float) -> None:
        """Call it in the loop. A future that has not ended after `deadline_s` ends with `TimeoutError`."""
        self.linger_s = linger_s
        """May be changed at any time, by any thread."""
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(brokers, client_id)
        # Oldest first: all have the same time to live, so only the head can have expired.
        self._waiting: deque[tuple[float, asyncio.Future[Acknowledged]]] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        self._lingering: list[Outgoing] = []
        """Records that the producer does not have yet."""
        self._sent_at = 0.0
        self._sending: asyncio.Handle | None = None
        """What will send them: in this round of the loop, or in time."""
        self._is_due = False
        self.in_flight = 0
        """Records whose fate is not known yet."""
        self.acknowledged = 0
        """Records that the log has taken, ever: as long as this rises, the broker is there."""
        self.all_brokers_down = threading.Event()
        """Set when the last connection was lost; the caller of `unreachable` clears it."""
        self._producer.cluster.on_all_lost = self.all_brokers_down.set

    def send(
        self, topic: str, key: bytes, value: bytes, partition: int = -1, *, on_delivery: OnDelivery | None = None
    ) -> "asyncio.Future[Acknowledged]":
        """Take a record to send. Its future ends with `Acknowledged`, a `KafkaException` or a `TimeoutError`."""
        future: asyncio.Future[Acknowledged] = self._loop.create_future()
        now = self._loop.time()
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((now + self._deadline_s, future))
        if self._expiry is None:
            self._expiry = self._loop.call_at(now + self._deadline_s, self._expire)
        self.in_flight += 1
        self._lingering.append(Outgoing(topic, partition, key, value, partial(self._delivered, future, on_delivery)))
        if not self._is_due:
            self._schedule(now)
        return future

    def _schedule(self, now: float) -> None:
        """Have what lingers sent when it is time."""
        due_s = self._sent_at + self.linger_s
        if now >= due_s - CLOCK_S / 2:  # both are whole milliseconds, but for what a float makes of them
            # Even without a delay, the records of this same round of the loop go together.
            self._is_due = True
            if self._sending is not None:
                self._sending.cancel()
            self._sending = self._loop.call_soon(self._send_lingering)
        elif self._sending is None:
            self._sending = self._loop.call_at(due_s + GRACE_S, self._send_lingering)

    def _send_lingering(self) -> None:
        records, self._lingering = self._lingering, []
        self._sending, self._is_due = None, False
        self._sent_at = self._loop.time()
        self._producer.produce(records)

    def _delivered(
        self,
        future: "asyncio.Future[Acknowledged]",
        on_delivery: OnDelivery | None,
        _: Outgoing,
        acknowledged: Acknowledged | None,
        error: KafkaError | None,
    ) -> None:
        self.in_flight -= 1
        if acknowledged is not None:
            self.acknowledged += 1
            if not future.done():
                future.set_result(acknowledged)
        elif not future.done():
            future.set_exception(KafkaException(error))
        if on_delivery is not None:
            on_delivery(acknowledged)

    def _expire(self) -> None:
        now = self._loop.time()
        waiting = self._waiting
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now):
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(TimeoutError())
        self._expiry = self._loop.call_at(waiting[0][0], self._expire) if waiting else None

    def unreachable(self, topic: str, timeout_s: float) -> str:
        """Why nothing can be sent to the topic: empty when a broker answers and has it. Blocks; call it in a thread
        other than the loop's."""
        described = asyncio.run_coroutine_threadsafe(self._producer.cluster.describe([topic]), self._loop)
        try:
            error = described.result(timeout_s).topics[topic].error
        except (OSError, KeyError, CancelledError):  # also TimeoutError; it is cancelled when the loop ends
            described.cancel()
            refused = refusal()
            return f"Kafka cannot be reached: {refused}" if refused else "Kafka cannot be reached"
        if error == 0:
            return ""
        if error == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return f"Kafka has no topic {topic!r}: 'just topics create' makes it"
        return f"Kafka does not give access to topic {topic!r}: {KafkaError(error).str()}"

    async def close(self) -> None:
        """Wait for what is in flight: at most the delivery timeout, by which each record has arrived or failed."""
        while self.in_flight:  # noqa: ASYNC110 - once in a process's life; an event would cost every record
            await asyncio.sleep(CLOSED_EVERY_S)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._producer.close()
