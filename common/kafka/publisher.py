"""Publishes a batch's results and waits until the log has them."""

import asyncio
from collections.abc import Iterable
from typing import Final

import uvloop
from confluent_kafka import KafkaError, KafkaException

from common.config.kafka import Brokers
from common.errors import Transient
from common.kafka.clients import DELIVERY_TIMEOUT_MS, PRODUCER_SOCKET_TIMEOUT_MS, Delivery, delivery_of
from common.kafka.produce.batch import Acknowledged, Outgoing
from common.kafka.produce.producer import Producer

PUBLISH_TIMEOUT_S: Final = (DELIVERY_TIMEOUT_MS + PRODUCER_SOCKET_TIMEOUT_MS) / 1000 + 1
"""By then every record has either arrived or failed."""


class Publisher:
    """Publishes a batch and waits until the log has all of it. For a consumer's thread; not shared."""

    def __init__(self, brokers: Brokers, client_id: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._producer = self._runner.run(self._new_producer(brokers, client_id))

    @staticmethod
    async def _new_producer(brokers: Brokers, client_id: str) -> Producer:
        return Producer(brokers, client_id)

    def publish(self, records: Iterable[Outgoing]) -> None:
        """Raises `KafkaException` or `Transient` unless every record was acknowledged within the delivery timeout."""
        records = list(records)
        if not records:
            return
        loop = self._runner.get_loop()
        done: asyncio.Future[None] = loop.create_future()
        failed: list[tuple[KafkaError, str, int]] = []  # not the records: see Outgoing
        waiting = len(records)
        timer: asyncio.TimerHandle | None = None

        def delivered(record: Outgoing, _: Acknowledged | None, error: KafkaError | None) -> None:
            nonlocal waiting
            waiting -= 1
            if error is not None:
                failed.append((error, record.topic, len(record.value)))
            if waiting == 0 and not done.done():
                done.set_result(None)

        def send() -> None:
            nonlocal timer
            timer = loop.call_later(PUBLISH_TIMEOUT_S, give_up)
            try:
                self._producer.produce(records)
            except Exception as error:
                if done.done():
                    raise
                done.set_exception(error)

        def give_up() -> None:
            if not done.done():
                late = f"{waiting} records were not acknowledged within {DELIVERY_TIMEOUT_MS} ms"
                done.set_exception(Transient(late))

        for record in records:
            record.delivered = delivered
        # Without a task: one costs 0.1 ms after a pause. The loop's clock stands still while the loop does not run, so
        # the producer is called within it.
        loop.call_soon(send)
        try:
            loop.run_until_complete(done)
        finally:
            if timer is not None:
                timer.cancel()
        if failed:
            error, topic, size = failed[0]
            if delivery_of(error) is Delivery.REFUSED:
                raise Transient(
                    f"topic {topic!r} refuses a record of {size} bytes: {error.str()}; "
                    "'just topics' names settings that are not as they must be"
                )
            raise KafkaException(error)

    def close(self) -> None:
        """End its connections. It publishes nothing any more."""
        self._producer.close()
        self._runner.close()
