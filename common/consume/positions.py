"""Where a consumer stands in each partition, kept in its own database and moved in the batch's transaction.

A position is the offset of the next record to decide. It is stored with the id of the topic, so that a topic created
anew under the old name is noticed, and locked first in every batch, so that of two instances that believe to own a
partition one waits and then finds the position moved.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from common.errors import LossDetected, Transient
from common.events import Milliseconds, rfc3339
from common.postgres import Conn

REQUEST_TIMEOUT_S: Final = 5.0
WATCH_EVERY_S: Final = 5.0
"""How long a topic may have been another one, or have had more partitions, before its running consumers stop."""
LOSS_HELP: Final = "nothing was skipped; see docs/OPERATIONS.md, 'Loss detected'"


class Partition(NamedTuple):
    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Topic(NamedTuple):
    """A topic as the broker describes it."""

    name: str
    topic_id: str
    partitions: int


class Stored(NamedTuple):
    """A row of `positions`."""

    topic_id: str
    next_offset: int


class Start(NamedTuple):
    """Where to begin: read from `offset`; what lies below `position` is a repeat."""

    topic: str
    partition: int
    offset: int
    position: int


def start_offset(
    partition: Partition, topic_id: str, stored: Stored, committed: int | None, log_start: int, log_end: int
) -> int:
    """The offset to read from: the smaller of the committed and the stored one; the log's start where none is
    committed, since then nobody knows which results were published.

    Raises `LossDetected` when the log is not the one that the position was taken in, and when the database is not the
    one that went with the committed offset: it commits first, so it is never behind, unless it has lost transactions.
    """
    if stored.topic_id != topic_id:
        raise LossDetected(
            f"{partition}: the topic was created anew (id {topic_id}, known as {stored.topic_id}); {LOSS_HELP}"
        )
    if committed is not None and committed > stored.next_offset:
        raise LossDetected(
            f"{partition}: offset {committed} is committed, but the database's position is {stored.next_offset}: it "
            "has lost transactions, as when it is restored from a backup; 'just replay' brings back what was published "
            f"and takes the log in again; {LOSS_HELP}"
        )
    if log_start > stored.next_offset:
        raise LossDetected(
            f"{partition}: the log starts at offset {log_start}, after the position {stored.next_offset}: "
            f"{log_start - stored.next_offset} records were deleted unread; {LOSS_HELP}"
        )
    if log_end < stored.next_offset:
        raise LossDetected(
            f"{partition}: the log ends at offset {log_end}, before the position {stored.next_offset}: "
            f"it was truncated; {LOSS_HELP}"
        )
    return max(log_start, min(stored.next_offset, committed or 0))


def describe(admin: AdminClient, names: Sequence[str]) -> dict[str, Topic]:
    """Ask the broker for the topics. Raises `Transient` when one is missing or the broker does not answer."""
    futures = _ask(admin, names)
    return {name: _answer(name, future) for name, future in futures.items()}


def _ask(admin: AdminClient, names: Iterable[str]) -> dict[str, "Future[Any]"]:
    return admin.describe_topics(TopicCollection(list(names)), request_timeout=REQUEST_TIMEOUT_S)


def _answer(name: str, future: "Future[Any]") -> Topic:
    try:
        found = future.result()
    except Exception as error:
        raise Transient(f"topic {name!r} cannot be described: {error}; try 'just topics'") from error
    return Topic(name, str(found.topic_id), len(found.partitions))


def check_partition_counts(topics: Mapping[str, Topic]) -> None:
    """A result goes to the partition number of its order. Raises `LossDetected` unless all counts are equal."""
    counts = {topic.name: topic.partitions for topic in topics.values()}
    if len(set(counts.values())) > 1:
        raise LossDetected(
            f"topics must have equal partition counts, found {counts}: results would not go where their orders are; "
            f"{LOSS_HELP}"
        )


def check_same(known: Topic, found: Topic) -> None:
    """Raises `LossDetected` unless a topic is still the one it was."""
    if found.topic_id != known.topic_id:
        raise LossDetected(
            f"{known.name}: the topic was created anew (id {found.topic_id}, known as {known.topic_id}); {LOSS_HELP}"
        )
    if found.partitions != known.partitions:
        raise LossDetected(_recounted(known.name, found.partitions, known.partitions))


def _recounted(topic: str, found: int, known: int) -> str:
    return (
        f"{topic}: has {found} partitions, positions are known for {known}: the partition count was changed, so "
        f"customers have moved between partitions; {LOSS_HELP}"
    )


class TopicWatch:
    """Looks now and then whether the topics are still those that were described.

    The client does not tell: when a topic is replaced, or gets more partitions, the group just assigns what there is.
    It asks in one call and reads the answer in a later one, so that a batch never waits for it.
    """

    def __init__(self, admin: AdminClient, topics: Mapping[str, Topic]) -> None:
        self._admin = admin
        self._topics = topics
        self._asked: dict[str, Future[Any]] | None = None
        self._next_s = 0.0

    def look(self, at_s: float) -> None:
        """Raises `LossDetected`, or `Transient` when a topic is gone. That the broker is away is not said here."""
        if self._asked is None:
            if at_s >= self._next_s:
                self._next_s = at_s + WATCH_EVERY_S
                self._asked = _ask(self._admin, self._topics)
        elif all(future.done() for future in self._asked.values()):
            asked, self._asked = self._asked, None
            for name, future in asked.items():
                if not _broker_away(future.exception()):
                    check_same(self._topics[name], _answer(name, future))


def _broker_away(error: BaseException | None) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART


def starts(
    connection: Conn,
    admin: AdminClient,
    consumer: Consumer,
    topics: Mapping[str, Topic],
    wanted: Sequence[Partition],
) -> list[Start]:
    """Where to begin in these partitions. Raises `LossDetected`, or `KafkaException` when it cannot be known now.

    The committed offsets are read before the positions: another instance may be at work, and both only rise.
    """
    committed = committed_offsets(consumer, wanted)
    stored = _load(connection, topics)
    bounds = log_bounds(admin, wanted)
    return [
        Start(
            *partition,
            start_offset(
                partition, topics[partition.topic].topic_id, stored[partition], committed.get(partition), first, end
            ),
            stored[partition].next_offset,
        )
        for partition, (first, end) in bounds.items()
    ]


def all_partitions(topics: Iterable[Topic]) -> list[Partition]:
    return [Partition(topic.name, number) for topic in topics for number in range(topic.partitions)]


def committed_offsets(
    consumer: Consumer, partitions: Iterable[Partition], timeout_s: float = REQUEST_TIMEOUT_S
) -> dict[Partition, int]:
    """The offsets that the consumer's group has committed; the consumer need not have joined.

    Not by `AdminClient.list_consumer_group_offsets`, which crashes the process (a null pointer, librdkafka 2.16) on a
    new broker that has no coordinator for the group yet.
    """
    found = consumer.committed([TopicPartition(*partition) for partition in partitions], timeout_s)
    for tp in found:
        if tp.error is not None:
            raise KafkaException(tp.error)
    # Below zero: OFFSET_INVALID, nothing was committed.
    return {Partition(tp.topic, tp.partition): tp.offset for tp in found if tp.offset >= 0}


def log_bounds(admin: AdminClient, partitions: Iterable[Partition]) -> dict[Partition, tuple[int, int]]:
    """The first offset, and the one after the last, of each partition: two requests for all of them."""
    wanted = [TopicPartition(*partition) for partition in partitions]
    bounds: list[dict[Partition, int]] = []
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):  # type: ignore[no-untyped-call]
        futures = admin.list_offsets(dict.fromkeys(wanted, spec), request_timeout=REQUEST_TIMEOUT_S) if wanted else {}
        bounds.append({Partition(tp.topic, tp.partition): f.result().offset for tp, f in futures.items()})
    first, end = bounds
    return {partition: (first[partition], end[partition]) for partition in first}


_SEED: Final = """
    INSERT INTO positions (topic, partition, topic_id, next_offset)
    SELECT %(name)s, number, %(topic_id)s, 0 FROM generate_series(0, %(partitions)s - 1) AS number
    WHERE NOT EXISTS (SELECT FROM positions WHERE topic = %(name)s)
    ON CONFLICT DO NOTHING
"""


def _load(connection: Conn, topics: Mapping[str, Topic]) -> dict[Partition, Stored]:
    """All positions. A topic seen for the first time gets one at 0 in each partition, all of them at once: a partition
    that has none later was added later."""
    with connection.transaction():
        for topic in topics.values():
            connection.execute(_SEED, topic._asdict())
        rows = connection.execute("SELECT topic, partition, topic_id, next_offset FROM positions").fetchall()
    found = {Partition(topic, number): Stored(topic_id, offset) for topic, number, topic_id, offset in rows}
    for topic in topics.values():
        known = sum(partition.topic == topic.name for partition in found)
        if known != topic.partitions:
            raise LossDetected(_recounted(topic.name, topic.partitions, known))
    return found


# In one order (topic, partition), so that two batches that overlap wait for one another instead of deadlocking.
_LOCK: Final = """
    SELECT topic, partition, next_offset FROM positions
    WHERE (topic, partition) IN (SELECT * FROM unnest(%s::text[], %s::integer[]))
    ORDER BY topic, partition FOR UPDATE
"""
_ADVANCE: Final = """
    UPDATE positions SET next_offset = moved.next_offset, record_time = moved.record_time
    FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::timestamptz[])
      AS moved(topic, partition, next_offset, record_time)
    WHERE positions.topic = moved.topic AND positions.partition = moved.partition
"""


def lock(connection: Conn, partitions: Iterable[Partition]) -> "psycopg.Cursor[Any]":
    """Lock the positions for the rest of the transaction. Read them with `fetched` after the pipeline has ended."""
    wanted = list(partitions)
    return connection.execute(_LOCK, ([p.topic for p in wanted], [p.number for p in wanted]))


def fetched(cursor: "psycopg.Cursor[Any]") -> dict[Partition, int]:
    return {Partition(topic, number): offset for topic, number, offset in cursor.fetchall()}


def advance(connection: Conn, moved: Mapping[Partition, tuple[int, Milliseconds]]) -> None:
    """Move each position to the given next offset; the time is that of the last record before it."""
    connection.execute(
        _ADVANCE,
        (
            [p.topic for p in moved],
            [p.number for p in moved],
            [offset for offset, _ in moved.values()],
            [rfc3339(at) for _, at in moved.values()],
        ),
    )
