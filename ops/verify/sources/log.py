"""Reading the log: every record between two bounds, written to the buckets by order.

All records of an order are at one partition number of the four topics. These are read side by side in the order of
time, one number after the other: then the records of an order meet in a small window, and leave it as one line. Orders
that take another course leave it record by record, and are put together later.

A record is decoded as far as the judgement needs it. One that cannot be decoded is reported by its offset, since every
reader must have parked it. Nobody reads `outcomes`, so nothing in there can be parked.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Final

import msgspec
from confluent_kafka import KafkaError, KafkaException
from msgspec import Raw, Struct

from common.codec import UNDECODABLE, decoded
from common.config.kafka import Brokers
from common.consume.records import within_range
from common.errors import describe
from common.events import IDENTIFIER_PATTERN, INVENTORY, ORDERS, OUTCOMES, PAYMENTS, StrictRef
from common.kafka.broker import Partition
from common.kafka.identity import Consumer
from ops.log import Log, Tail
from ops.verify.evidence.buckets import Writer
from ops.verify.evidence.kinds import KINDS_OF, MOVING, PLACED, TOPIC_OF, TOPICS, course_of
from ops.verify.evidence.lines import ID_LENGTH, UNREADABLE, Tag, digest, ordered, reserved_lines
from ops.verify.evidence.progress import Answered
from ops.verify.statements import Unproven
from order.api.requests import is_order_id

CLIENT_ID: Final = "verify"
UNREADABLE_MAX: Final = 100_000
WINDOW_ORDERS: Final = 20_000
"""About 40 MB. An order takes seconds to settle; one that takes longer is put together later."""


@dataclass
class Contents:
    """What a part of the log held besides the lines that were written."""

    records: int = 0
    unreadable: list[tuple[Partition, int]] = field(default_factory=list)
    gaps: list[tuple[Partition, range]] = field(default_factory=list)
    """Offsets at which no record came."""
    parked: dict[tuple[Partition, int], str] = field(default_factory=dict)
    """The digest of key and value of each record that some reader has parked."""


class _Data(Struct, gc=False):
    """What the judgement needs of an event's data, whatever its type."""

    order_id: str
    customer_id: str
    amount: int | None = None
    currency: str | None = None
    items: Raw = Raw(b"[]")


class _Event(Struct, gc=False):
    type: str
    data: _Data


_decode: Final = msgspec.json.Decoder(_Event).decode
_IDENTIFIER: Final = re.compile(IDENTIFIER_PATTERN)

_Seen = tuple[int, str, int, int, _Data, str]
"""A record in the window: its topic's rank, kind, offset, time, data, digest. A bare tuple: there are millions."""
_rank = itemgetter(0)
_PAYMENTS_RANK, _INVENTORY_RANK = TOPICS.index(PAYMENTS), TOPICS.index(INVENTORY)


def whole_line(order_id: str, number: int, seen: list[_Seen]) -> str | None:
    """The line of an order that took a regular course (`lines.Whole`). None for another: its records have their own."""
    seen.sort(key=_rank)
    kinds = "".join([record[1] for record in seen])
    if course_of(kinds) is None:
        return None
    placed = seen[0][4]
    customer, amount, currency = placed.customer_id, placed.amount, placed.currency
    try:
        items = bytes(placed.items).decode()
        expected = ordered(items)
    except UNDECODABLE:
        return None
    if amount is None or currency is None:
        return None
    for rank, kind, _, _, data, _ in seen:
        if data.customer_id != customer:
            return None
        if rank == _PAYMENTS_RANK and (data.amount != amount or data.currency != currency):
            return None
        if rank == _INVENTORY_RANK and bytes(data.items) != (expected.published if kind in MOVING else b"[]"):
            return None
    offsets = ",".join([str(record[2]) for record in seen])
    line = f"{order_id}|{Tag.WHOLE}|{kinds}|{number}|{offsets}|{seen[0][5]}|{customer}|{amount}|{currency}|{items}"
    return line if line.count("|") == 9 and line.isprintable() else None


def record_line(order_id: str, number: int, seen: _Seen) -> str | None:
    """The line of one record (`lines.Record`). None when it names no order or no customer: its readers have parked it,
    and if they discard it, they have nothing to decide."""
    _, kind, offset, at, data, digested = seen
    if not is_order_id(order_id) or _IDENTIFIER.match(data.customer_id) is None:
        return None
    head = f"{digested}|" if kind == PLACED else ""
    try:
        line = f"{order_id}|{Tag.RECORD}|{kind}|{number}|{offset}|{at}|{head}{_content(kind, data)}"
        separators = {PLACED: 10}.get(kind, {ORDERS: 6, OUTCOMES: 6, PAYMENTS: 8, INVENTORY: 7}[TOPIC_OF[kind]])
        if line.count("|") == separators and line.isprintable():
            return line
    except UNDECODABLE:
        pass
    return _unreadable_line(order_id, kind, number, offset)


def _content(kind: str, data: _Data) -> str:
    """The content of a `lines.Record`."""
    if kind == PLACED:
        return f"{data.customer_id}|{data.amount}|{data.currency}|{ordered(bytes(data.items).decode()).items}"
    if TOPIC_OF[kind] == PAYMENTS:
        return f"{data.customer_id}|{'' if data.amount is None else data.amount}|{data.currency or ''}"
    if TOPIC_OF[kind] == INVENTORY:
        return f"{data.customer_id}|{reserved_lines(bytes(data.items).decode())}"
    return data.customer_id


def _unreadable_line(order_id: str, kind: str, number: int, offset: int) -> str | None:
    digested = "|" if kind == PLACED else ""
    line = f"{order_id}|{Tag.RECORD}|{kind}|{number}|{offset}|0|{digested}{UNREADABLE}"
    return line if line.isprintable() else None


def event_of(kinds: Mapping[str, str], value: bytes) -> tuple[str, _Data] | None:
    """The kind of an event and its data. None when it is no event of these `kinds`, or names no order."""
    event = decoded(_decode, value)
    kind = kinds.get(event.type) if event else None
    return (kind, event.data) if event and kind and len(event.data.order_id) == ID_LENGTH else None


class _Named(Struct):
    type: str
    data: StrictRef


_named: Final = msgspec.json.Decoder(_Named)


def salvaged(topic: str, number: int, offset: int, key: bytes | None, value: bytes) -> str | None:
    """The line of a record that is no event, but names an order of its key's customer. (To discard it, no more is
    needed: `common.consume.redrive.discarded`.)"""
    named = decoded(_named.decode, value)
    kind = KINDS_OF[topic].get(named.type) if named else None
    if named is None or kind is None or key != named.data.customer_id.encode():
        return None
    return _unreadable_line(named.data.order_id, kind, number, offset)


def read(
    brokers: Brokers,
    bounds: Mapping[Partition, tuple[int, int]],
    answered: Mapping[tuple[str, int], Answered],
    with_digests: bool,
    target: tuple[Path, str, int],
) -> Contents:
    """Read parts of the log and write their lines to a `Writer` of this `target`: whole orders, where every reader has
    `answered` their records. `with_digests` says whether the digest of each placed order is needed. Raises `Unproven`
    when the broker fails. It runs in a worker process, to which neither clients nor writers can be sent."""
    log = Log(brokers, CLIENT_ID)
    consumers = {topic: log.consumer() for topic in TOPICS}
    try:
        with Writer(*target) as writer:
            reader = _Reader(answered, with_digests, writer)
            for number in sorted({partition.number for partition in bounds}):
                reader.read(
                    number,
                    [_Part(consumers[p.topic], p, *within) for p, within in bounds.items() if p.number == number],
                )
            return reader.contents
    except KafkaException as error:
        if error.args[0].code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
            raise Unproven("the log was trimmed while it was read; verify again") from error
        raise Unproven(f"the log could not be read: {describe(error)}") from error
    finally:
        for consumer in consumers.values():
            consumer.close()


class _Part(Tail):
    """What is still to be read of a partition, and how far it was read."""

    def __init__(self, consumer: Consumer, partition: Partition, first: int, end: int) -> None:
        super().__init__(consumer, partition, first, end)
        self.at = 0
        """The time of the last record read."""
        self.following = first

    def gap_before(self, offset: int) -> list[tuple[Partition, range]]:
        """Notes that everything below `offset` was read."""
        missing, self.following = range(self.following, offset), offset
        return [(self.partition, missing)] if missing else []


class _Reader:
    """Reads the log, one partition number of the four topics after the other."""

    def __init__(self, answered: Mapping[tuple[str, int], Answered], with_digests: bool, writer: Writer) -> None:
        self.contents = Contents()
        self._answered = answered
        self._with_digests = with_digests
        self._writer = writer
        self._window: dict[str, list[_Seen]] = {}
        self._unanswered: set[str] = set()
        """The orders in the window with a record that some reader has not answered."""

    def read(self, number: int, parts: Sequence[_Part]) -> None:
        while unread := [part for part in parts if part.is_open]:
            self._take(min(unread, key=lambda part: part.at))
            if len(self._window) > WINDOW_ORDERS:
                self._write_out(number, WINDOW_ORDERS // 2)
        self._write_out(number, len(self._window))

    def _take(self, part: _Part) -> None:
        """Take the next records of a partition into the window."""
        partition, contents, window = part.partition, self.contents, self._window
        topic, number, rank = partition.topic, partition.number, TOPICS.index(partition.topic)
        kinds = KINDS_OF[topic]
        below, parked = self._answered.get(partition, Answered(0, frozenset()))
        taken = 0
        for message in part.fetch():
            offset = message.offset() or 0
            if offset != part.following:
                contents.gaps.extend(part.gap_before(offset))
            part.following = offset + 1
            taken += 1
            value = message.value() or b""
            at = part.at = within_range(message.timestamp()[1])
            if offset in parked:
                contents.parked[partition, offset] = digest((message.key() or b"") + value)
            event = event_of(kinds, value)
            if event is None:
                if topic == OUTCOMES or (line := salvaged(topic, number, offset, message.key(), value)) is None:
                    self._give_up(partition, offset)
                else:
                    self._writer.write(line)
                continue
            kind, data = event
            if message.key() != data.customer_id.encode():
                self._give_up(partition, offset)
                continue
            order_id = data.order_id
            digested = digest(value) if self._with_digests and kind == PLACED else ""
            if offset >= below or offset in parked:
                self._unanswered.add(order_id)
            seen = window.get(order_id)
            if seen is None:
                window[order_id] = [(rank, kind, offset, at, data, digested)]
            else:
                seen.append((rank, kind, offset, at, data, digested))
        if not part.is_open:
            contents.gaps.extend(part.gap_before(part.end))
        contents.records += taken

    def _write_out(self, number: int, orders: int) -> None:
        """Write the orders that came first, and let them leave the window."""
        write, unanswered = self._writer.write, self._unanswered
        for order_id in list(self._window)[:orders]:
            seen = self._window.pop(order_id)
            if order_id not in unanswered and (line := whole_line(order_id, number, seen)) is not None:
                write(line)
                continue
            unanswered.discard(order_id)
            for record in seen:
                line = record_line(order_id, number, record)
                if line is None:
                    self._give_up(Partition(TOPICS[record[0]], number), record[2])
                else:
                    write(line)

    def _give_up(self, partition: Partition, offset: int) -> None:
        if len(self.contents.unreadable) >= UNREADABLE_MAX:
            raise Unproven(f"over {UNREADABLE_MAX} records of the log are not events")
        self.contents.unreadable.append((partition, offset))
