"""Reading the log: every record between two bounds, put aside by order.

It reads by assignment, without a group, so that no consumer notices. All that concerns an order lies at one partition
number of the three topics, so these are read side by side in the order of time, one number after the other: then the
records of an order meet in a small window, and leave it as one line. Orders that go another way leave it record by
record, and are put together later.

A record is decoded as far as the judgement needs it; what cannot be decoded is reported by its place, since every
reader must have parked it.
"""

import re
import time
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from msgspec import Raw, Struct

from common.events import INVENTORY, ORDERS, PAYMENTS, UUID_PATTERN, StrictRef
from common.kafka.broker import Partition
from common.kafka.clients import client_config
from ops.verify.evidence.buckets import Writer
from ops.verify.evidence.lines import ID_LENGTH, KINDS, RECORD, TOPIC_OF, UNREADABLE, WHOLE, lines, placed_items
from ops.verify.evidence.progress import TOPICS, Quiet
from ops.verify.judge.fast_path import course_of, ordered
from ops.verify.judge.keys import digest
from ops.verify.sources.broker import CLIENT_ID, away
from ops.verify.statements import Unproven

SILENCE_S: Final = 20.0
FETCH_RECORDS: Final = 2_000
UNREADABLE_MAX: Final = 100_000
WINDOW_ORDERS: Final = 20_000
"""About 40 MB. An order takes seconds to settle; what takes longer is put together later."""


class Range(NamedTuple):
    """A part of a partition: from `first`, up to but not including `end`."""

    partition: Partition
    first: int
    end: int


class Contents(NamedTuple):
    """What a part of the log held besides what was put aside."""

    records: int
    unreadable: list[tuple[Partition, int]]
    gaps: list[str]
    parked: dict[tuple[Partition, int], str]
    """Of each record that somebody has parked, the digest of its key and value."""


class _Item(Struct, gc=False):
    product_id: str
    quantity: int


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
_UUID: Final = re.compile(UUID_PATTERN)
_items: Final = msgspec.json.Decoder(list[_Item])
KINDS_OF: Final = {t: {name: letter for name, letter in KINDS.items() if TOPIC_OF[letter] == t} for t in TOPICS}

_Seen = tuple[int, str, int, int, _Data, str]
"""A record in the window: the rank of its topic, kind, offset, time, data, and the event's digest. A bare tuple: there
are millions."""
_rank = itemgetter(0)


def whole_line(order_id: str, number: int, seen: list[_Seen]) -> str | None:
    """The line of an order that went as usual (`evidence.Whole`). None for any other: nothing is lost by that."""
    seen.sort(key=_rank)
    kinds = "".join([record[1] for record in seen])
    course = course_of(kinds)
    if course is None:
        return None
    placed = seen[0][4]
    customer, amount, currency = placed.customer_id, placed.amount, placed.currency
    try:
        items = bytes(placed.items).decode()
    except UnicodeDecodeError:
        return None
    known = ordered(items)
    if known is None or amount is None or currency is None:
        return None
    for record in seen:
        if record[4].customer_id != customer:
            return None
    for place in course.paying:
        data = seen[place][4]
        if data.amount != amount or data.currency != currency:
            return None
    for place in course.moving:
        if bytes(seen[place][4].items) != known.said:
            return None
    for place in course.idle:
        if bytes(seen[place][4].items) != b"[]":
            return None
    offsets = ",".join([str(record[2]) for record in seen])
    line = f"{order_id}|{WHOLE}|{kinds}|{number}|{offsets}|{seen[0][5]}|{customer}|{amount}|{currency}|{items}"
    return line if line.count("|") == 9 and line.isprintable() else None


def record_line(order_id: str, number: int, seen: _Seen) -> str | None:
    """The line of one record (`evidence.Record`). None for one whose order cannot be named in a line."""
    _, kind, offset, at, data, digested = seen
    if not _UUID.match(order_id):
        return None
    head = f"{order_id}|{RECORD}|{kind}|{number}|{offset}|{at}|"
    if kind == "p":
        head += f"{digested}|"
    try:
        line = head + _content(kind, data)
        wanted = {"p": 10}.get(kind, {ORDERS: 6, PAYMENTS: 8, INVENTORY: 7}[TOPIC_OF[kind]])
        if line.count("|") == wanted and line.isprintable():
            return line
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return _unreadable_line(order_id, kind, number, offset)


def _content(kind: str, data: _Data) -> str:
    """As `evidence.Record` says."""
    if kind == "p":
        return f"{data.customer_id}|{data.amount}|{data.currency}|{placed_items(bytes(data.items).decode())}"
    if TOPIC_OF[kind] == PAYMENTS:
        return f"{data.customer_id}|{'' if data.amount is None else data.amount}|{data.currency or ''}"
    if TOPIC_OF[kind] == INVENTORY:
        return f"{data.customer_id}|{lines([(i.product_id, i.quantity) for i in _items.decode(data.items)])}"
    return data.customer_id


def _unreadable_line(order_id: str, kind: str, number: int, offset: int) -> str | None:
    digested = "|" if kind == "p" else ""
    line = f"{order_id}|{RECORD}|{kind}|{number}|{offset}|0|{digested}{UNREADABLE}"
    return line if line.isprintable() else None


def event_of(kinds: Mapping[str, str], value: bytes) -> tuple[str, _Data] | None:
    """The kind of an event and what it says. None for what is no event of these `kinds` that names its order."""
    try:
        event = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    kind = kinds.get(event.type)
    return (kind, event.data) if kind is not None and len(event.data.order_id) == ID_LENGTH else None


class _Named(Struct):
    type: str
    data: StrictRef


_named: Final = msgspec.json.Decoder(_Named)


def salvaged(topic: str, number: int, offset: int, key: bytes | None, value: bytes) -> str | None:
    """The line of what is not an event, but says which order of its key's customer it is about. (So much is needed to
    give it up: `common.consume.redrive.discarded`.)"""
    try:
        found = _named.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    kind = KINDS_OF[topic].get(found.type)
    if kind is None or key != found.data.customer_id.encode():
        return None
    return _unreadable_line(found.data.order_id, kind, number, offset)


def read(
    servers: str,
    ranges: Sequence[Range],
    quiet: Mapping[Partition, Quiet],
    digests: bool,
    writer: Writer,
) -> Contents:
    """Read parts of the log and put their lines aside; those that are `quiet` as whole orders where they can be.
    `digests` says whether the digest of each placed order is needed. Raises `Unproven` when the log does not come."""
    consumers = {topic: _consumer(servers) for topic in TOPICS}
    contents = Contents(0, [], [], {})
    try:
        for number in sorted({r.partition.number for r in ranges}):
            tails = [
                _Tail(consumers[r.partition.topic], r)
                for r in ranges
                if r.partition.number == number and r.end > r.first
            ]
            contents = _Reading(number, tails, quiet, digests, writer, contents).run()
    except KafkaException as error:
        code = error.args[0].code()
        if code in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
            raise Unproven("the log was trimmed while it was read; verify again") from error
        raise away(servers, error) from error
    finally:
        for consumer in consumers.values():
            consumer.close()
    writer.flush()
    return contents


def read_aside(
    servers: str,
    ranges: Sequence[Range],
    quiet: Mapping[Partition, Quiet],
    digests: bool,
    spill: tuple[Path, str, int],
) -> Contents:
    """`read`, as a worker process is asked: a writer does not travel."""
    return read(servers, ranges, quiet, digests, Writer(*spill))


def _consumer(servers: str) -> Consumer:
    return Consumer(
        {
            **client_config(servers, CLIENT_ID),
            "group.id": CLIENT_ID,  # the client asks for one; nothing joins it
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,  # a part may end in something that is not a record
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": 20,
            "fetch.message.max.bytes": 4 * 1024 * 1024,
            "queued.max.messages.kbytes": 16 * 1024,
        }
    )


class _Tail:
    """What is still to be read of a partition."""

    def __init__(self, consumer: Consumer, wanted: Range) -> None:
        self.partition = wanted.partition
        self.following = wanted.first
        self.end = wanted.end
        self.at = 0
        """The time of the last record read."""
        self.is_open = True
        self._consumer = consumer
        consumer.assign([TopicPartition(*wanted.partition, wanted.first)])

    def fetch(self) -> list[Message]:
        """The next records, at least one. Raises `Unproven` when none comes."""
        silent_since = time.monotonic()
        while not (messages := self._consumer.consume(FETCH_RECORDS, 0.2)):
            if time.monotonic() - silent_since > SILENCE_S:
                raise Unproven(
                    f"the log could not be read for {SILENCE_S:.0f} s: {self.partition} from {self.following}"
                )
        return messages

    def finish(self, reached: int, gaps: list[str]) -> None:
        """The partition has nothing more below offset `reached`."""
        if reached < self.end or not self.is_open:
            return
        if self.following < self.end:
            gaps.append(f"{self.partition} has no records from offset {self.following} to {self.end - 1}")
        self.is_open = False
        self._consumer.unassign()


class _Reading:
    """One run through a partition number of the three topics."""

    def __init__(
        self,
        number: int,
        tails: Sequence[_Tail],
        quiet: Mapping[Partition, Quiet],
        digests: bool,
        writer: Writer,
        contents: Contents,
    ) -> None:
        self._number = number
        self._tails = tails
        self._quiet = quiet
        self._digests = digests
        self._writer = writer
        self._contents = contents
        self._window: dict[str, list[_Seen]] = {}
        self._loud: set[str] = set()
        """The orders in the window with a record that is not quiet."""

    def run(self) -> Contents:
        records = self._contents.records
        while behind := [tail for tail in self._tails if tail.is_open]:
            tail = min(behind, key=lambda t: t.at)
            records += self._take(tail, tail.fetch())
            if len(self._window) > WINDOW_ORDERS:
                self._put_aside(WINDOW_ORDERS // 2)
        self._put_aside(len(self._window))
        return self._contents._replace(records=records)

    def _take(self, tail: _Tail, messages: Sequence[Message]) -> int:
        partition = tail.partition
        topic, number, rank = partition.topic, partition.number, TOPICS.index(partition.topic)
        kinds, quiet, window = KINDS_OF[topic], self._quiet.get(partition, Quiet(0, frozenset())), self._window
        end, below, parked = tail.end, quiet.below, quiet.parked
        taken = 0
        for message in messages:
            if message.partition() != number:
                continue  # of the partition before
            offset = message.offset() or 0
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                tail.finish(offset, self._contents.gaps)
                continue
            if offset >= end:
                tail.finish(offset, self._contents.gaps)
                continue
            if offset != tail.following:
                self._contents.gaps.append(f"{partition} has no records from offset {tail.following} to {offset - 1}")
            tail.following = offset + 1
            taken += 1
            value = message.value() or b""
            at = tail.at = message.timestamp()[1]
            if offset in parked:
                self._contents.parked[partition, offset] = digest((message.key() or b"") + value)
            event = event_of(kinds, value)
            if event is None:
                self._salvage(partition, offset, message.key(), value)
                continue
            kind, data = event
            if message.key() != data.customer_id.encode():
                self._give_up(partition, offset)
                continue
            order_id = data.order_id
            digested = digest(value) if self._digests and kind == "p" else ""
            if offset >= below or offset in parked:
                self._loud.add(order_id)
            seen = window.get(order_id)
            if seen is None:
                window[order_id] = [(rank, kind, offset, at, data, digested)]
            else:
                seen.append((rank, kind, offset, at, data, digested))
        if tail.following == end:
            tail.finish(end, self._contents.gaps)
        return taken

    def _put_aside(self, orders: int) -> None:
        """Let the orders that came first leave the window."""
        write, loud, number = self._writer.write, self._loud, self._number
        for order_id in list(self._window)[:orders]:
            seen = self._window.pop(order_id)
            if order_id not in loud and (line := whole_line(order_id, number, seen)) is not None:
                write(line)
                continue
            loud.discard(order_id)
            for record in seen:
                line = record_line(order_id, number, record)
                if line is None:
                    self._give_up(Partition(TOPICS[record[0]], number), record[2])
                else:
                    write(line)

    def _salvage(self, partition: Partition, offset: int, key: bytes | None, value: bytes) -> None:
        line = salvaged(partition.topic, partition.number, offset, key, value)
        if line is None:
            self._give_up(partition, offset)
        else:
            self._writer.write(line)

    def _give_up(self, partition: Partition, offset: int) -> None:
        if len(self._contents.unreadable) >= UNREADABLE_MAX:
            raise Unproven(f"over {UNREADABLE_MAX} records of the log are not events")
        self._contents.unreadable.append((partition, offset))
