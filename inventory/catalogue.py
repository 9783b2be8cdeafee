"""The topic `products` compared with the table that it is published from.

They differ when the topic was deleted and made again, when records were deleted from it, when someone wrote to it by
hand, and when the database was restored from a backup. What the topic lacks can be published again. What the database
lacks only an operator may decide: see `ops.replay.inventory`.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from common.codec import decoded, decoder_for
from common.config.kafka import Brokers
from common.errors import LossDetected
from common.events import PRODUCTS, ProductChanged, ProductData
from common.kafka.broker import Topic
from common.kafka.clients import reader_config
from common.kafka.identity import Consumer

POLL_S: Final = 0.2
RECORDS_MAX: Final = 2_000


class Entry(NamedTuple):
    """A product's row: its entry in the catalogue, and the version that is known to be in the log; 0 for none."""

    published_version: int
    product: ProductData


class Published:
    """The products as a topic has them."""

    def __init__(self) -> None:
        self.newest: dict[str, ProductData] = {}
        """Each product at its highest version, which is what the order api charges."""
        self.last: dict[str, int] = {}
        """The version in each product's last record, which is the one that compaction keeps; 0 if it cannot be read."""

    def apply(self, key: str, product: ProductData | None) -> None:
        """Take in a record: its key, and the product if there is one in it."""
        self.last[key] = product.version if product is not None and product.product_id == key else 0
        if product is not None:
            before = self.newest.get(product.product_id)
            if before is None or product.version > before.version:
                self.newest[product.product_id] = product


class Difference(NamedTuple):
    """Where the topic and the table disagree, by product id."""

    unpublished: list[str]
    """Marked as published, and the topic does not have it as its last record."""
    behind: dict[str, tuple[ProductData, ProductData | None]]
    """Newer in the topic, or of the same version and different; with the database's entry, if it has one."""


def compare(published: Published, entries: Mapping[str, Entry]) -> Difference:
    behind: dict[str, tuple[ProductData, ProductData | None]] = {}
    for product_id, newest in published.newest.items():
        product = entries[product_id].product if product_id in entries else None
        if (
            product is None
            or product.version < newest.version
            or (product.version == newest.version and product != newest)
        ):
            behind[product_id] = (newest, product)
    unpublished = [
        product_id
        for product_id, (version, product) in entries.items()
        if version == product.version != published.last.get(product_id, 0) and product_id not in behind
    ]
    return Difference(unpublished, behind)


def check_not_behind(difference: Difference) -> None:
    """Raises `LossDetected` when the topic has entries that the database lacks. To publish older ones after them would
    bring old prices back."""
    if not difference.behind:
        return
    product_id, (newest, product) = min(difference.behind.items())
    there = "no row of it" if product is None else f"version {product.version}"
    if product is not None and product.version == newest.version:
        there = "another one"
    raise LossDetected(
        f"topic {PRODUCTS!r} has entries of {len(difference.behind)} products that the database lacks, such as "
        f"{product_id} in version {newest.version} (the database has {there}): it was restored from a backup, or rows "
        "were changed by hand; nothing is published until 'just replay inventory' has brought the entries back"
    )


def read(brokers: Brokers, client_id: str, topic: Topic) -> Iterator[list[tuple[str, ProductData | None]]]:
    """The records of the topic from its beginning to its end, poll by poll: the key of each, and the product if there
    is one in it. Raises `KafkaException`."""
    consumer = Consumer({**reader_config(brokers, client_id), "fetch.wait.max.ms": 100})
    try:
        consumer.assign([TopicPartition(topic.name, number, OFFSET_BEGINNING) for number in range(topic.partitions)])
        unread = set(range(topic.partitions))
        while unread:
            records: list[tuple[str, ProductData | None]] = []
            first = consumer.consume(1, POLL_S)
            for message in first and first + consumer.consume(RECORDS_MAX - 1, 0):
                error = message.error()
                if error is None:
                    event: ProductChanged | None = decoded(decoder_for[PRODUCTS].decode, message.value())
                    key = (message.key() or b"").decode(errors="replace")
                    records.append((key, None if event is None else event.data))
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition() or 0)
                else:
                    raise KafkaException(error)
            yield records
    finally:
        consumer.close()
