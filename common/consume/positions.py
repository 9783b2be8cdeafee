"""A consumer's position in each partition, kept in its own database and moved in the batch's transaction.

A position is the offset of the next record to decide. It is stored with the id of the topic, so that a topic created
anew under the old name is noticed. Every batch locks it first: when two instances believe that they own a partition,
one waits and then finds the position moved.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from common.consume.records import Record
from common.errors import LossDetected, Superseded, Transient
from common.events import Milliseconds, rfc3339
from common.kafka import broker
from common.kafka.broker import Partition, Topic
from common.pipeline import Answer, Pipeline
from common.postgres import Conn, columns


class Stored(NamedTuple):
    """A row of `positions`."""

    topic_id: str
    next_offset: int


class WentBack(LossDetected):
    """The database has lost positions that it had stored. `positions` are those that it had."""

    def __init__(self, reason: str, positions: Mapping[Partition, int]) -> None:
        super().__init__(reason)
        self.positions = positions


class FailedOver(Transient):
    """Another server has become the primary, and has all positions: begin a new session, which checks the rest."""


class Truncated(LossDetected):
    """The log ends before a position."""


ENDS_ASKED: Final = 6
"""Of three brokers, one at most is cut off: so many clients all begin with it in 1 of 700 cases."""


class Start(NamedTuple):
    """Where to begin: read from `offset`; records below `position` are repeats. `skipped` are the offsets that an
    operator has given up, each with who did and why."""

    topic: str
    partition: int
    offset: int
    position: int
    skipped: Mapping[int, str] = MappingProxyType({})


def start_offset(
    partition: Partition, topic_id: str, stored: Stored, committed: int | None, log_start: int, log_end: int
) -> int:
    """The offset to read from: the smaller of the committed and the stored one. Where none is committed it is
    the log's start, since it is unknown which results were published.

    Raises `LossDetected` when the log is not the one of the stored position. Also when the database is behind the
    committed offset: it commits first, so it has lost transactions, unless a stranger has committed for the group.
    """
    if stored.topic_id != topic_id:
        raise LossDetected(f"{partition}: the topic was created anew (id {topic_id}, known as {stored.topic_id})")
    if committed is not None and committed > stored.next_offset:
        raise LossDetected(
            f"{partition}: offset {committed} is committed, but the database's position is {stored.next_offset}: it "
            "has lost transactions (the database went back), as when a standby took over without them, or it is "
            "restored from a backup; or someone set the group's offsets forward, or another program is in the group "
            "('just topics' names it); 'just replay' brings back what was published and lets it read the log again"
        )
    if log_start > stored.next_offset:
        raise LossDetected(
            f"{partition}: the log starts at offset {log_start}, after the position {stored.next_offset}: "
            f"{log_start - stored.next_offset} records were deleted unread"
        )
    if log_end < stored.next_offset:
        raise Truncated(
            f"{partition}: the log ends at offset {log_end}, before the position {stored.next_offset}: it was truncated"
        )
    return max(log_start, min(stored.next_offset, committed or 0))


def starts(
    connection: Conn,
    admin: AdminClient,
    consumer: Consumer,
    topics: Mapping[str, Topic],
    partitions: Sequence[Partition],
) -> list[Start]:
    """Where to begin in these partitions. Raises `LossDetected`, or `Transient` when it cannot be known now.

    The committed offsets are read before the positions: another instance may be at work, and both only rise.
    """
    committed = broker.committed_offsets(consumer, partitions)
    stored = _load(connection, topics)
    skipped = _skipped(connection, topics)
    bounds = broker.log_bounds(admin, partitions)
    return [
        Start(
            *partition,
            start_offset(
                partition, topics[partition.topic].topic_id, stored[partition], committed.get(partition), first, end
            ),
            stored[partition].next_offset,
            skipped.get(partition, MappingProxyType({})),
        )
        for partition, (first, end) in bounds.items()
    ]


def confirmed(
    find: Callable[[AdminClient], list[Start]], client: AdminClient, new_client: Callable[[], AdminClient], copies: int
) -> list[Start]:
    """What `find` says. If that is `Truncated` and the log has several `copies`, other clients are asked too.

    A broker that is cut off from the others goes on answering for what it led, with the ends that it knew. Each client
    begins with one broker of several. Raises what `find` raises the last time.
    """
    for _ in range(ENDS_ASKED - 1 if copies > 1 else 0):
        try:
            return find(client)
        except Truncated:
            client = new_client()
    return find(client)


_SKIPPED: Final = """
    SELECT topic, partition, "offset", format('%%s: %%s', actor, why) FROM dead_letter_acts
    WHERE act = 'skip' AND (topic, topic_id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""


def _skipped(connection: Conn, topics: Mapping[str, Topic]) -> dict[Partition, dict[int, str]]:
    """What an operator has had this service skip (`just dlq skip`), by partition and offset."""
    parameters = (list(topics), [topic.topic_id for topic in topics.values()])
    skipped: defaultdict[Partition, dict[int, str]] = defaultdict(dict)
    with connection.transaction():
        for topic, number, offset, why in connection.execute(_SKIPPED, parameters).fetchall():
            skipped[Partition(topic, number)][offset] = why
    return skipped


_SEED: Final = """
    INSERT INTO positions (topic, partition, topic_id, next_offset)
    SELECT %(name)s, number, %(topic_id)s, 0 FROM generate_series(0, %(partitions)s - 1) AS number
    WHERE NOT EXISTS (SELECT FROM positions WHERE topic = %(name)s)
    ON CONFLICT DO NOTHING
"""


def _load(connection: Conn, topics: Mapping[str, Topic]) -> dict[Partition, Stored]:
    """All positions. All partitions of a new topic get position 0 at once; one without a position was added later."""
    with connection.transaction():
        for topic in topics.values():
            connection.execute(_SEED, topic._asdict())
        rows = connection.execute("SELECT topic, partition, topic_id, next_offset FROM positions").fetchall()
    stored = {Partition(topic, number): Stored(topic_id, offset) for topic, number, topic_id, offset in rows}
    for topic in topics.values():
        stored_count = sum(partition.topic == topic.name for partition in stored)
        broker.check_partitions_known(topic.name, topic.partitions, stored_count)
    return stored


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


def lock(statements: Pipeline, partitions: Iterable[Partition]) -> Answer:
    """Lock the positions for the rest of the transaction. `fetch` reads them after the pipeline has ended."""
    partitions = list(partitions)
    return statements.execute(_LOCK, ([p.topic for p in partitions], [p.number for p in partitions]))


def fetch(answer: Answer) -> dict[Partition, int]:
    return {Partition(topic, number): offset for topic, number, offset in answer.fetchall()}


def read(connection: Conn) -> dict[Partition, int]:
    """All positions, outside a transaction."""
    rows = connection.execute("SELECT topic, partition, next_offset FROM positions").fetchall()
    return {Partition(topic, number): offset for topic, number, offset in rows}


def check_not_superseded(
    known: Mapping[Partition, int], stored: Mapping[Partition, int], partitions: Iterable[Partition]
) -> None:
    """Raises `Superseded` unless the positions are where this instance left them. An instance that was frozen while its
    partitions were given away finds out here. Raises `WentBack` when one is behind that: positions only rise."""
    check_not_back({partition: known[partition] for partition in partitions}, stored)
    for partition in partitions:
        if stored.get(partition) != known[partition]:
            raise Superseded(
                f"{partition}: the position is {stored.get(partition)}, not {known[partition]}: another instance has it"
            )


def check_not_back(known: Mapping[Partition, int], stored: Mapping[Partition, int]) -> None:
    """Raises `WentBack` when a position is behind the one that this instance stored or read before. Decided anew, those
    records could get other decisions than the published ones."""
    lost = {partition: offset for partition, offset in known.items() if stored.get(partition, offset) < offset}
    if lost:
        partition, offset = min(lost.items())
        raise WentBack(
            f"{partition}: the database went back: its position is {stored[partition]}, and {offset} was stored: it "
            "has lost transactions, as when a standby took over without them, or it was restored under the running "
            "service; 'just replay' brings back what was published and lets it read the log again",
            lost,
        )


def check_no_gap(known: Mapping[Partition, int], first: Mapping[Partition, Record]) -> None:
    """Raises `Superseded` if the batch begins behind the position: its partition was lost and assigned again while the
    batch waited, and the position is not where it was. `first` is the batch's first record in each partition."""
    for partition, record in first.items():
        if record.offset > known[partition]:
            raise Superseded(f"{partition}: the batch begins at {record.offset}, the position is {known[partition]}")


def advance(statements: Pipeline, moved: Mapping[Partition, tuple[int, Milliseconds]]) -> None:
    """Move each position to the given next offset; the time is that of the last record before it."""
    statements.execute(_ADVANCE, columns((*p, offset, rfc3339(at)) for p, (offset, at) in moved.items()))
