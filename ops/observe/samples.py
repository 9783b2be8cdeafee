"""What a database and the broker say of the whole system just now. Each sample is a few small queries.

Nothing here is asked of a service, so it is also true of one that is frozen or gone.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

from common.config.kafka import Brokers
from common.events import ORDERS, READS, SAGA, Milliseconds
from common.kafka.broker import Partition, all_partitions, log_ends
from common.kafka.clients import reader_config
from common.kafka.identity import Consumer
from common.postgres import CONNECTIONS
from ops.databases import Database
from ops.groups import members
from ops.log import Log
from ops.log_dirs import Folder, cluster, folders
from ops.tool import GROUP_OF

CLIENT_ID: Final = "console-samples"
SLOW_EVERY_S: Final = 2.5
"""How old the parts of a sample may be that cost a database more: its connections, the oldest unsettled order."""
FULL_SEARCH_EVERY_S: Final = 600.0
FIRST_RECORD_S: Final = 1.0
FIRST_RECORDS_S: Final = 3.0
FETCH_BYTES: Final = 1_024
LAGGARD_MS: Final = 60_000
"""A partition that the saga has read this much less far than another does not keep the search back."""
PARKED: Final = "SELECT root, count(*) AS events FROM parked_events WHERE state <> 'done' GROUP BY root"
POSITIONS: Final = """
    SELECT topic, partition, next_offset, (extract(epoch FROM record_time) * 1000)::bigint AS record_time FROM positions
"""
STOPPED: Final = "SELECT reason FROM stops WHERE resumed_at IS NULL LIMIT 1"
STANDBYS: Final = "SELECT count(*) AS standbys FROM pg_stat_replication"
# Read along `orders_by_placed_at` from where the last sample ended, not from the beginning of time.
UNSETTLED: Final = """
    SELECT (extract(epoch FROM min(placed_at)) * 1000)::bigint AS oldest FROM orders
    WHERE settled_at IS NULL AND placed_at >= to_timestamp(%(since)s::float8 / 1000)
"""


class Position(NamedTuple):
    """How far a group has come in a partition: the offset it reads next, and the broker's time of the record before."""

    next_offset: int
    record_time: Milliseconds | None


class DatabaseSample(NamedTuple):
    """A service's database."""

    positions: Mapping[Partition, Position]
    parked: Mapping[bool, int]
    """How many parked events are not done, by whether they are roots."""
    stopped: str | None
    """Why its consumer waits for an operator, if it does."""
    connections: Mapping[str, int]
    """`allowed`, `reserved` and `taken`, see `common.postgres.CONNECTIONS`."""
    oldest_unsettled: Milliseconds | None
    """When the oldest order was placed that is stored and not settled. Of the order database only."""
    standbys_missing: int = 0
    """How many servers besides this one the database has, and do not follow it."""


class BrokerSample(NamedTuple):
    ends: Mapping[Partition, int]
    members: Mapping[str, int]
    """How many members each group has."""
    assigned: Mapping[str, Sequence[str]]
    """The partitions of each member, by its client id, which is the name of the instance, and by its host."""
    folders: list[Folder]
    first_unread: Mapping[tuple[str, Partition], Milliseconds]
    """The broker's time of the first record that a group has not passed, where there is one."""
    past_end: Mapping[tuple[str, Partition], int]
    """By how many records a group's position is past the end, where it is: the log has lost its end, or is another."""
    lacking_copies: int = 0
    """How many partitions have fewer copies that are up to date than they should."""


class Lag(NamedTuple):
    """How much of a topic a group has not passed, the age of the oldest record of that, and by how many records its
    positions are past the end."""

    records: int
    seconds: float
    past_end: int = 0


class DatabaseSampler:
    """Samples one service's database, as the auditor."""

    def __init__(self, database: Database) -> None:
        self.service = database.service
        self._database = database
        self._settled_upto = Milliseconds(0)
        """All orders placed before are settled, or come to light in the next full search."""
        self._searched_s = self._slow_s = -FULL_SEARCH_EVERY_S
        self._connections: Mapping[str, int] = {}
        self._oldest: Milliseconds | None = None
        self._standbys_missing = 0

    def sample(self) -> DatabaseSample:
        """How it stands now. Raises `Unreadable`."""
        query, now_s = self._database.query, time.monotonic()
        positions = {
            Partition(row["topic"], row["partition"]): Position(row["next_offset"], row["record_time"])
            for row in query(POSITIONS)
        }
        parked = Counter({row["root"]: row["events"] for row in query(PARKED)})
        stopped = next((row["reason"] for row in query(STOPPED)), None)
        if now_s - self._slow_s >= SLOW_EVERY_S:
            [connections] = query(CONNECTIONS)
            if self.service == "order":
                self._oldest = self._oldest_unsettled(positions, now_s)
            if standbys := self._database.servers - 1:
                [row] = query(STANDBYS)
                self._standbys_missing = max(0, standbys - row["standbys"])
            self._connections, self._slow_s = connections, now_s
        return DatabaseSample(positions, parked, stopped, self._connections, self._oldest, self._standbys_missing)

    def _oldest_unsettled(self, positions: Mapping[Partition, Position], now_s: float) -> Milliseconds | None:
        if now_s - self._searched_s >= FULL_SEARCH_EVERY_S:  # some are stored late, such as one that was redriven
            self._settled_upto, self._searched_s = Milliseconds(0), now_s
        [row] = self._database.query(UNSETTLED, since=self._settled_upto)
        read = [p.record_time for partition, p in positions.items() if partition.topic == ORDERS and p.record_time]
        self._settled_upto = settled_upto(self._settled_upto, read, row["oldest"])
        return None if row["oldest"] is None else Milliseconds(row["oldest"])


def settled_upto(known: Milliseconds, read: Iterable[Milliseconds], oldest: Milliseconds | None) -> Milliseconds:
    """The time from which on to search the next time, given how far the saga has read each partition of `orders`, and
    when the oldest unsettled order was placed.

    An order of a partition that is read less far may be stored later than one that was placed after it. While that
    partition is further behind than `LAGGARD_MS`, its lag counts; the next full search finds what is left.
    """
    upto = max(read, default=0) - LAGGARD_MS
    return Milliseconds(max(known, upto if oldest is None else min(upto, oldest)))


class BrokerSampler:
    """Samples the broker. Its methods raise `Transient`, `Fatal` or `KafkaException` when it does not answer."""

    def __init__(self, brokers: Brokers) -> None:
        self._log = Log(brokers, CLIENT_ID)
        self._reader = Consumer({**reader_config(brokers, CLIENT_ID), "fetch.message.max.bytes": FETCH_BYTES})

    def ends(self) -> dict[Partition, int]:
        """The ends of all topics about orders."""
        return log_ends(self._log.admin, all_partitions(self._log.topics(READS[SAGA]).values()))

    def sample(self, positions: Mapping[tuple[str, Partition], Position]) -> BrokerSample:
        """`positions` are those of each group in each partition, as last sampled: before the ends, so that a position
        past its end is no record that came in between."""
        ends = self.ends()
        known = cluster(self._log.admin)
        nodes = list(known.brokers.values())
        groups = members(self._log.brokers, nodes, READS)
        counts = {group: len(of_group) for group, of_group in groups.items()}
        assigned: dict[str, list[str]] = {}
        for member in (member for of_group in groups.values() for member in of_group):
            own = sorted(map(str, member.partitions))
            assigned[member.client_id] = assigned[member.host.lstrip("/")] = own
        first_unread: dict[tuple[str, Partition], Milliseconds] = {}
        for group in READS:
            unread = {
                p: at.next_offset for (g, p), at in positions.items() if g == group and at.next_offset < ends.get(p, 0)
            }
            first_unread |= {(group, partition): at for partition, at in first_times(self._reader, unread).items()}
        past_end = {
            where: at.next_offset - ends.get(where[1], 0)
            for where, at in positions.items()
            if at.next_offset > ends.get(where[1], 0)
        }
        volumes = folders(self._log.brokers, nodes)
        return BrokerSample(ends, counts, assigned, volumes, first_unread, past_end, lacking_copies(known))


def lacking_copies(known: ClusterMetadata) -> int:
    """How many partitions have fewer copies that are up to date than they should."""
    partitions = [partition for topic in known.topics.values() for partition in topic.partitions.values()]
    return sum(len(partition.isrs) < len(partition.replicas) for partition in partitions)


def first_times(reader: Consumer, offsets: Mapping[Partition, int]) -> dict[Partition, Milliseconds]:
    """The broker's time of the first record from each of these offsets on, where it comes within `FIRST_RECORDS_S`."""
    times: dict[Partition, Milliseconds] = {}
    if not offsets:
        return times
    reader.assign([TopicPartition(*partition, offset) for partition, offset in offsets.items()])
    until_s = time.monotonic() + FIRST_RECORDS_S
    with suppress(KafkaException):
        while len(times) < len(offsets) and time.monotonic() < until_s:
            for message in reader.consume(len(offsets), FIRST_RECORD_S):
                partition = Partition(str(message.topic()), int(message.partition() or 0))
                if message.error() is None and partition in offsets and partition not in times:
                    times[partition] = Milliseconds(message.timestamp()[1])
                    reader.incremental_unassign([TopicPartition(*partition)])
    reader.unassign()
    return times


def lag(
    positions: Mapping[tuple[str, Partition], Position], broker: BrokerSample, at: Milliseconds
) -> dict[tuple[str, str], Lag]:
    """By group and topic. Where the first unread record is not known, its age is at most that of the last one read."""
    lags: dict[tuple[str, str], Lag] = {(group, topic): Lag(0, 0.0) for group in READS for topic in READS[group]}
    for (group, partition), position in positions.items():
        unread = broker.ends.get(partition, 0) - position.next_offset
        if unread > 0 and (group, partition.topic) in lags:
            since = broker.first_unread.get((group, partition), position.record_time or at)
            known = lags[group, partition.topic]
            lags[group, partition.topic] = Lag(known.records + unread, max(known.seconds, (at - since) / 1000))
    for (group, partition), records in broker.past_end.items():
        if (group, partition.topic) in lags:
            known = lags[group, partition.topic]
            lags[group, partition.topic] = known._replace(past_end=known.past_end + records)
    return lags


def oldest_unsettled_s(database: DatabaseSample, lags: Mapping[tuple[str, str], Lag], at: Milliseconds) -> float:
    """The age of the oldest order that is not settled: stored as such, or not yet read by the saga."""
    stored = 0.0 if database.oldest_unsettled is None else (at - database.oldest_unsettled) / 1000
    return max(stored, lags[SAGA, ORDERS].seconds, 0.0)


def positions_of(databases: Mapping[str, DatabaseSample]) -> dict[tuple[str, Partition], Position]:
    """The positions of every group, from the samples by database."""
    return {
        (GROUP_OF[database], partition): position
        for database, sample in databases.items()
        for partition, position in sample.positions.items()
    }
