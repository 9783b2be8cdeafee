import threading
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from common.codec import encode
from common.config.env import Env
from common.config.process import process_settings
from common.consume import commits, inbox
from common.consume.handler import HELD_RECORDS_MAX, InOrderOfArrival
from common.consume.inbox import Inbox
from common.consume.parking import sort
from common.consume.positions import Start
from common.consume.reading import Reading
from common.consume.records import TIME_MAX, Arrival
from common.consume.timetable import LONG_SLOT_S, SLOT_S, Timetable
from common.errors import Failure, LossDetected, TandemError, classify
from common.events import Milliseconds, rfc3339
from common.kafka.broker import Partition
from tests.unit.orders import placed

PARTITION = Partition("orders", 0)


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

    process = process_settings(Env("payment", {"DB": "postgresql://x", "AUTH": "off"}), database="DB", port=8082)
    joined = Inbox(
        process, "payment", ["orders"], threading.Event(), find_starts, everything, lambda _: None, InOrderOfArrival(),
        Timetable(0.0), lambda *_: {},
    )  # fmt: skip
    with pytest.raises(KafkaException):
        joined.next_batch()


class SlowClient(Client):
    """Answers a commit when the test says so."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.answer = settings["on_commit"]
        self.commits: list[dict[int, int]] = []
        self.closed = False
        self.paused: set[int] = set()

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {tp.partition for tp in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {tp.partition for tp in partitions}

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
    monkeypatch.setattr(commits, "COMMIT_EVERY_S", 0.0)
    process = process_settings(Env("payment", {"DB": "postgresql://x", "AUTH": "off"}), database="DB", port=8082)
    joined = Inbox(
        process, "payment", ["orders"], threading.Event(), lambda *_: [], [], lambda _: None, InOrderOfArrival(),
        Timetable(0.0), lambda *_: {},
    )  # fmt: skip
    joined.positions = {Partition("orders", number): 100 for number in range(2)}
    client: Any = joined._consumer
    return joined, client


def test_it_pauses_the_partitions_that_are_ahead_until_they_are_not(
    slow: tuple[Inbox, SlowClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined, client = slow
    first, second, elsewhere = (Partition("orders", number) for number in range(3))
    arrivals = SimpleNamespace(held=1, ahead=set(), due=lambda _: [], drop=lambda _: None)
    monkeypatch.setattr(joined, "_arrivals", arrivals)
    monkeypatch.setattr(joined, "_fill", lambda: None)
    for ahead, paused in (
        ({first, elsewhere}, {0}),
        ({first}, {0}),
        ({second}, {1}),
        ({first, second}, {0, 1}),
        ({second}, {1}),
    ):
        arrivals.ahead = ahead
        joined.next_batch()
        assert client.paused == paused
    joined.wait(0.0)
    assert client.paused == {1}
    joined._lost(client, [TopicPartition("orders", 1)])  # type: ignore[arg-type]
    joined.positions[second] = 100
    joined.wait(0.0)
    assert client.paused == set()


def test_it_reads_no_more_while_too_many_records_are_held(
    slow: tuple[Inbox, SlowClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined, _ = slow
    monkeypatch.setattr(joined, "_fill", lambda: pytest.fail("it reads on"))
    waited: list[float] = []
    monkeypatch.setattr(joined, "wait", waited.append)
    monkeypatch.setattr(joined, "_arrivals", SimpleNamespace(held=HELD_RECORDS_MAX + 1, ahead=set(), due=lambda _: []))
    assert joined.next_batch() == []
    assert waited == [inbox.POLL_S]


@pytest.mark.parametrize(("batch_s", "slot_s"), [(0.005, SLOT_S), (0.02, LONG_SLOT_S)])
def test_a_busy_consumer_waits_for_long_slots(
    slow: tuple[Inbox, SlowClient], monkeypatch: pytest.MonkeyPatch, batch_s: float, slot_s: float
) -> None:
    joined, _ = slow
    clock = SimpleNamespace(at_s=1_000.0)
    monkeypatch.setattr(inbox, "time", SimpleNamespace(monotonic=lambda: clock.at_s, time=lambda: clock.at_s))
    monkeypatch.setattr(joined, "_fill", lambda: None)
    due = [SimpleNamespace(record=SimpleNamespace(value=b""))]
    monkeypatch.setattr(joined, "_arrivals", SimpleNamespace(held=0, ahead=set(), due=lambda _: due))
    waits = []
    for _ in range(100):
        due = [SimpleNamespace(record=SimpleNamespace(value=b""))]
        assert joined.next_batch()
        waits.append(joined._next_slot_at - clock.at_s)
        clock.at_s += batch_s
        due = []
        assert joined.next_batch() == []  # what comes later is not the batch's time
        clock.at_s = joined._next_slot_at + 0.005
        assert joined.next_batch() == []
    assert waits[-1] == pytest.approx(slot_s - 0.005)


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
    monkeypatch.setattr(commits, "COMMIT_EVERY_S", 1e9)
    joined.commit_soon({Partition("orders", 0): 10})
    joined._revoked(client, [TopicPartition("orders", 0)])  # type: ignore[arg-type]
    joined.commit_soon({Partition("orders", 1): 20})
    joined.close()
    assert client.commits == [{0: 10}, {1: 20}]
    assert client.closed


class FakeMessage:
    """Stands for a message of the client."""

    def __init__(
        self,
        offset: int,
        value: bytes | None = b"{}",
        *,
        kind: int = TIMESTAMP_LOG_APPEND_TIME,
        at: int = 5,
        error: KafkaError | None = None,
    ) -> None:
        self._offset, self._value, self._time, self._error = offset, value, (kind, at), error

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError | None:
        return self._error

    def key(self) -> bytes | None:
        return b"ann"

    def value(self) -> bytes | None:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return self._time

    def headers(self) -> None:
        raise SystemError("a header's name is not UTF-8")


def received(
    slow: tuple[Inbox, SlowClient], *messages: FakeMessage, skipped: dict[int, str] | None = None
) -> list[Arrival]:
    """What an inbox at offset 100 makes of these messages."""
    joined, _ = slow
    joined._reading = {("orders", 0): Reading(PARTITION, 100, skipped or {})}
    joined._receive(messages)  # type: ignore[arg-type]
    return joined._arrivals.due(0.0)


def test_headers_are_not_read(slow: tuple[Inbox, SlowClient]) -> None:
    [arrival] = received(slow, FakeMessage(100))
    assert "is not an event" in arrival.error


@pytest.mark.parametrize(
    ("kind", "at", "kept"),
    [
        (TIMESTAMP_CREATE_TIME, 7, 7),
        (TIMESTAMP_CREATE_TIME, -(2**63), 0),
        (TIMESTAMP_CREATE_TIME, 2**63 - 1, TIME_MAX),
        (TIMESTAMP_NOT_AVAILABLE, -1, 0),
        (TIMESTAMP_LOG_APPEND_TIME, 2**63 - 1, TIME_MAX),
    ],
)
def test_a_record_without_the_brokers_time_is_poison(
    slow: tuple[Inbox, SlowClient], kind: int, at: int, kept: int
) -> None:
    [arrival] = received(slow, FakeMessage(100, kind=kind, at=at))
    assert arrival.record.at == kept
    assert rfc3339(arrival.record.at)
    assert arrival.error.startswith("orders/0@100: has a client's time")
    assert "'just topics create'" in arrival.error


def test_missing_records_are_a_loss(slow: tuple[Inbox, SlowClient]) -> None:
    with pytest.raises(LossDetected, match=r"continues at offset 103 instead of 100.*'just dlq skip orders/0@100'"):
        received(slow, FakeMessage(103))


def test_an_offset_that_was_read_already_is_a_loss(slow: tuple[Inbox, SlowClient]) -> None:
    with pytest.raises(LossDetected, match="continues at offset 100 instead of 101"):
        received(slow, FakeMessage(100), FakeMessage(100))


def test_offsets_of_a_transaction_or_given_up_are_passed(slow: tuple[Inbox, SlowClient]) -> None:
    joined, _ = slow
    joined._without_record = lambda *_: {100: Milliseconds(3), 101: Milliseconds(4)}
    arrivals = received(slow, FakeMessage(103), FakeMessage(104), skipped={102: "ann: lost with its disk"})
    assert [arrival.record.offset for arrival in arrivals] == [100, 101, 102, 103, 104]
    outcome = sort(arrivals, {PARTITION: 100}, {})
    assert [parked.record.offset for parked in outcome.parked] == [103, 104], "holes move the position and that is all"


def test_a_record_that_an_operator_has_given_up_is_parked_unread(slow: tuple[Inbox, SlowClient]) -> None:
    good = FakeMessage(100, encode(placed()))
    arrivals = received(slow, good, FakeMessage(101), skipped={100: "ann: it ends the consumer"})
    assert arrivals[0].error == "skipped by ann: it ends the consumer"
    assert "is not an event" in arrivals[1].error


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (KafkaError.UNSUPPORTED_VERSION, Failure.FATAL),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Failure.TRANSIENT),
        (KafkaError._TRANSPORT, Failure.TRANSIENT),
    ],
)
def test_an_error_of_the_client_names_the_topic(slow: tuple[Inbox, SlowClient], code: int, failure: Failure) -> None:
    with pytest.raises(TandemError, match="topic 'orders' cannot be read: ") as raised:
        received(slow, FakeMessage(100, error=KafkaError(code)))
    assert classify(raised.value) is failure
