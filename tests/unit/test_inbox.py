import threading
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from common import config
from common.config import Env
from common.consume import inbox
from common.consume.handler import InOrderOfArrival
from common.consume.inbox import SPACING_MAX_S, SPACING_OF_BUSY, Inbox, spacing_s
from common.consume.positions import Start
from common.kafka.broker import Partition


def test_a_consumer_rests_for_a_share_of_the_time_that_its_last_batch_took() -> None:
    assert spacing_s(0.004) == SPACING_OF_BUSY * 0.004


def test_the_rest_after_a_long_batch_is_bounded() -> None:
    assert spacing_s(60.0) == SPACING_MAX_S


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_the_spacing_rises_with_the_work(one: float, other: float) -> None:
    assert spacing_s(min(one, other)) <= spacing_s(max(one, other))


class Client:
    """Stands for a consumer that gets a partition in its first poll."""

    def __init__(self, _: dict[str, Any]) -> None:
        self.callbacks: dict[str, Any] = {}

    def subscribe(self, _: list[str], **callbacks: Any) -> None:
        self.callbacks = callbacks

    def consume(self, _records: int, _timeout_s: float) -> list[Any]:
        try:
            self.callbacks["on_assign"](self, [TopicPartition("orders", 0)])
        except Exception as error:
            raise AssertionError("this would pass through C code") from error
        return []


def test_an_error_in_a_callback_is_raised_by_the_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "Consumer", Client)
    everything = [Partition("orders", 0)]

    def find_starts(_: Any, partitions: Any) -> list[Start]:
        if partitions is everything:
            return []
        raise KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))

    process = config.process(Env("payment", {"DB": "postgresql://x"}), database="DB", port=8082)
    joined = Inbox(
        process, "payment", ["orders"], threading.Event(), find_starts, everything, lambda _: None, InOrderOfArrival()
    )
    with pytest.raises(KafkaException):
        joined.next_batch()


class SlowClient(Client):
    """Answers a commit when the test says so."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.answer = settings["on_commit"]
        self.commits: list[dict[int, int]] = []
        self.closed = False

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.commits.append({tp.partition: tp.offset for tp in offsets})

    def close(self) -> None:
        self.closed = True

    def refuse(self, offsets: dict[int, int]) -> None:
        error = KafkaError(KafkaError.NOT_COORDINATOR)
        self.answer(error, [TopicPartition("orders", number, offset) for number, offset in offsets.items()])


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> tuple[Inbox, SlowClient]:
    """An inbox that has partitions 0 and 1 and commits at once, and its client."""
    monkeypatch.setattr(inbox, "Consumer", SlowClient)
    monkeypatch.setattr(inbox, "COMMIT_EVERY_S", 0.0)
    process = config.process(Env("payment", {"DB": "postgresql://x"}), database="DB", port=8082)
    joined = Inbox(
        process, "payment", ["orders"], threading.Event(), lambda *_: [], [], lambda _: None, InOrderOfArrival()
    )
    joined.positions = {Partition("orders", number): 100 for number in range(2)}
    client: Any = joined._consumer
    return joined, client


def test_a_refused_commit_is_retried_with_its_own_offsets(slow: tuple[Inbox, SlowClient]) -> None:
    joined, client = slow
    joined.commit_soon({Partition("orders", 0): 10})
    joined.commit_soon({Partition("orders", 1): 20})
    client.refuse({0: 10})
    joined.commit_soon({Partition("orders", 1): 21})
    assert client.commits == [{0: 10}, {1: 20}, {0: 10, 1: 21}]


def test_a_refused_commit_does_not_take_back_a_later_one(slow: tuple[Inbox, SlowClient]) -> None:
    joined, client = slow
    joined.commit_soon({Partition("orders", 0): 10})
    joined.commit_soon({Partition("orders", 0): 11})
    client.refuse({0: 10})
    joined.commit_soon({Partition("orders", 1): 20})
    assert client.commits == [{0: 10}, {0: 11}, {1: 20}]


def test_offsets_of_a_lost_partition_are_not_retried(slow: tuple[Inbox, SlowClient]) -> None:
    joined, client = slow
    joined.commit_soon({Partition("orders", 0): 10})
    joined._lost(client, [TopicPartition("orders", 0)])  # type: ignore[arg-type]
    client.refuse({0: 10})
    joined.commit_soon({Partition("orders", 1): 20})
    assert client.commits == [{0: 10}, {1: 20}]


def test_giving_up_a_partition_waits_for_no_commit(
    slow: tuple[Inbox, SlowClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that waits has no time limit. The client sends its commits before it lets go."""
    joined, client = slow
    monkeypatch.setattr(inbox, "COMMIT_EVERY_S", 1e9)
    joined.commit_soon({Partition("orders", 0): 10})
    joined._revoked(client, [TopicPartition("orders", 0)])  # type: ignore[arg-type]
    joined.commit_soon({Partition("orders", 1): 20})
    joined.close()
    assert client.commits == [{0: 10}, {1: 20}]
    assert client.closed
