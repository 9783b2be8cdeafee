"""What is known of missing offsets when the broker cannot show its batches: nothing, and no loss follows from that."""

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from common.config.kafka import Brokers
from common.errors import Transient
from common.kafka import wire
from common.kafka.broker import Partition
from common.kafka.holes import offsets_without_record

BROKERS = Brokers("127.0.0.1:1")
PARTITION = Partition("orders", 0)


def admin(leader: int) -> Any:
    """Stands for a client that knows broker 1, and this leader of the partition."""
    topic = SimpleNamespace(partitions={0: SimpleNamespace(leader=leader)})
    metadata = SimpleNamespace(topics={"orders": topic}, brokers={1: SimpleNamespace(host="127.0.0.1", port=1)})
    return SimpleNamespace(list_topics=lambda *_, **__: metadata)


def fetched(error: int, records: bytes = b"") -> bytes:
    """An answer to a fetch, without the correlation id."""
    topic = struct.pack(">iih", 0, 1, len("orders")) + b"orders"
    return topic + struct.pack(">iihqqii", 1, 0, error, 9, 9, 0, len(records)) + records


def batch(base: int, last: int, attributes: int) -> bytes:
    return struct.pack(">qiibIhiqq", base, 31, 0, 2, 0, attributes, last - base, 0, 5)


def test_a_partition_without_a_leader_is_no_loss() -> None:
    with pytest.raises(Transient, match="orders/0 has no leader now"):
        offsets_without_record(BROKERS, admin(-1), PARTITION, 3, 5)


def test_a_broker_that_does_not_answer_is_no_loss() -> None:
    with pytest.raises(Transient, match=r"broker 127\.0\.0\.1:1 does not answer: .*refused"):
        offsets_without_record(BROKERS, admin(1), PARTITION, 3, 5)


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        (fetched(0, batch(0, 3, 0x10) + batch(4, 4, 0x20) + batch(5, 9, 0)), {3: 5, 4: 5}),
        (fetched(KafkaError.OFFSET_OUT_OF_RANGE), {}),
    ],
    ids=["transaction", "deleted"],
)
def test_only_offsets_of_transactions_are_without_a_record(
    answer: bytes, times: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "request", lambda *_: answer)
    assert offsets_without_record(BROKERS, admin(1), PARTITION, 3, 6) == times


@pytest.mark.parametrize("answer", [fetched(KafkaError.NOT_LEADER_FOR_PARTITION), fetched(0)[:-9]])
def test_an_answer_without_batches_says_nothing(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "request", lambda *_: answer)
    with pytest.raises(Transient, match="the batches of orders/0 cannot be read"):
        offsets_without_record(BROKERS, admin(1), PARTITION, 3, 5)
