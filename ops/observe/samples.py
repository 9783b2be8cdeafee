"""What a database and the broker say of the whole system just now. Each sample is a few small queries.

Nothing here is asked of a service, so it is also true of one that is frozen or gone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

import psycopg
from confluent_kafka import KafkaException, TopicPartition
from psycopg.conninfo import make_conninfo

from common.config.kafka import Brokers
from common.events import ORDERS, READERS, READS, SAGA, Milliseconds
from common.kafka.broker import Partition
from common.kafka.clients import reader_config
from common.kafka.identity import Consumer
from common.postgres import KEEPALIVES, connections
from ops.log import Log, members
from ops.log_dirs import Folder, folders
from ops.tool import GROUP_OF

CLIENT_ID: Final = "console-samples"
CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_MS: Final = 5_000
FIRST_RECORD_S: Final = 1.0
FETCH_BYTES: Final = 1_024
LAGGARD_MS: Final = 60_000
"""A partition that the saga has read this much less far than another does not keep the search back."""
PARKED: Final = "SELECT root, count(*) FROM parked_events WHERE state <> 'done' GROUP BY root"
POSITIONS: Final = """
    SELECT topic, partition, next_offset, (extract(epoch FROM record_time) * 1000)::bigint FROM positions
"""
STOPPED: Final = "SELECT EXISTS (SELECT FROM stops WHERE resumed_at IS NULL)"
# Read along `orders_by_placed_at` from where the last sample ended, not from the beginning of time.
UNSETTLED: Final = """
    SELECT (extract(epoch FROM min(placed_at)) * 1000)::bigint FROM orders
    WHERE settled_at IS NULL AND placed_at >= to_timestamp(%s::float8 / 1000)
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
    stopped: bool
    connections: Mapping[str, int]
    """`allowed`, `reserved` and `taken`, see `common.postgres.connections`."""
    oldest_unsettled: Milliseconds | None
    """When the oldest order was placed that is stored and not settled. Of the order database only."""


class BrokerSample(NamedTuple):
    ends: Mapping[Partition, int]
    members: Mapping[str, int]
    """How many members each group has."""
    folders: list[Folder]
    first_unread: Mapping[tuple[str, Partition], Milliseconds]
    """The broker's time of the first record that a group has not passed, where there is one."""
    past_end: Mapping[tuple[str, Partition], int]
    """By how many records a group's position is past the end, where it is: the log has lost its end, or is another."""


class Lag(NamedTuple):
    """How much of a topic a group has not passed, the age of the oldest record of that, and by how many records its
    positions are past the end."""

    records: int
    seconds: float
    past_end: int = 0


class DatabaseSampler:
    """Samples one database through one connection, as the auditor. Every method raises `psycopg.Error`."""

    def __init__(self, database: str, url: str) -> None:
        self._database = database
        self._settled_upto = Milliseconds(0)
        """All orders placed before are settled, or come to light in the next full search."""
        self._connection = psycopg.connect(
            make_conninfo(
                url,
                application_name=CLIENT_ID,
                connect_timeout=CONNECT_TIMEOUT_S,
                **{**KEEPALIVES, "tcp_user_timeout": 1000 * CONNECT_TIMEOUT_S},
                options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
            ),
            autocommit=True,
        )

    def close(self) -> None:
        self._connection.close()

    def sample(self) -> DatabaseSample:
        rows = self._connection.execute(POSITIONS).fetchall()
        positions = {Partition(topic, number): Position(offset, at) for topic, number, offset, at in rows}
        [[stopped]] = self._connection.execute(STOPPED)
        parked: Counter[bool] = Counter(dict(self._connection.execute(PARKED).fetchall()))
        unsettled = self._oldest_unsettled(positions) if self._database == "order" else None
        return DatabaseSample(positions, parked, stopped, connections(self._connection), unsettled)

    def search_again(self) -> None:
        """Look at all orders the next time: some are stored late, such as one whose event was redriven."""
        self._settled_upto = Milliseconds(0)

    def _oldest_unsettled(self, positions: Mapping[Partition, Position]) -> Milliseconds | None:
        [[oldest]] = self._connection.execute(UNSETTLED, (self._settled_upto,))
        read = [p.record_time for partition, p in positions.items() if partition.topic == ORDERS and p.record_time]
        self._settled_upto = settled_upto(self._settled_upto, read, oldest)
        return None if oldest is None else Milliseconds(oldest)


def settled_upto(known: Milliseconds, read: Iterable[Milliseconds], oldest: Milliseconds | None) -> Milliseconds:
    """The time from which on to search the next time, given how far the saga has read each partition of `orders`, and
    when the oldest unsettled order was placed.

    An order of a partition that is read less far may be stored later than one that was placed after it. While that
    partition is further behind than `LAGGARD_MS`, its lag counts; the next full search finds what is left.
    """
    upto = max(read, default=0) - LAGGARD_MS
    return Milliseconds(max(known, upto if oldest is None else min(upto, oldest)))


class BrokerSampler:
    """Samples the broker. `sample` raises `Transient`, `Fatal` or `KafkaException` when it does not answer."""

    def __init__(self, brokers: Brokers) -> None:
        self._log = Log(brokers, CLIENT_ID)
        self._reader = Consumer({**reader_config(brokers, CLIENT_ID), "fetch.message.max.bytes": FETCH_BYTES})

    def close(self) -> None:
        self._reader.close()

    def sample(self, positions: Mapping[tuple[str, Partition], Position]) -> BrokerSample:
        """`positions` are those of each group in each partition, as last sampled: before the ends, so that a position
        past its end is no record that came in between."""
        ends = {partition: end for partition, (_, end) in self._log.bounds(list(READERS)).items()}
        counts = {group: len(of_group) for group, of_group in members(self._log.admin).items()}
        first_unread: dict[tuple[str, Partition], Milliseconds] = {}
        for group in READS:
            unread = {
                p: at.next_offset for (g, p), at in positions.items() if g == group and at.next_offset < ends.get(p, 0)
            }
            first_unread |= {(group, partition): at for partition, at in self._times(unread).items()}
        past_end = {
            where: at.next_offset - ends.get(where[1], 0)
            for where, at in positions.items()
            if at.next_offset > ends.get(where[1], 0)
        }
        return BrokerSample(ends, counts, folders(self._log.brokers, self._log.admin), first_unread, past_end)

    def _times(self, offsets: Mapping[Partition, int]) -> dict[Partition, Milliseconds]:
        """The broker's time of the first record from each of these offsets on, as far as it comes soon enough."""
        times: dict[Partition, Milliseconds] = {}
        if not offsets:
            return times
        self._reader.assign([TopicPartition(*partition, offset) for partition, offset in offsets.items()])
        with suppress(KafkaException):
            for _ in range(2 * len(offsets)):
                for message in self._reader.consume(len(offsets), FIRST_RECORD_S):
                    partition = Partition(str(message.topic()), int(message.partition() or 0))
                    if message.error() is None and partition in offsets:
                        times.setdefault(partition, Milliseconds(message.timestamp()[1]))
                        self._reader.incremental_unassign([TopicPartition(*partition)])
                if len(times) == len(offsets):
                    break
        self._reader.unassign()
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
