"""A record on its way from the log to a handler: undecoded, decoded, or with the reason why it cannot be.

Anyone may write anything to a topic. Whatever a record contains, it becomes an `Arrival`: nothing here raises because
of it. Headers are not read: nothing needs them, and the client fails on a header whose name is not UTF-8 (SystemError,
confluent-kafka 2.16).
"""

from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message
from msgspec import Struct

from common.codec import UNDECODABLE, decoder_for
from common.errors import Poison
from common.events import Event, Milliseconds, OrderRef
from common.kafka.broker import Partition

TIME_MAX: Final = Milliseconds(253_402_300_799_999)
"""The last millisecond of the year 9999, which is the last that a datetime can express."""


class Record(Struct, frozen=True, gc=False):
    """A message as the log has it. `at` is the broker's time (LogAppendTime), within `TIME_MAX`."""

    partition: Partition
    offset: int
    at: Milliseconds
    key: bytes | None
    value: bytes


class Received(Struct, frozen=True, gc=False):
    """A record and the event in it."""

    partition: Partition
    offset: int
    at: Milliseconds
    event: Any  # an `Event` of the topic; handlers match on its type


class Arrival(Struct, frozen=True, gc=False):
    """A record with its event, or with the error that makes it poison. `arrived_s` is on the monotonic clock.

    With neither it is a hole: an offset at which the log has no record, and only the position moves.
    """

    record: Record
    received: Received | None
    error: str
    arrived_s: float = 0.0


def decode(record: Record) -> Received:
    """Raises `Poison` when the record is not an event of its topic, or not of its key's customer."""
    try:
        event: Event = decoder_for[record.partition.topic].decode(record.value)
    except UNDECODABLE as error:
        raise Poison(f"is not an event of {record.partition.topic}: {error}") from error
    data: OrderRef = event.data  # type: ignore[attr-defined]  # every concrete event has it
    if record.key is None:
        raise Poison("has no key, so it cannot be kept in order")
    customer_id = data.customer_id
    if event.subject != data.order_id or event.partitionkey != customer_id or record.key != customer_id.encode():
        raise Poison("its key, partitionkey and subject do not agree with its data")
    return Received(record.partition, record.offset, record.at, event)


def arrival_of(message: Message, partition: Partition, offset: int, arrived_s: float) -> Arrival:
    """A message of the client, decoded. One without the broker's time is not: by its own, it could be of any day."""
    kind, at = message.timestamp()
    if kind != TIMESTAMP_LOG_APPEND_TIME or not 0 <= at <= TIME_MAX:
        record = Record(partition, offset, within_range(at), message.key(), message.value() or b"")
        return Arrival(record, None, _WRONG_TIME.format(partition, offset, partition.topic), arrived_s)
    return arrival(Record(partition, offset, Milliseconds(at), message.key(), message.value() or b""), arrived_s)


_WRONG_TIME: Final = (
    "{}@{}: has a client's time, not the broker's, by which deadlines are judged: message.timestamp.type of topic {!r} "
    "was not LogAppendTime; 'just topics create' sets it again, then redrive this"
)


def hole(partition: Partition, offset: int, at: Milliseconds, arrived_s: float) -> Arrival:
    """Stands for an offset without a record. `at` is the time of a record near it."""
    return Arrival(Record(partition, offset, at, None, b""), None, "", arrived_s)


def within_range(at: int) -> Milliseconds:
    """The nearest time that a datetime can express: a client may have written any 64 bits."""
    return Milliseconds(min(max(at, 0), TIME_MAX))


def arrival(record: Record, arrived_s: float) -> Arrival:
    """The record with its event, or with the reason why it has none."""
    try:
        return Arrival(record, decode(record), "", arrived_s)
    except Poison as poison:
        return Arrival(record, None, str(poison), arrived_s)


def ranges(batch: Sequence[Arrival]) -> list[str]:
    """The records of a batch, partition by partition: `orders/3@17-21`."""
    first = {arrival.record.partition: arrival.record.offset for arrival in reversed(batch)}
    last = {arrival.record.partition: arrival.record.offset for arrival in batch}
    return [f"{partition}@{first[partition]}-{last[partition]}" for partition in sorted(first)]
