"""Queries to the broker, here librdkafka's mock broker: they return an answer, or raise `Transient` or `Fatal`."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, Final

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from common.errors import Failure, TandemError, Transient, classify
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


class Refusing:
    """A client whose broker answers every description with an error. The mock broker cannot answer this question."""

    def __init__(self, code: int) -> None:
        self._error = KafkaException(KafkaError(code))

    def describe_topics(self, *_: object, **__: object) -> "dict[str, Future[object]]":
        answer: Future[object] = Future()
        answer.set_exception(self._error)
        return {"orders": answer}


def test_a_missing_topic_cannot_be_described() -> None:
    admin = Refusing(KafkaError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(Transient, match=r"topic 'orders' cannot be described; try 'just topics': .*[Uu]nknown topic"):
        broker.describe(admin, ["orders"])  # type: ignore[arg-type]


def test_a_missing_right_is_named_and_waited_for() -> None:
    admin = Refusing(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(TandemError, match=r"topic 'orders' cannot be described.*authorization failed") as refused:
        broker.describe(admin, ["orders"])  # type: ignore[arg-type]
    assert classify(refused.value) is Failure.TRANSIENT


def test_a_right_to_a_group_is_named_and_waited_for() -> None:
    class Unauthorized:
        def committed(self, *_: object) -> list[TopicPartition]:
            raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))

    with pytest.raises(TandemError, match=r"committed offsets cannot be read.*authorization failed") as refused:
        broker.committed_offsets(Unauthorized(), [Partition("orders", 0)])  # type: ignore[arg-type]
    assert classify(refused.value) is Failure.TRANSIENT


class NewBroker:
    """Refuses this many requests, each in another way."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def committed(self, partitions: list[TopicPartition], _: float) -> list[TopicPartition]:
        self.refusals -= 1
        if self.refusals < 0:
            return [TopicPartition(tp.topic, tp.partition, 17) for tp in partitions]
        error = KafkaError(KafkaError.NOT_COORDINATOR)
        if self.refusals % 2:
            raise KafkaException(error)
        return [SimpleNamespace(error=error)]  # type: ignore[list-item]


def test_a_coordinator_that_is_only_just_found_is_waited_for() -> None:
    partition = Partition("orders", 0)
    assert broker.committed_offsets(NewBroker(2), [partition]) == {partition: 17}  # type: ignore[arg-type]
    with pytest.raises(Transient, match="committed offsets cannot be read"):
        broker.committed_offsets(NewBroker(1_000), [partition], 0.1)  # type: ignore[arg-type]


class Replaced:
    """Asks the leader that was, until it is told to look for another one. That one refuses, or does not answer, of
    which the client makes an offset."""

    def __init__(self, found: int | None = None) -> None:
        self.looked = False
        self._found = found

    def list_topics(self, *, timeout: float) -> None:
        self.looked = True

    def list_offsets(self, specs: dict[TopicPartition, object], **_: object) -> dict[TopicPartition, "Future[Any]"]:
        future: Future[Any] = Future()
        if self.looked:
            future.set_result(SimpleNamespace(offset=17))
        elif self._found is not None:
            future.set_result(SimpleNamespace(offset=self._found))
        else:
            future.set_exception(KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH)))
        return dict.fromkeys(specs, future)


def test_the_ends_are_asked_of_the_new_leader_when_there_is_another_one() -> None:
    partition = Partition("orders", 0)
    assert broker.log_ends(Replaced(), [partition]) == {partition: 17}  # type: ignore[arg-type]
    assert broker.log_ends(Replaced(OFFSET_INVALID), [partition]) == {partition: 17}  # type: ignore[arg-type]


class Electing(Replaced):
    """The new leader has been found, and has not heard of it yet."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals

    def list_offsets(
        self, specs: dict[TopicPartition, object], **options: object
    ) -> dict[TopicPartition, "Future[Any]"]:
        self.refusals -= 1
        if self.refusals < 0:
            return super().list_offsets(specs, **options)
        future: Future[Any] = Future()
        future.set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_LEADER_EPOCH)))
        return dict.fromkeys(specs, future)


def test_the_ends_are_asked_again_while_a_leader_is_elected(monkeypatch: pytest.MonkeyPatch) -> None:
    partition = Partition("orders", 0)
    assert broker.log_ends(Electing(3), [partition]) == {partition: 17}  # type: ignore[arg-type]
    monkeypatch.setattr(broker, "REQUEST_TIMEOUT_S", 0.1)
    with pytest.raises(Transient, match=r"(?i)leader.epoch"):
        broker.log_ends(Electing(10**6), [partition])  # type: ignore[arg-type]


def test_a_broker_that_is_away_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "REQUEST_TIMEOUT_S", 0.1)
    nobody = AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    with pytest.raises(Transient):
        broker.describe(nobody, ["orders"])
    with pytest.raises(Transient):
        broker.log_ends(nobody, [Partition("orders", 0)])
