"""Where a consumer stands in each partition, kept in its own database and moved in the batch's transaction.

A position is the offset of the next record to decide. It is stored with the id of the topic, so that a topic created
anew under the old name is noticed, and locked first in every batch, so that of two instances that believe to own a
partition one waits and then finds the position moved.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from common.errors import Fatal, LossDetected, Transient
from common.events import Milliseconds, rfc3339
from common.postgres import Conn

REQUEST_TIMEOUT_S: Final = 5.0
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

    Raises `LossDetected` when the log is not the one that the position was taken in.
    """
    if stored.topic_id != topic_id:
        raise LossDetected(
            f"{partition}: the topic was created anew (id {topic_id}, known as {stored.topic_id}); {LOSS_HELP}"
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
    futures = admin.describe_topics(TopicCollection(list(names)), request_timeout=REQUEST_TIMEOUT_S)
    topics = {}
    for name, future in futures.items():
        try:
            found = future.result()
        except Exception as error:
            raise Transient(f"topic {name!r} cannot be described: {error}; try 'just topics'") from error
        topics[name] = Topic(name, str(found.topic_id), len(found.partitions))
    return topics


def check_partition_counts(topics: Mapping[str, Topic]) -> None:
    """A result goes to the partition number of its order. Raises `Fatal` unless all counts are equal."""
    counts = {topic.name: topic.partitions for topic in topics.values()}
    if len(set(counts.values())) > 1:
        raise Fatal(f"topics must have equal partition counts, found {counts}; see 'just topics'")


def starts(
    connection: Conn,
    admin: AdminClient,
    consumer: Consumer,
    topics: Mapping[str, Topic],
    added: Sequence[TopicPartition],
) -> list[Start]:
    """Where to begin in partitions just assigned. Raises `LossDetected`, or `Transient` when it cannot be known now."""
    stored = _load(connection, topics)
    wanted = [TopicPartition(tp.topic, tp.partition) for tp in added]
    bounds = _log_bounds(admin, wanted)
    found = []
    for tp in consumer.committed(wanted, REQUEST_TIMEOUT_S):
        partition = Partition(tp.topic, tp.partition)
        row = stored[partition]
        if tp.error is not None:
            raise KafkaException(tp.error)
        committed = tp.offset if tp.offset >= 0 else None  # below zero: OFFSET_INVALID, nothing was committed
        first, end = bounds[partition]
        offset = start_offset(partition, topics[tp.topic].topic_id, row, committed, first, end)
        found.append(Start(tp.topic, tp.partition, offset, row.next_offset))
    return found


def _log_bounds(admin: AdminClient, partitions: Sequence[TopicPartition]) -> dict[Partition, tuple[int, int]]:
    """The first offset, and the one after the last, of each partition: two requests for all of them."""
    bounds: list[dict[Partition, int]] = []
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):  # type: ignore[no-untyped-call]
        futures = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=REQUEST_TIMEOUT_S)
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
            raise LossDetected(
                f"{topic.name}: has {topic.partitions} partitions, positions are known for {known}: the partition "
                f"count was changed, so customers have moved between partitions; {LOSS_HELP}"
            )
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
