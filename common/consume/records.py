"""A record on its way from the log to a handler: undecoded, decoded, or with the reason why it cannot be."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from common.codec import UNDECODABLE, decoder_for
from common.errors import Poison
from common.events import Event, Milliseconds, OrderRef
from common.kafka.broker import Partition


class Record(Struct, frozen=True, gc=False):
    """A message as the log has it. `at` is the broker's time (LogAppendTime)."""

    partition: Partition
    offset: int
    at: Milliseconds
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class Received(Struct, frozen=True, gc=False):
    """A record and the event in it."""

    partition: Partition
    offset: int
    at: Milliseconds
    event: Any  # an `Event` of the topic; handlers match on its type


class Arrival(Struct, frozen=True, gc=False):
    """A record with its event, or with the error that makes it poison. `arrived_s` is on the monotonic clock."""

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


def arrival(record: Record, arrived_s: float) -> Arrival:
    try:
        return Arrival(record, decode(record), "", arrived_s)
    except Poison as poison:
        return Arrival(record, None, str(poison), arrived_s)
