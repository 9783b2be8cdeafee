"""Queries to the broker, here librdkafka's mock broker: they return an answer, or raise `Transient`."""

from concurrent.futures import Future
from typing import Final

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from common.errors import Transient
from common.kafka import broker
from common.kafka.broker import Partition

MOCK: Final = {"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0}


@pytest.fixture(scope="module")
def admin() -> AdminClient:
    """A client of a broker that has the topic `orders`, with a record in partition 2."""
    producer = Producer(MOCK)
    [address] = [f"{b.host}:{b.port}" for b in producer.list_topics("orders", 5.0).brokers.values()]
    producer.produce("orders", b"value", partition=2)
    producer.flush()
    client = AdminClient({"bootstrap.servers": address, "allow.auto.create.topics": False})
    client.mock_of = producer  # type: ignore[attr-defined]  # the broker lives as long as this producer
    return client


def test_every_partition_has_an_end(admin: AdminClient) -> None:
    partitions = [Partition("orders", 1), Partition("orders", 2)]
    assert broker.log_ends(admin, partitions) == {partitions[0]: 0, partitions[1]: 1}
    assert broker.log_bounds(admin, partitions) == {partitions[0]: (0, 0), partitions[1]: (0, 1)}


def test_a_missing_topic_or_partition_is_an_error(admin: AdminClient) -> None:
    """Without an end, every order would lie before the end: the api would answer 404 for an accepted order."""
    with pytest.raises(Transient, match="the ends of the log cannot be read"):
        broker.log_ends(admin, [Partition("payments", 0)])
    with pytest.raises(Transient, match="the ends of the log cannot be read"):
        broker.log_ends(admin, [Partition("orders", 0), Partition("orders", 9)])


def test_a_missing_topic_cannot_be_described() -> None:
    """The mock broker cannot answer this question."""
    answer: Future[object] = Future()
    answer.set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))

    class Admin:
        def describe_topics(self, *_: object, **__: object) -> "dict[str, Future[object]]":
            return {"orders": answer}

    with pytest.raises(Transient, match=r"topic 'orders' cannot be described; try 'just topics': .*[Uu]nknown topic"):
        broker.describe(Admin(), ["orders"])  # type: ignore[arg-type]


def test_a_broker_that_is_away_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "REQUEST_TIMEOUT_S", 0.1)
    nobody = AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    with pytest.raises(Transient):
        broker.describe(nobody, ["orders"])
    with pytest.raises(Transient):
        broker.log_ends(nobody, [Partition("orders", 0)])
