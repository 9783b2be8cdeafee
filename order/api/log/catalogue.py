"""What can be ordered and at which price: the compacted `products` topic, held in memory.

A thread reads all partitions from the beginning, outside any consumer group, and keeps the highest version of each
product. It is a cache: an undecodable record is logged, counted and passed over, since the relay of inventory publishes
the product again with its next change. The event loop only looks products up; a dictionary needs no lock for that.

A topic that was created anew is another catalogue, whose versions start again. It is read beside the old one, and then
replaces it. While the broker is away the catalogue stays in use; no order can be placed then anyway.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition
from loguru import logger
from prometheus_client import Counter

from common.codec import UNDECODABLE, decoder_for
from common.config.kafka import Brokers
from common.errors import LossDetected
from common.events import PRODUCTS, ProductData
from common.kafka import broker
from common.kafka.broker import TopicWatch
from common.kafka.clients import client_config, reader_config
from common.kafka.identity import AdminClient, Consumer
from common.worker import Worker

_UNREAD: Final = f"topic {PRODUCTS!r} has not been read to its end"
POLL_S: Final = 0.5
RECORDS_MAX: Final = 1_000
STOP_TIMEOUT_S: Final = 10.0

_undecodable = Counter("tandem_catalogue_undecodable_total", "Records of the products topic that were passed over.")


class Edition:
    """The products of one topic as far as it has been read. The highest version of each product counts."""

    def __init__(self, partitions: int) -> None:
        self.products: dict[str, ProductData] = {}
        self._unread = set(range(partitions))

    def apply(self, product: ProductData) -> None:
        earlier = self.products.get(product.product_id)
        if earlier is None or product.version > earlier.version:
            self.products[product.product_id] = product

    def set_at_end(self, partition: int, at_end: bool) -> None:
        """Note whether the partition has no further record now."""
        if at_end:
            self._unread.discard(partition)
        else:
            self._unread.add(partition)

    @property
    def at_end(self) -> bool:
        """Whether all partitions have been read to their ends."""
        return not self._unread

    @property
    def complete(self) -> bool:
        """Whether it is at the end, and there is something to order. The relay publishes a whole catalogue in one
        transaction: between the first of its products and the last there is no end."""
        return self.at_end and bool(self.products)


class Catalogue(Worker):
    """The catalogue in use: `products` by id, empty until the topic has been read to its end."""

    def __init__(self, brokers: Brokers, instance: str) -> None:
        super().__init__("catalogue", self._read, retries_fatal=True, stop_timeout_s=STOP_TIMEOUT_S)
        self._brokers = brokers
        self._client_id = f"{instance}-catalogue"
        self.products: Mapping[str, ProductData] = {}
        self.report(_UNREAD)

    def missing(self) -> list[str]:
        return [] if self.products else super().missing()

    def _read(self) -> None:
        """Read the topic as it is now until it is another one, or the process ends."""
        admin = AdminClient(client_config(self._brokers, self._client_id))
        topic = broker.describe(admin, [PRODUCTS])[PRODUCTS]
        edition = Edition(topic.partitions)
        self.report(_UNREAD)
        config = reader_config(self._brokers, self._client_id)
        consumer = Consumer({**config, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 100})
        try:
            consumer.assign([TopicPartition(PRODUCTS, n, OFFSET_BEGINNING) for n in range(topic.partitions)])
            watch = TopicWatch(admin, {PRODUCTS: topic})
            while not self.stopping.is_set():
                self._take_in(edition, _poll(consumer))
                watch.check(time.monotonic())
        except LossDetected:
            logger.warning("topic {!r} is another one now: reading it from its beginning", PRODUCTS)
        finally:
            consumer.close()

    def _take_in(self, edition: Edition, messages: Iterable[Message]) -> None:
        for message in messages:
            partition, error = message.partition(), message.error()
            assert partition is not None
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if error is None and (product := product_in(message)) is not None:
                edition.apply(product)
            edition.set_at_end(partition, error is not None)
        if edition.at_end and not edition.products:
            self.report(f"no product in topic {PRODUCTS!r}; does inventory run?")
        if edition.complete and self.products is not edition.products:
            self.products = edition.products
            logger.info("the catalogue is read", products=len(self.products))


def _poll(consumer: Consumer) -> list[Message]:
    """The records that have arrived. Waits for the first only; `consume` would wait for all of them."""
    first = consumer.consume(1, POLL_S)
    return first and first + consumer.consume(RECORDS_MAX - 1, 0)


def product_in(message: Message) -> ProductData | None:
    """The product in a record of the catalogue; None, and a line in the log, if it cannot be read."""
    value = message.value()
    try:
        product: ProductData = decoder_for[PRODUCTS].decode(value or b"").data
    except UNDECODABLE as error:
        _undecodable.inc()
        logger.error(
            "a record of the catalogue cannot be decoded and is passed over: {}",
            str(error),
            topic=PRODUCTS,
            partition=message.partition(),
            offset=message.offset(),
        )
        return None
    return product
