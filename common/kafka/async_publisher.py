"""Sends single records from an event loop, several together, and reports the fate of each."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message
from loguru import logger

from common.config.kafka import Brokers
from common.events import Milliseconds
from common.kafka.clients import failure_of, producer_config
from common.kafka.identity import Producer, note_refusal, refusal

REPORTS_EVERY_S: Final = 0.001
# With nothing in flight no report comes, but an error may: a lost broker is noticed before the next request.
ERRORS_EVERY_S: Final = 0.1


class Acknowledged(NamedTuple):
    """Where the log has put a record, and when by the broker's clock (LogAppendTime)."""

    partition: int
    offset: int
    at: Milliseconds


_Delivered = Callable[[KafkaError | None, Message | None], None]
OnDelivery = Callable[[Acknowledged | None], None]
"""Called with a record's place in the log, or None when it failed; also after its future has timed out."""


def _as_kafka_error(error: Exception) -> KafkaError:
    """Why a record was not taken."""
    match error:
        case KafkaException():
            return error.args[0]  # type: ignore[no-any-return]
        case BufferError():
            return KafkaError(KafkaError._QUEUE_FULL)
    logger.opt(exception=error).error("a record was not taken")
    return KafkaError(KafkaError._FAIL)


class AsyncPublisher:
    """Sends single records from an event loop, several together.

    A record goes to the client at once if none has gone there within the last `linger_s`. Otherwise it lingers until
    then, together with those that follow it. librdkafka's own `linger.ms` would make a lone record wait too, and does
    so in each partition separately, since it sends a request for each partition (its issue 1700).

    The loop polls for delivery reports itself, every `REPORTS_EVERY_S` while any are due. A poller thread would fight
    the loop for the interpreter lock; `confluent_kafka.aio.AIOProducer` buffers behind a timer of a second.
    """

    def __init__(self, brokers: Brokers, client_id: str, *, linger_s: float, deadline_s: float) -> None:
        """Call it in the loop. A future that has not ended after `deadline_s` ends with `TimeoutError`."""
        self._config = producer_config(brokers, client_id, linger_ms=0)
        self._config["error_cb"] = self._on_error
        self.linger_s = linger_s
        """May be changed at any time, by any thread."""
        self._deadline_s = deadline_s
        self._producer = Producer(self._config)
        self._retired: Producer | None = None
        self._loop = asyncio.get_running_loop()
        # Oldest first: all have the same time to live, so only the head can have expired.
        self._waiting: deque[tuple[float, asyncio.Future[Acknowledged]]] = deque()
        self._lingering: list[tuple[str, bytes, bytes, int, _Delivered]] = []
        """Records that the client does not have yet: topic, key, value, partition, and the callback of the delivery."""
        self._sent_at = 0.0
        self._next_poll = self._loop.call_later(ERRORS_EVERY_S, self._poll)
        self.in_flight = 0
        """Records whose fate is not known yet."""
        self.acknowledged = 0
        """Records that the log has taken, ever: as long as this rises, the broker is there."""
        self.all_brokers_down = threading.Event()
        """Set when the client has lost its last connection; the caller of `unreachable` clears it."""

    def send(
        self, topic: str, key: bytes, value: bytes, partition: int = -1, *, on_delivery: OnDelivery | None = None
    ) -> "asyncio.Future[Acknowledged]":
        """Take a record to send. Its future ends with `Acknowledged`, a `KafkaException` or a `TimeoutError`."""
        future: asyncio.Future[Acknowledged] = self._loop.create_future()
        now = self._loop.time()
        self._waiting.append((now + self._deadline_s, future))
        self.in_flight += 1
        if not self._lingering:
            # Even without a delay, the records of this same round of the loop go together.
            self._loop.call_later(max(0.0, self._sent_at + self.linger_s - now), self._send_lingering)
        self._lingering.append((topic, key, value, partition, partial(self._delivered, future, on_delivery)))
        return future

    def _send_lingering(self) -> None:
        records, self._lingering = self._lingering, []
        self._sent_at = self._loop.time()
        for topic, key, value, partition, delivered in records:
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=delivered)
            except Exception as error:
                # Called by the loop, so that an exception in it does not stop the records behind.
                self._loop.call_soon(delivered, _as_kafka_error(error), None)
        self._next_poll.cancel()
        self._next_poll = self._loop.call_later(REPORTS_EVERY_S, self._poll)

    def _delivered(
        self,
        future: "asyncio.Future[Acknowledged]",
        on_delivery: OnDelivery | None,
        error: KafkaError | None,
        message: Message | None,
    ) -> None:
        self.in_flight -= 1
        acknowledged = None
        failure = failure_of(error, message)
        if failure is None:
            self.acknowledged += 1
            acknowledged = Acknowledged(message.partition(), message.offset(), Milliseconds(message.timestamp()[1]))  # type: ignore[union-attr, arg-type]
            if not future.done():
                future.set_result(acknowledged)
        elif not future.done():
            future.set_exception(KafkaException(failure))
        if on_delivery is not None:
            on_delivery(acknowledged)
        if failure is not None:
            self._renew_if_fatal(failure)

    def _poll(self) -> None:
        self._producer.poll(0)
        if self._retired is not None:
            # Fail the records that the broken producer still has, so that their futures end.
            self._retired.purge()
            self._retired.poll(0)
            self._retired = self._retired if len(self._retired) else None
        self._expire()
        awaited = self.in_flight > len(self._lingering)
        self._next_poll = self._loop.call_later(REPORTS_EVERY_S if awaited else ERRORS_EVERY_S, self._poll)

    def _expire(self) -> None:
        now = self._loop.time()
        waiting = self._waiting
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now):
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(TimeoutError())

    def _on_error(self, error: KafkaError) -> None:
        note_refusal(error)
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.all_brokers_down.set()

    def _renew_if_fatal(self, error: KafkaError) -> None:
        """After a fatal error an idempotent producer never works again; a new one does."""
        fatal = error.fatal() or error.code() == KafkaError._FATAL
        if fatal and self._retired is None:
            logger.warning("renewing the producer after a fatal error: {}", error.str())
            self._retired, self._producer = self._producer, Producer(self._config)

    def unreachable(self, topic: str, timeout_s: float) -> str:
        """Why nothing can be sent to the topic: empty when the broker answers and has it. Blocks; call it in a
        thread."""
        try:
            metadata = self._producer.list_topics(topic, timeout_s).topics[topic]
        except KafkaException:
            refused = refusal()
            return f"Kafka cannot be reached: {refused}" if refused else "Kafka cannot be reached"
        if metadata.error is None:
            return ""
        if metadata.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return f"Kafka has no topic {topic!r}: 'just topics create' makes it"
        return f"Kafka does not give access to topic {topic!r}: {metadata.error.str()}"

    async def close(self) -> None:
        """Wait for what is in flight: at most the delivery timeout, by which each record has arrived or failed."""
        while self.in_flight:  # noqa: ASYNC110 - once in a process's life; an event would cost every record
            await asyncio.sleep(ERRORS_EVERY_S)
        self._next_poll.cancel()
