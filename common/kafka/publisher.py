"""Publishes a batch's results and waits until the log has them."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message
from loguru import logger
from msgspec import Struct

from common.config.kafka import Brokers
from common.errors import Transient
from common.kafka.clients import DELIVERY_TIMEOUT_MS, Delivery, delivery_of, failure_of, producer_config
from common.kafka.identity import Producer

FULL_QUEUE_POLL_S: Final = 0.1


class Outgoing(Struct, frozen=True, gc=False):
    """A record to publish. `partition` is given where a result must go to its order's partition number."""

    topic: str
    partition: int
    key: bytes
    value: bytes


class Publisher:
    """Publishes a batch and waits until the log has all of it. For a consumer's thread; not shared."""

    def __init__(self, brokers: Brokers, client_id: str) -> None:
        # flush() does not wait for the linger, so it costs a batch nothing; it groups what is produced meanwhile.
        self._config = producer_config(brokers, client_id, linger_ms=5)
        self._producer = Producer(self._config)

    def publish(self, records: Iterable[Outgoing]) -> None:
        """Raises `KafkaException` or `Transient` unless every record was acknowledged within the delivery timeout."""
        failed: list[tuple[KafkaError, Message]] = []
        waiting = 0

        def delivered(error: KafkaError | None, message: Message) -> None:
            nonlocal waiting
            waiting -= 1
            if failure := failure_of(error, message):
                failed.append((failure, message))

        # By partition: the partition of a single message is ignored (confluent-kafka 2.16), though documented.
        by_partition: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for record in records:
            message = {"value": record.value, "key": record.key}
            by_partition.setdefault((record.topic, record.partition), []).append(message)
        for (topic, partition), messages in by_partition.items():
            count = self._produce(topic, partition, messages, delivered)
            waiting += count  # not in one statement: `delivered` may run meanwhile
        # Longer than the delivery timeout: by then every record has either arrived or failed.
        self._producer.flush(DELIVERY_TIMEOUT_MS / 1000 + 1)
        if failed:
            error, unsent = failed[0]
            self._renew_if_fatal(error)
            if delivery_of(error) is Delivery.REFUSED:
                raise Transient(
                    f"topic {unsent.topic()!r} refuses a record of {len(unsent.value() or b'')} bytes: {error.str()}; "
                    "'just topics' names settings that are not as they must be"
                )
            raise KafkaException(error)
        if waiting:
            raise Transient(f"{waiting} records were not acknowledged within {DELIVERY_TIMEOUT_MS} ms")

    def _produce(
        self, topic: str, partition: int, messages: list[dict[str, Any]], delivered: Callable[..., None]
    ) -> int:
        """Pass the messages to the client, in order; returns how many. One call costs a third of one for each."""
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
            self._producer.poll(FULL_QUEUE_POLL_S)
            messages = [{name: value for name, value in m.items() if name != "_error"} for m in refused]

    def _renew_if_fatal(self, error: KafkaError) -> None:
        """After a fatal error an idempotent producer never works again; a new one does."""
        if error.fatal() or error.code() == KafkaError._FATAL:
            logger.warning("renewing the producer", error=error.str())
            self._producer.purge()
            self._producer = Producer(self._config)
