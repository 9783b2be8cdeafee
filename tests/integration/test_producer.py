"""The producer against a broker: other clients read what it wrote, where they would have put it."""

import asyncio
import random
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from common.kafka.async_publisher import AsyncPublisher
from common.kafka.broker import topic_ends
from common.kafka.clients import Delivery, delivery_of, producer_config, reader_config
from common.kafka.produce.batch import BATCH_BYTES_MAX, RECORD_OVERHEAD, Acknowledged, Outgoing
from common.kafka.publisher import Publisher
from tests.stack import Stack

TOPIC = "produced"
PARTITIONS = 6
ANSWER_S = 30.0


@pytest.fixture
def topic(stack: Stack) -> Iterator[str]:
    settings = {"message.timestamp.type": "LogAppendTime"}
    stack.admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1, config=settings)])[TOPIC].result()
    yield TOPIC
    stack.admin.delete_topics([TOPIC])[TOPIC].result()


def read(stack: Stack, topic: str) -> dict[tuple[int, int], tuple[bytes, bytes, int]]:
    """Key, value and time of each record, by its place; librdkafka checks the checksums."""
    reader = Consumer({**reader_config(stack.brokers, "test"), "check.crcs": True})
    ends = {partition.number: end for partition, end in topic_ends(stack.admin, [topic]).items()}
    reader.assign([TopicPartition(topic, number, 0) for number in ends])
    records: dict[tuple[int, int], tuple[bytes, bytes, int]] = {}
    while len(records) < sum(ends.values()):
        for message in reader.consume(500, 0.2):
            if message.error() is None:
                place = message.partition() or 0, message.offset() or 0
                records[place] = message.key() or b"", message.value() or b"", message.timestamp()[1]
    reader.close()
    return records


def test_what_is_acknowledged_is_where_it_was_said_to_be_and_where_other_clients_put_the_key(
    stack: Stack, topic: str
) -> None:
    choice = random.Random(38)
    sizes = [0, 1, 63, 64, 8_191, 8_192, *(choice.randrange(2_000) for _ in range(2_000))]
    sent = [(choice.randbytes(1 + size % 40), choice.randbytes(size)) for size in sizes]
    sent.append((b"large", b"x" * (BATCH_BYTES_MAX - RECORD_OVERHEAD - 5)))

    async def publish() -> list[Acknowledged]:
        publisher = AsyncPublisher(stack.brokers, "test", linger_s=0.001, deadline_s=ANSWER_S)
        futures = []
        for number, (key, value) in enumerate(sent):
            futures.append(publisher.send(topic, key, value))
            if number % 7 == 0:
                await asyncio.sleep(0)
        places = await asyncio.gather(*futures)
        await publisher.close()
        return places

    places = asyncio.run(publish())
    records = read(stack, topic)
    assert [records[partition, offset] for partition, offset, _ in places] == [
        (key, value, place.at) for (key, value), place in zip(sent, places, strict=True)
    ]
    assert len(records) == len(sent)

    other = Producer(producer_config(stack.brokers, "test", linger_ms=5))
    chosen = {key: place.partition for (key, _), place in zip(sent, places, strict=True)}
    for key in chosen:
        other.produce(topic, b"by librdkafka", key)
    assert other.flush(ANSWER_S) == 0
    by_librdkafka = {
        key: partition for (partition, _), (key, value, _) in read(stack, topic).items() if value == b"by librdkafka"
    }
    assert by_librdkafka == chosen


def test_a_publisher_goes_on_with_a_topic_that_was_made_anew_and_says_when_there_is_none(
    stack: Stack, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(stack.brokers, "test")
    for _ in range(3):
        publisher.publish(Outgoing(topic, number, b"k", b"before") for number in range(PARTITIONS))
    stack.admin.delete_topics([topic])[topic].result()
    monkeypatch.setattr("common.kafka.produce.producer.DELIVERY_TIMEOUT_MS", 1_000)
    with pytest.raises(KafkaException, match="Unknown topic") as raised:
        publisher.publish([Outgoing(topic, 0, b"k", b"meanwhile")])
    # A broker says the same of a partition that has left it while it waited for the copies.
    assert delivery_of(raised.value.args[0]) is Delivery.UNKNOWN
    monkeypatch.undo()
    stack.admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result()
    publisher.publish(Outgoing(topic, number, b"k", b"after") for number in range(PARTITIONS))
    publisher.close()
    assert {value for _, value, _ in read(stack, topic).values()} == {b"after"}
    assert len(read(stack, topic)) == PARTITIONS
