"""The log as the auditor reads it: its bounds, what the groups have committed, and every record between the bounds.

It reads by assignment, without a group, so that no consumer notices. A record is decoded as far as the judgement needs
it; what cannot be decoded is reported by its place, since every reader must have parked it.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from msgspec import Struct

from common import positions
from common.errors import Transient
from common.events import INVENTORY, ORDERS, PAYMENTS, READERS
from common.kafka import client_config
from common.positions import Partition
from ops import topics
from ops.verify.evidence import ID_LENGTH, KINDS, RECORD, TOPIC_OF, UNREADABLE, Priced, lines, written
from ops.verify.marks import TOPICS, Place
from ops.verify.spill import Writer
from ops.verify.unproven import Unproven

CLIENT_ID: Final = "verify"
SILENCE_S: Final = 20.0
COORDINATOR_S: Final = 15.0
FETCH_RECORDS: Final = 5_000
UNREADABLE_MAX: Final = 100_000


class Bounds(NamedTuple):
    """Where each partition begins and ends."""

    starts: dict[Partition, int]
    ends: dict[Partition, int]


class Range(NamedTuple):
    """A part of a partition: from `first`, up to but not including `end`."""

    partition: Partition
    first: int
    end: int


class Contents(NamedTuple):
    """What a part of the log held besides what was written aside."""

    records: int
    unreadable: list[tuple[Partition, int]]
    gaps: list[str]


class Log:
    """The broker, asked by an operator's client. Every method raises `Unproven` when it does not answer."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._admin = AdminClient(client_config(servers, CLIENT_ID))

    def topic_ids(self) -> dict[str, str]:
        """Raises `Unproven` also for a missing topic and for partition counts that differ."""
        try:
            found = positions.describe(self._admin, TOPICS)
        except Transient as error:
            raise Unproven(str(error)) from error
        counts = {topic.name: topic.partitions for topic in found.values()}
        if len(set(counts.values())) > 1:
            raise Unproven(f"topics must have equal partition counts, found {counts}")
        return {name: topic.topic_id for name, topic in found.items()}

    def bounds(self) -> Bounds:
        try:
            found = topics.bounds(self._admin)
        except KafkaException as error:
            raise away(self._servers, error) from error
        ours = {partition: bounds for partition, bounds in found.items() if partition.topic in TOPICS}
        return Bounds({p: first for p, (first, _) in ours.items()}, {p: end for p, (_, end) in ours.items()})

    def committed(self) -> dict[Place, int]:
        """What the consumer groups have committed. Asked as a consumer, which waits for a coordinator that is loading;
        the admin client's way to ask (confluent-kafka 2.16) crashes the process then."""
        partitions = [p for p in self.bounds().ends if p.topic in TOPICS]
        found = {}
        for group in READERS[ORDERS]:
            consumer = Consumer(
                {**client_config(self._servers, CLIENT_ID), "group.id": group, "enable.auto.commit": False}
            )
            try:
                read = [TopicPartition(*p) for p in partitions if group in READERS[p.topic]]
                for tp in consumer.committed(read, COORDINATOR_S):
                    if tp.offset >= 0:
                        found[group, tp.topic, tp.partition] = tp.offset
            except KafkaException as error:
                raise away(self._servers, error) from error
            finally:
                consumer.close()
        return found


def away(servers: str, error: KafkaException) -> Unproven:
    return Unproven(f"Kafka at {servers} does not answer: {error.args[0].str()}")


# Reading


class _Item(Struct, gc=False):
    product_id: str
    quantity: int
    unit_price: int = 0


class _Data(Struct, gc=False):
    """What the judgement needs of an event's data, whatever its type."""

    order_id: str
    customer_id: str
    amount: int | None = None
    currency: str | None = None
    items: list[_Item] = []


class _Event(Struct, gc=False):
    type: str
    data: _Data


_decode: Final = msgspec.json.Decoder(_Event).decode


def line_of(topic: str, number: int, offset: int, value: bytes | None) -> str | None:
    """The line of a record. None when it is not an event of its topic that names its order."""
    try:
        event = _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _salvaged(topic, number, offset, value)
    kind = KINDS.get(event.type)
    data = event.data
    if kind is None or TOPIC_OF[kind] != topic or len(data.order_id) != ID_LENGTH:
        return None
    head = f"{data.order_id}|{RECORD}|{kind}|{number}|{offset}|"
    if kind == "p":
        items = [Priced(i.product_id, i.quantity, i.unit_price) for i in data.items]
        line = f"{head}{data.customer_id}|{data.amount}|{data.currency}|{written(items)}"
        separators = 8
    elif topic == PAYMENTS:
        line = f"{head}{data.customer_id}|{_text(data.amount)}|{data.currency or ''}"
        separators = 7
    elif topic == INVENTORY:
        line = f"{head}{data.customer_id}|{lines([(i.product_id, i.quantity) for i in data.items])}"
        separators = 6
    else:
        line, separators = head, 5
    if line.count("|") == separators and line.isprintable():
        return line
    return f"{head}{UNREADABLE}" if head.count("|") == 5 and head.isprintable() else None


def _text(amount: int | None) -> str:
    return "" if amount is None else str(amount)


def _salvaged(topic: str, number: int, offset: int, value: bytes | None) -> str | None:
    """The line of what is not an event, but says which order it is about."""
    try:
        found: Any = msgspec.json.decode(value or b"")
        kind, order_id = KINDS[found["type"]], str(found["data"]["order_id"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return None
    line = f"{order_id}|{RECORD}|{kind}|{number}|{offset}|{UNREADABLE}"
    usable = len(order_id) == ID_LENGTH and line.count("|") == 5 and line.isprintable() and TOPIC_OF[kind] == topic
    return line if usable else None


def read(servers: str, ranges: Sequence[Range], directory: Path, source: str, digits: int) -> Contents:
    """Read parts of the log and put a line of each record aside. Raises `Unproven` when the log does not come."""
    wanted = {r.partition: r for r in ranges if r.end > r.first}
    consumer = Consumer(
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
            "queued.max.messages.kbytes": 48 * 1024,
        }
    )
    try:
        return _Reading(consumer, wanted, Writer(directory, source, digits)).run()
    except KafkaException as error:
        code = error.args[0].code()
        if code in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
            raise Unproven("the log was trimmed while it was read; verify again") from error
        raise away(servers, error) from error
    finally:
        consumer.close()


class _Reading:
    """One run through parts of the log."""

    def __init__(self, consumer: Consumer, wanted: Mapping[Partition, Range], writer: Writer) -> None:
        self._consumer = consumer
        self._writer = writer
        self._next = {p: r.first for p, r in wanted.items()}
        self._ends = {p: r.end for p, r in wanted.items()}
        self._open = set(wanted)
        self._found = Contents(0, [], [])

    def run(self) -> Contents:
        self._consumer.assign([TopicPartition(*p, first) for p, first in self._next.items()])
        records = 0
        heard = time.monotonic()
        while self._open:
            messages = self._consumer.consume(FETCH_RECORDS, 0.2)
            if messages:
                heard = time.monotonic()
                records += self._take(messages)
            elif time.monotonic() - heard > SILENCE_S:
                waiting = ", ".join(f"{p} from {self._next[p]}" for p in sorted(self._open))
                raise Unproven(f"the log could not be read for {SILENCE_S:.0f} s: {waiting}")
        self._writer.flush()
        return self._found._replace(records=records)

    def _take(self, messages: Sequence[Message]) -> int:
        write, following, ends = self._writer.write, self._next, self._ends
        taken = 0
        for message in messages:
            partition = Partition(message.topic(), message.partition())  # type: ignore[arg-type]
            offset = message.offset() or 0
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                self._finish(partition, offset)
                continue
            end = ends[partition]
            if offset >= end:
                self._finish(partition, offset)
                continue
            expected = following[partition]
            if offset != expected:
                self._found.gaps.append(f"{partition} has no records from offset {expected} to {offset - 1}")
            following[partition] = offset + 1
            taken += 1
            line = line_of(partition.topic, partition.number, offset, message.value())
            if line is not None:
                write(line)
            elif len(self._found.unreadable) < UNREADABLE_MAX:
                self._found.unreadable.append((partition, offset))
            else:
                raise Unproven(f"over {UNREADABLE_MAX} records of the log are not events")
            if offset + 1 == end:
                self._finish(partition, offset + 1)
        return taken

    def _finish(self, partition: Partition, reached: int) -> None:
        if partition not in self._open or reached < self._ends[partition]:
            return
        if reached > self._next[partition] < self._ends[partition]:
            missing = f"{self._next[partition]} to {self._ends[partition] - 1}"
            self._found.gaps.append(f"{partition} has no records from offset {missing}")
        self._open.discard(partition)
        self._consumer.incremental_unassign([TopicPartition(*partition)])
