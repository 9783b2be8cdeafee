"""Kafka clients, set up in one place: the same partitioner everywhere, acknowledged by the log or not at all.

librdkafka's own threads do the network; what is here decides when Python wakes up.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined]
from loguru import logger
from msgspec import Struct

from common.errors import Transient
from common.events import Milliseconds

# Java's partitioner, so that any client of any language puts a customer into the same partition.
PARTITIONER: Final = "murmur2_random"
DELIVERY_TIMEOUT_MS: Final = 10_000
PRODUCER_BUFFER_KIB: Final = 64 * 1024
PRODUCER_BUFFER_MESSAGES: Final = 200_000
MAX_POLL_INTERVAL_MS: Final = 300_000
SOCKET_TIMEOUT_MS: Final = 60_000
CONSUMER_BUFFER_KIB: Final = 16 * 1024
POLL_S: Final = 0.1
REQUEST_TIMEOUT_S: Final = 5.0
REPORTS_EVERY_S: Final = 0.001
# For the client's thread not to send the first of some records that are handed to it one after the other.
HANDING_OVER_MS: Final = 0.3
# With nothing in flight there are no reports, but errors: a lost broker is noticed by the next request's time.
ERRORS_EVERY_S: Final = 0.1


class Outgoing(Struct, frozen=True, gc=False):
    """A record to publish. `partition` is given where a result must go to its order's partition number."""

    topic: str
    partition: int
    key: bytes
    value: bytes


def client_config(bootstrap_servers: str, client_id: str) -> dict[str, Any]:
    """What all our clients have in common."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "client.id": client_id,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "socket.keepalive.enable": True,
        "log_level": 2,  # at 3 it writes a line every 25 ms while the broker is away; our own logs say it once
    }


def consumer_config(bootstrap_servers: str, client_id: str, group: str) -> dict[str, Any]:
    """A member of a group under KIP-848, whose session timeout is the broker's.

    `range` gives one member the same partition number of every topic. The offset policy is `error`: the start is
    always given explicitly, and a log that does not reach back to it must be noticed, not jumped over.
    """
    return {
        **client_config(bootstrap_servers, client_id),
        "group.id": group,
        "group.protocol": "consumer",
        "group.remote.assignor": "range",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
        "socket.timeout.ms": SOCKET_TIMEOUT_MS,
        # The default second of waiting when the local queue is full stalls a fast consumer.
        "fetch.queue.backoff.ms": 2,
        "queued.min.messages": 1,
        "fetch.wait.max.ms": 50,
        "queued.max.messages.kbytes": CONSUMER_BUFFER_KIB,
    }


def producer_config(bootstrap_servers: str, client_id: str, *, linger_ms: float) -> dict[str, Any]:
    """Idempotent, `acks=all`: an acknowledged record is in the log once, in order."""
    return {
        **client_config(bootstrap_servers, client_id),
        "partitioner": PARTITIONER,
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": linger_ms,
        "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
        "queue.buffering.max.kbytes": PRODUCER_BUFFER_KIB,
        "queue.buffering.max.messages": PRODUCER_BUFFER_MESSAGES,
    }


def log_ends(admin: AdminClient, topic: str, timeout_s: float) -> dict[int, int]:
    """For each partition, the offset its next record will get. Raises `Transient` when the broker does not say."""
    try:
        found = admin.list_topics(topic, timeout_s).topics[topic]
        wanted = {TopicPartition(topic, number): OffsetSpec.latest() for number in found.partitions}  # type: ignore[no-untyped-call]
        ends = admin.list_offsets(wanted, request_timeout=timeout_s) if wanted else {}
        return {tp.partition: future.result().offset for tp, future in ends.items()}
    except KafkaException as error:
        raise Transient(f"the ends of topic {topic!r} cannot be read: {error.args[0].str()}") from error


def message_bytes_max(admin: AdminClient, topics: Iterable[str]) -> dict[str, int]:
    """The size of the largest message that each topic accepts. Raises `KafkaException`."""
    wanted = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    found = admin.describe_configs(wanted, request_timeout=REQUEST_TIMEOUT_S)
    return {resource.name: int(future.result()["max.message.bytes"].value) for resource, future in found.items()}


class Publisher:
    """Publishes a batch and waits until the log has all of it. For a consumer's thread; not shared."""

    def __init__(self, bootstrap_servers: str, client_id: str) -> None:
        # flush() does not wait for the linger, so it costs a batch nothing; it groups what is produced meanwhile.
        self._config = producer_config(bootstrap_servers, client_id, linger_ms=5)
        self._producer = Producer(self._config)

    def publish(self, records: Iterable[Outgoing]) -> None:
        """Raises `KafkaException` or `Transient` unless every record was acknowledged within the delivery timeout."""
        failed: list[KafkaError] = []
        waiting = 0

        def delivered(error: KafkaError | None, _: Message) -> None:
            nonlocal waiting
            waiting -= 1
            if error is not None:
                failed.append(error)

        # By partition: what a single message says of its own is ignored (confluent-kafka 2.16), though documented.
        by_partition: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for record in records:
            message = {"value": record.value, "key": record.key}
            by_partition.setdefault((record.topic, record.partition), []).append(message)
        for (topic, partition), messages in by_partition.items():
            count = self._hand_over(topic, partition, messages, delivered)
            waiting += count  # not in one statement: `delivered` may run meanwhile
        # Longer than the delivery timeout: by then every record has either arrived or failed.
        self._producer.flush(DELIVERY_TIMEOUT_MS / 1000 + 1)
        if failed:
            self._renew_if_fatal(failed[0])
            raise KafkaException(failed[0])
        if waiting:
            raise Transient(f"{waiting} records were not acknowledged within {DELIVERY_TIMEOUT_MS} ms")

    def _hand_over(
        self, topic: str, partition: int, messages: list[dict[str, Any]], delivered: Callable[..., None]
    ) -> int:
        """Give the client all of them, in order, at a third of what it costs one by one; returns how many."""
        count = len(messages)
        while True:
            self._producer.produce_batch(topic, messages, partition=partition, on_delivery=delivered)
            refused = [message for message in messages if "_error" in message]
            if not refused:
                return count
            error: KafkaError = refused[0]["_error"]
            if error.code() != KafkaError._QUEUE_FULL:
                self._renew_if_fatal(error)
                raise KafkaException(error)
            self._producer.poll(POLL_S)
            messages = [{name: value for name, value in m.items() if name != "_error"} for m in refused]

    def _renew_if_fatal(self, error: KafkaError) -> None:
        """An idempotent producer that has lost its place never works again; a new one does."""
        if error.fatal() or error.code() == KafkaError._FATAL:
            logger.warning("renewing the producer", error=error.str())
            self._producer.purge()
            self._producer = Producer(self._config)


class Acknowledged(NamedTuple):
    """Where the log has put a record, and when by the broker's clock (LogAppendTime)."""

    partition: int
    offset: int
    at: Milliseconds


Reported = Callable[[Acknowledged | None], None]
"""Told a record's fate, even after its future has timed out: its place in the log, or None when it failed."""


class _Gathered(NamedTuple):
    """A record that has not been handed to the client yet, and who is told of its delivery."""

    topic: str
    key: bytes
    value: bytes
    partition: int
    delivered: Callable[[KafkaError | None, Message | None], None]


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
    """Publishes single records from an event loop, which hands over and learns of many at once.

    A record goes to the client at once if none has gone there within the last `spacing_s`, else with all that come
    until then: who is alone waits for nobody. librdkafka sends a request for each partition (its issue 1700), and its
    own `linger.ms` waits in each of them by itself, even when there is nothing to wait for.

    The loop asks for delivery reports itself, every `REPORTS_EVERY_S` while any are due. A poller thread would fight
    the loop for the interpreter lock; `confluent_kafka.aio.AIOProducer` buffers behind a timer that a request would
    wait for.
    """

    def __init__(self, bootstrap_servers: str, client_id: str, *, spacing_s: float, deadline_s: float) -> None:
        """Call it in the loop. A future that has not ended after `deadline_s` ends with `TimeoutError`."""
        self._config = producer_config(bootstrap_servers, client_id, linger_ms=HANDING_OVER_MS)
        self._config["error_cb"] = self._on_error
        self.spacing_s = spacing_s
        """May be changed at any time, by any thread."""
        self._deadline_s = deadline_s
        self._producer = Producer(self._config)
        self._retired: list[Producer] = []
        self._loop = asyncio.get_running_loop()
        # Oldest first: all have the same time to live, so only the head can have expired.
        self._waiting: deque[tuple[float, asyncio.Future[Acknowledged]]] = deque()
        self._gathered: list[_Gathered] = []
        self._handed_over_at = 0.0
        self._next_poll = self._loop.call_later(ERRORS_EVERY_S, self._poll)
        self.in_flight = 0
        """Records whose fate is not known yet."""
        self.acknowledged = 0
        """Records that the log has taken, ever: as long as this rises, the broker is there."""
        self.all_brokers_down = threading.Event()
        """Set when the client has lost its last connection; for the one who asks `reachable` to clear."""

    def publish(
        self, topic: str, key: bytes, value: bytes, partition: int = -1, *, reported: Reported | None = None
    ) -> "asyncio.Future[Acknowledged]":
        """Take a record on. The future ends with its place in the log, a `KafkaException`, a `TimeoutError`."""
        future: asyncio.Future[Acknowledged] = self._loop.create_future()
        now = self._loop.time()
        self._waiting.append((now + self._deadline_s, future))
        self.in_flight += 1
        if not self._gathered:
            # Even when it is due at once, what the loop reads in this same round goes with it.
            self._loop.call_later(max(0.0, self._handed_over_at + self.spacing_s - now), self._hand_over)
        self._gathered.append(_Gathered(topic, key, value, partition, partial(self._delivered, future, reported)))
        return future

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._handed_over_at = self._loop.time()
        for topic, key, value, partition, delivered in gathered:
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=delivered)
            except Exception as error:
                # By the loop, so that whatever comes of it does not concern those behind.
                self._loop.call_soon(delivered, _as_kafka_error(error), None)
        self._next_poll.cancel()
        self._next_poll = self._loop.call_later(REPORTS_EVERY_S, self._poll)

    def _delivered(
        self,
        future: "asyncio.Future[Acknowledged]",
        reported: Reported | None,
        error: KafkaError | None,
        message: Message | None,
    ) -> None:
        self.in_flight -= 1
        if error is None and message is not None:
            self.acknowledged += 1
            place = Acknowledged(message.partition(), message.offset(), Milliseconds(message.timestamp()[1]))  # type: ignore[arg-type]
            if not future.done():
                future.set_result(place)
        else:
            assert error is not None
            place = None
            if not future.done():
                future.set_exception(KafkaException(error))
        if reported is not None:
            reported(place)
        if error is not None:
            self._renew_if_fatal(error)

    def _poll(self) -> None:
        self._producer.poll(0)
        if self._retired:
            self._drain_retired()
        self._expire()
        awaited = self.in_flight > len(self._gathered)
        self._next_poll = self._loop.call_later(REPORTS_EVERY_S if awaited else ERRORS_EVERY_S, self._poll)

    def _expire(self) -> None:
        now = self._loop.time()
        waiting = self._waiting
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now):
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(TimeoutError())

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.all_brokers_down.set()

    def _renew_if_fatal(self, error: KafkaError) -> None:
        """An idempotent producer that has lost its place never works again; a new one does."""
        fatal = error.fatal() or error.code() == KafkaError._FATAL
        if fatal and not self._retired:
            logger.warning("renewing the producer after a fatal error: {}", error.str())
            self._retired.append(self._producer)
            self._producer = Producer(self._config)

    def _drain_retired(self) -> None:
        """What a broken producer still holds fails, and each record's waiter is told so."""
        for producer in self._retired:
            producer.purge()
            producer.poll(0)
        self._retired = [producer for producer in self._retired if len(producer)]

    def reachable(self, topic: str, timeout_s: float) -> bool:
        """Whether the broker answers and has the topic. Blocks; call it in a thread."""
        try:
            found = self._producer.list_topics(topic, timeout_s).topics[topic]
        except KafkaException:
            return False
        return found.error is None

    async def close(self) -> None:
        """Wait for what is in flight: at most the delivery timeout, by which each record has arrived or failed."""
        while self.in_flight:  # noqa: ASYNC110 - once in a process's life; an event would cost every record
            await asyncio.sleep(ERRORS_EVERY_S)
        self._next_poll.cancel()
