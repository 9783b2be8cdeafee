"""What an error of a broker means, and which number a batch has."""

import asyncio
from typing import Any

import pytest
from confluent_kafka import KafkaError

from common.events import Milliseconds
from common.kafka.produce import connection
from common.kafka.produce.batch import Acknowledged, Identity, Outgoing
from common.kafka.produce.connection import Connection
from common.kafka.produce.partition import Partition, Verdict, verdict_of
from common.kafka.produce.requests import Leader, Metadata, Result, Topic, newest
from tests.unit.kafka_brokers import AT_MS, records_of

ONE, OTHER = Identity(1, 0), Identity(2, 0)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (KafkaError.REQUEST_TIMED_OUT, Verdict.AGAIN),
        (KafkaError.NOT_ENOUGH_REPLICAS, Verdict.AGAIN),
        (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, Verdict.AGAIN),
        (KafkaError.INVALID_MSG, Verdict.AGAIN),
        (KafkaError.NOT_LEADER_FOR_PARTITION, Verdict.MOVED),
        (KafkaError.LEADER_NOT_AVAILABLE, Verdict.MOVED),
        (KafkaError.FENCED_LEADER_EPOCH, Verdict.MOVED),
        (KafkaError.UNKNOWN_LEADER_EPOCH, Verdict.MOVED),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Verdict.MOVED),
        (KafkaError.KAFKA_STORAGE_ERROR, Verdict.MOVED),
        (KafkaError.REPLICA_NOT_AVAILABLE, Verdict.MOVED),
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, Verdict.ANEW),
        (KafkaError.UNKNOWN_PRODUCER_ID, Verdict.ANEW),
        (KafkaError.INVALID_PRODUCER_EPOCH, Verdict.ANEW),
        (KafkaError.INVALID_PRODUCER_ID_MAPPING, Verdict.ANEW),
        (KafkaError.MSG_SIZE_TOO_LARGE, Verdict.SMALLER),
        (KafkaError.RECORD_LIST_TOO_LARGE, Verdict.SMALLER),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Verdict.FAILED),
        (KafkaError.INVALID_RECORD, Verdict.FAILED),
        (KafkaError.DUPLICATE_SEQUENCE_NUMBER, Verdict.FAILED),
        (-1, Verdict.FAILED),
    ],
)
def test_each_error_has_one_meaning(code: int, verdict: Verdict) -> None:
    assert verdict_of(code, 2) is verdict
    assert verdict_of(code, 1) is (Verdict.FAILED if verdict is Verdict.SMALLER else verdict)


def queued(partition: Partition, *values: bytes) -> list[Acknowledged | None]:
    fates: list[Acknowledged | None] = []
    for value in values:
        record = Outgoing("t", 0, b"k", value, lambda _, acknowledged, __: fates.append(acknowledged))
        partition.queue(record, record.size)
    return fates


def stored(offset: int) -> Result:
    return Result("t", 0, 0, offset, Milliseconds(AT_MS), "")


def test_numbers_go_on_behind_the_largest_from_the_beginning() -> None:
    """They have 31 bits."""
    partition = Partition("t", 0)
    partition._sequence, partition._identity = 2**31 - 2, ONE
    fates = queued(partition, b"1", b"2", b"3")
    batch = partition.next_batch(None, AT_MS)
    assert batch is not None
    assert records_of(batch.encoded).sequence == 2**31 - 2
    partition.stored(stored(7))
    assert fates == [(0, 7, AT_MS), (0, 8, AT_MS), (0, 9, AT_MS)]
    queued(partition, b"4")
    batch = partition.next_batch(None, AT_MS)
    assert batch is not None
    assert records_of(batch.encoded).sequence == 1


def test_an_identity_is_kept_until_nobody_knows_what_the_log_has_of_it() -> None:
    partition = Partition("t", 0)
    queued(partition, b"1")
    assert partition.next_batch(None, AT_MS) is None
    assert partition.next_batch(ONE, AT_MS) is not None
    partition.stored(stored(0))
    queued(partition, b"2")
    batch = partition.next_batch(OTHER, AT_MS)
    assert batch is not None
    assert (records_of(batch.encoded).producer_id, records_of(batch.encoded).sequence) == (1, 1)
    partition.unanswered(0.0)
    partition.fail(KafkaError(KafkaError._TIMED_OUT_QUEUE))
    queued(partition, b"3")
    assert partition.next_batch(ONE, AT_MS) is None
    batch = partition.next_batch(OTHER, AT_MS)
    assert batch is not None
    assert (records_of(batch.encoded).producer_id, records_of(batch.encoded).sequence) == (2, 0)


def test_what_waits_is_counted_whatever_becomes_of_it() -> None:
    partition = Partition("t", 0)
    queued(partition, b"1", b"22")
    size = sum(record.size for record in partition.waiting)
    assert partition.waiting_bytes == size > 0
    assert partition.next_batch(ONE, AT_MS) is not None
    assert partition.waiting_bytes == 0
    partition.refused(Result("t", 0, KafkaError.MSG_SIZE_TOO_LARGE, -1, Milliseconds(0), ""), 0.0)
    assert partition.waiting_bytes == size
    partition.expire(1.0, lambda _: KafkaError(KafkaError._TIMED_OUT_QUEUE))
    assert partition.waiting_bytes == 0
    assert list(partition.waiting) == []


def test_what_is_given_up_at_the_end_waits_no_more() -> None:
    partition = Partition("t", 0)
    fates = queued(partition, b"1", b"2")
    partition.end(KafkaError(KafkaError._PURGE_QUEUE))
    assert fates == [None, None]
    assert partition.idle
    assert partition.waiting_bytes == 0


def test_who_was_elected_last_leads_whatever_others_say() -> None:
    def says(error: int, **leaders: tuple[int, int]) -> Metadata:
        known = {int(number[1:]): Leader(*leader) for number, leader in leaders.items()}
        return Metadata({1: ("a", 1)}, {"t": Topic(error, known)})

    late, ahead, lost = says(0, p0=(1, 4), p1=(2, 4)), says(0, p0=(2, 5), p1=(2, 4), p2=(3, 1)), says(3)
    for answers in ([late, ahead, lost], [lost, ahead, late], [ahead, lost, late]):
        assert newest(answers).topics["t"].leaders == {0: (2, 5), 1: (2, 4), 2: (3, 1)}
    assert newest([lost]).topics["t"].error == 3


def test_a_topic_that_was_made_anew_counts_its_elections_anew() -> None:
    old = Metadata({}, {"t": Topic(0, {0: Leader(1, 9)}, b"old")})
    new = Metadata({}, {"t": Topic(0, {0: Leader(2, 0)}, b"new")})
    assert newest([new, old]).topics == new.topics


def test_of_two_words_about_the_same_election_the_one_with_a_leader_counts() -> None:
    nobody = Metadata({1: ("a", 1)}, {"t": Topic(0, {0: Leader(-1, 4)})})
    somebody = Metadata({2: ("b", 2)}, {"t": Topic(0, {0: Leader(3, 4)})})
    for answers in ([nobody, somebody], [somebody, nobody]):
        assert newest(answers) == ({1: ("a", 1), 2: ("b", 2)}, {"t": (0, {0: (3, 4)}, bytes(16))})


class Transport:
    """What a connection writes to."""

    def __init__(self) -> None:
        self.aborted = False

    def write(self, _: bytes) -> None:
        """Goes nowhere."""

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, _: str) -> Any:
        return self

    def setsockopt(self, *_: int) -> None:
        """It is no socket."""


@pytest.mark.parametrize("answered", [True, False])
def test_an_answer_that_is_only_read_late_is_no_silence(answered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that stood still comes to its timers before it reads."""
    monkeypatch.setattr(connection, "TIMEOUT_S", 0.0)

    async def story() -> None:
        transport, answers = Transport(), list[bytes | None]()
        link = Connection("test", lambda _: None)
        link.connection_made(transport)  # type: ignore[arg-type]
        link.request((0, 9), b"", answers.append)
        link._check()
        aborted_at_once = transport.aborted
        if answered:
            link.data_received(b"\0\0\0\5\0\0\0\1!")
        link._check()
        assert (aborted_at_once, transport.aborted) == (False, not answered)
        assert answers == ([b"!"] if answered else [])

    asyncio.run(story())


@pytest.mark.parametrize(
    "received", [b"\x7f\0\0\0", b"\0\0\0\3\0\0\0", b"\0\0\0\5\0\0\0\2!"], ids=["huge", "too short", "of nobody"]
)
def test_a_connection_that_answers_nonsense_is_ended(received: bytes) -> None:
    async def story() -> None:
        transport = Transport()
        link = Connection("test", lambda _: None)
        link.connection_made(transport)  # type: ignore[arg-type]
        link.request((0, 9), b"", lambda _: None)
        link.data_received(received)
        assert transport.aborted

    asyncio.run(story())


def test_whoever_asks_an_ended_connection_is_answered_when_he_has_asked() -> None:
    async def story() -> None:
        answers: list[bytes | None] = []
        Connection("test", lambda _: None).request((0, 9), b"", answers.append)
        assert not answers
        await asyncio.sleep(0)
        assert answers == [None]

    asyncio.run(story())
