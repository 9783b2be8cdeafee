"""Kafka clients, set up in one place: the same partitioner everywhere, acknowledged by the log or not at all.

librdkafka's own threads do the network; what is here decides when Python wakes up.
"""

import asyncio
import threading
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from loguru import logger

from common.errors import Transient

# Java's partitioner, so that any client of any language puts a customer into the same partition.
PARTITIONER: Final = "murmur2_random"
DELIVERY_TIMEOUT_MS: Final = 10_000
PRODUCER_BUFFER_KIB: Final = 64 * 1024
PRODUCER_BUFFER_MESSAGES: Final = 200_000
MAX_POLL_INTERVAL_MS: Final = 300_000
CONSUMER_BUFFER_KIB: Final = 16 * 1024
POLL_S: Final = 0.1


class Outgoing(NamedTuple):
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
        "log_level": 3,
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
        # The default second of waiting when the local queue is full stalls a fast consumer.
        "fetch.queue.backoff.ms": 5,
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


class Publisher:
    """Publishes a batch and waits until the log has all of it. For a consumer's thread; not shared."""

    def __init__(self, bootstrap_servers: str, client_id: str) -> None:
        # flush() does not wait for the linger, so it costs a batch nothing; it groups what is produced meanwhile.
        self._config = producer_config(bootstrap_servers, client_id, linger_ms=5)
        self._producer = Producer(self._config)

    def publish(self, records: Iterable[Outgoing]) -> None:
        """Raises `Transient` unless every record was acknowledged within the delivery timeout."""
        failed: list[KafkaError] = []
        waiting = 0

        def delivered(error: KafkaError | None, _: Message) -> None:
            nonlocal waiting
            waiting -= 1
            if error is not None:
                failed.append(error)

        produce = self._producer.produce
        for topic, partition, key, value in records:
            while True:
                try:
                    produce(topic, value, key, partition, on_delivery=delivered)
                    waiting += 1
                    break
                except BufferError:
                    self._producer.poll(POLL_S)
                except KafkaException as error:
                    self._renew_if_fatal(error.args[0])
                    raise Transient(f"cannot produce to {topic}: {error.args[0].str()}") from error
        # Longer than the delivery timeout: by then every record has either arrived or failed.
        self._producer.flush(DELIVERY_TIMEOUT_MS / 1000 + 1)
        if failed:
            self._renew_if_fatal(failed[0])
            raise Transient(f"{len(failed)} records were not acknowledged: {failed[0].str()}")
        if waiting:
            raise Transient(f"{waiting} records were not acknowledged within {DELIVERY_TIMEOUT_MS} ms")

    def _renew_if_fatal(self, error: KafkaError) -> None:
        """An idempotent producer that has lost its place never works again; a new one does."""
        if error.fatal() or error.code() == KafkaError._FATAL:
            logger.warning("renewing the producer", error=error.str())
            self._producer.purge()
            self._producer = Producer(self._config)

    def ping(self, timeout_s: float) -> None:
        """Ask the broker for its topics. Raises `KafkaException` when it does not answer within `timeout_s`."""
        self._producer.list_topics(timeout=timeout_s)


class Acknowledged(NamedTuple):
    """Where the log has put a record. `timestamp_ms` is the broker's own (LogAppendTime)."""

    partition: int
    offset: int
    timestamp_ms: int


class AsyncPublisher:
    """Publishes single records from an event loop and wakes it once a poll, not once a record.

    A poller thread collects the delivery reports and hands the loop a list. `confluent_kafka.aio.AIOProducer` is
    not used: it buffers behind a timer of its own, which a request would wait for.
    """

    def __init__(self, bootstrap_servers: str, client_id: str, *, linger_ms: float) -> None:
        self._config = producer_config(bootstrap_servers, client_id, linger_ms=linger_ms)
        self._producer = Producer(self._config)
        self._loop = asyncio.get_running_loop()
        self._reports: list[tuple[asyncio.Future[Acknowledged], KafkaError | None, Acknowledged | None]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="delivery-poller", daemon=True)
        self._thread.start()

    def publish(self, topic: str, key: bytes, value: bytes) -> "asyncio.Future[Acknowledged]":
        """Hand a record to the client. The future ends with its place in the log, or with a `KafkaException`.

        Raises `BufferError` at once when the client's buffer is full, `KafkaException` when it is broken.
        """
        future: asyncio.Future[Acknowledged] = self._loop.create_future()

        def delivered(error: KafkaError | None, message: Message) -> None:
            place = None if error else Acknowledged(message.partition(), message.offset(), message.timestamp()[1])  # type: ignore[arg-type]
            self._reports.append((future, error, place))

        self._producer.produce(topic, value, key, on_delivery=delivered)
        return future

    def _poll(self) -> None:
        while not self._stopping.is_set() or len(self._producer):
            self._producer.poll(POLL_S)
            if self._reports:
                reports, self._reports = self._reports, []
                self._loop.call_soon_threadsafe(self._resolve, reports)

    def _resolve(
        self, reports: list[tuple["asyncio.Future[Acknowledged]", KafkaError | None, Acknowledged | None]]
    ) -> None:
        for future, error, place in reports:
            if error is not None and (error.fatal() or error.code() == KafkaError._FATAL):
                self._renew()
            if future.done():
                continue
            if error is not None:
                future.set_exception(KafkaException(error))
            else:
                assert place is not None
                future.set_result(place)

    def _renew(self) -> None:
        logger.warning("renewing the producer after a fatal error")
        self._producer = Producer(self._config)

    def in_flight(self) -> int:
        """Records handed over and not yet acknowledged."""
        return len(self._producer)

    def reachable(self, timeout_s: float) -> bool:
        """Whether the broker answers. Blocks; call it in a thread."""
        try:
            self._producer.list_topics(timeout=timeout_s)
        except KafkaException:
            return False
        return True

    def close(self) -> None:
        """Wait for what is in flight, at most the delivery timeout, and stop the poller."""
        self._producer.flush(DELIVERY_TIMEOUT_MS / 1000)
        self._stopping.set()
        self._thread.join(timeout=2 * POLL_S + 1)
