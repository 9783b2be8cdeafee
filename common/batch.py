"""The commit-after-batch loop: how every consumer takes events in, once each, whatever crashes when.

A batch is one database transaction: lock the positions of its partitions, lock the business rows, read what is
decided, decide, store, advance the positions, commit. Then its results are published and acknowledged. Only then are
the offsets committed to Kafka. A crash at any point repeats the batch: records below the stored position are not
decided again, their stored decisions are published again. So the position, not the group protocol, makes each record
count once, and safety never depends on a rebalance callback.

The loop runs in a thread of its own and owns its consumer, its publisher and its connection.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec
import psycopg
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient
from loguru import logger

from common import log, metrics, positions
from common.backoff import delays_s
from common.config import Process
from common.errors import Failure, Poison, Superseded, classify, describe
from common.events import Event, Milliseconds, decoder_for, encode, type_of
from common.inbox import Inbox, partition_of
from common.kafka import Outgoing, Publisher, client_config
from common.positions import Partition
from common.postgres import Conn, connect, terminate_stale_blockers

LAG_EVERY_S: Final = 1.0
SESSION_GOOD_S: Final = 60.0
LOCK_NOT_AVAILABLE: Final = "55P03"


class Received(NamedTuple):
    """A record as read from the log. `at` is the broker's time (LogAppendTime)."""

    partition: Partition
    offset: int
    at: Milliseconds
    event: Any  # an `Event` of the topic; handlers match on its type


Locked = TypeVar("Locked")


class Handler(Protocol[Locked]):
    """What a service does with a batch. Its three steps run inside the batch's transaction, in this order."""

    @property
    def group(self) -> str:
        """The consumer group's name."""
        ...

    @property
    def topics(self) -> tuple[str, ...]: ...

    def lock(self, connection: Conn, records: Sequence[Received]) -> Locked:
        """Queue (the connection is in pipeline mode) the statements that lock, then read, all rows to be touched."""
        ...

    def decide(self, locked: Locked, fresh: Sequence[Received], repeats: Sequence[Received]) -> "Decided":
        """Decide the fresh records; look up what was decided for the repeats."""
        ...


class Decided(Protocol):
    """The outcome of a batch: what to store and what to say."""

    def store(self, connection: Conn) -> None:
        """Write it: COPY what is new."""
        ...

    def update(self, connection: Conn) -> None:
        """Queue (the connection is in pipeline mode) the updates of existing rows."""
        ...

    def results(self) -> Iterable[tuple[int, Event]]:
        """The events to publish, each with its partition number."""
        ...


class BatchConsumer(Generic[Locked]):
    """Runs a handler over its topics until stopped. A `common.server.Task`."""

    def __init__(self, process: Process, handler: Handler[Locked]) -> None:
        self._process = process
        self._handler = handler
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{handler.group}-consumer", daemon=True)
        self._missing = "not started"
        self._log = logger.bind(group=handler.group)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch in hand, leave the group, and return."""
        self._stopping.set()
        self._thread.join()

    def missing(self) -> list[str]:
        """Why this consumer is not at work: empty when it is."""
        return [f"{self._handler.group} consumer: {self._missing}"] if self._missing else []

    def _run(self) -> None:
        delays = delays_s()
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                _Session(self._process, self._handler, self._stopping, self._say).run()
            except Exception as error:
                failure = classify(error)
                metrics.failures.labels(self._handler.group, failure.value).inc()
                self._say(describe(error))
                if failure is not Failure.TRANSIENT:
                    self._log.opt(exception=error).critical("stopped, waiting for an operator: {}", describe(error))
                    return
                self._log.warning("starting over: {}", describe(error))
                if time.monotonic() - started > SESSION_GOOD_S:
                    delays = delays_s()
                self._stopping.wait(next(delays))
        self._say("stopped")

    def _say(self, missing: str) -> None:
        self._missing = missing


class _Session(Generic[Locked]):
    """One membership in the group, from joining to leaving. Any failure but a transient one inside a batch ends it."""

    def __init__(
        self, process: Process, handler: Handler[Locked], stopping: threading.Event, say: Callable[[str], None]
    ) -> None:
        self._process = process
        self._handler = handler
        self._stopping = stopping
        self._say = say
        self._log = logger.bind(group=handler.group)
        self._lag_at = 0.0

    def run(self) -> None:
        """Consume until told to stop. Raises whatever ends the session."""
        process, handler = self._process, self._handler
        self._say(f"connecting to PostgreSQL, and to Kafka at {process.bootstrap_servers}")
        self._connection = connect(process.database_url, process.instance)
        try:
            admin = AdminClient(client_config(process.bootstrap_servers, process.instance))
            topics = positions.describe(admin, handler.topics)
            positions.check_partition_counts(topics)
            self._publisher = Publisher(process.bootstrap_servers, process.instance)
            self._inbox = Inbox(
                process,
                handler.group,
                handler.topics,
                self._stopping,
                lambda consumer, added: positions.starts(self._connection, admin, consumer, topics, added),
                self._say,
            )
            try:
                while not self._stopping.is_set():
                    if batch := self._inbox.next_batch():
                        self._settle_with_retries(batch)
                    self._report_lag()
            finally:
                self._inbox.close()
        finally:
            self._connection.close()

    def _settle_with_retries(self, batch: list[Message]) -> None:
        for delay in delays_s():
            try:
                self._settle(batch)
            except Exception as error:
                if classify(error) is not Failure.TRANSIENT or isinstance(error, Superseded):
                    raise
                metrics.failures.labels(self._handler.group, Failure.TRANSIENT.value).inc()
                self._say(f"retrying: {describe(error)}")
                self._log.warning("batch failed, retrying in {:.2f} s: {}", delay, describe(error))
                self._recover(error)
                self._inbox.wait(delay)
                batch = self._inbox.still_owned(batch)
            else:
                self._say("")
                return
            if not batch or self._stopping.is_set():
                return

    def _settle(self, batch: Sequence[Message]) -> None:
        """The batch's whole way. The order of these steps is what the guarantees rest on."""
        started = time.perf_counter()
        records = [_decode(message) for message in batch]
        decided, fresh = self._store(records)
        stored = time.perf_counter()
        outgoing = [
            Outgoing(event.topic, partition, event.partitionkey.encode(), encode(event))
            for partition, event in decided.results()
        ]
        self._publisher.publish(outgoing)
        published = time.perf_counter()
        self._inbox.commit({r.partition: r.offset + 1 for r in records})
        self._count(records, fresh, len(outgoing), started, stored, published)
        if log.is_debug():
            self._trace(records)

    def _store(self, records: Sequence[Received]) -> tuple[Decided, int]:
        """Decide and store in one transaction. Raises `Superseded` when another instance has moved a position."""
        connection, known = self._connection, self._inbox.positions
        try:
            with connection.pipeline():
                held = positions.lock(connection, {r.partition for r in records})
                locked = self._handler.lock(connection, records)
            _check_not_superseded(known, positions.fetched(held), {r.partition for r in records})
            fresh = [r for r in records if r.offset >= known[r.partition]]
            repeats = [r for r in records if r.offset < known[r.partition]]
            decided = self._handler.decide(locked, fresh, repeats)
            if fresh:
                decided.store(connection)
                moved = {r.partition: (r.offset + 1, r.at) for r in fresh}
                with connection.pipeline():
                    decided.update(connection)
                    positions.advance(connection, moved)
                connection.commit()
                known.update({partition: offset for partition, (offset, _) in moved.items()})
            else:
                connection.rollback()
        except BaseException:
            _rollback(connection)
            raise
        return decided, len(fresh)

    def _recover(self, error: Exception) -> None:
        if self._connection.closed:
            try:
                self._connection = connect(self._process.database_url, self._process.instance)
            except psycopg.OperationalError as again:
                self._log.warning("no connection: {}", describe(again))
        elif isinstance(error, psycopg.Error) and error.sqlstate == LOCK_NOT_AVAILABLE:
            ended = terminate_stale_blockers(self._connection)
            if ended:
                self._log.warning("terminated sessions that held locks for too long", pids=ended)

    def _count(
        self, records: Sequence[Received], fresh: int, results: int, started: float, stored: float, published: float
    ) -> None:
        group = self._handler.group
        ended = time.perf_counter()
        metrics.batches.labels(group).inc()
        metrics.records.labels(group, "fresh").inc(fresh)
        metrics.records.labels(group, "repeat").inc(len(records) - fresh)
        metrics.published.labels(group).inc(results)
        took = {"store": stored - started, "publish": published - stored, "commit": ended - published}
        for stage, seconds in took.items():
            metrics.stage_seconds.labels(group, stage).observe(seconds)
        self._log.info(
            "batch",
            records=len(records),
            repeats=len(records) - fresh,
            published=results,
            partitions=len({r.partition for r in records}),
            **{f"{stage}_ms": round(seconds * 1e3, 1) for stage, seconds in took.items()},
        )

    def _trace(self, records: Iterable[Received]) -> None:
        """The way of each order, at DEBUG."""
        for r in records:
            self._log.debug(
                type_of(r.event),
                order=r.event.subject,
                customer=r.event.partitionkey,
                trace=r.event.traceparent,
                topic=r.partition.topic,
                partition=r.partition.number,
                offset=r.offset,
            )

    def _report_lag(self) -> None:
        if time.monotonic() - self._lag_at >= LAG_EVERY_S:
            self._lag_at = time.monotonic()
            for topic, behind in self._inbox.lag().items():
                metrics.lag.labels(self._handler.group, topic).set(behind)


def _decode(message: Message) -> Received:
    partition = partition_of(message)
    try:
        event = decoder_for[partition.topic].decode(message.value() or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Poison(f"{partition} offset {message.offset()} is not an event: {error}") from error
    return Received(partition, int(message.offset() or 0), Milliseconds(message.timestamp()[1]), event)


def _check_not_superseded(
    known: Mapping[Partition, int], stored: Mapping[Partition, int], partitions: Iterable[Partition]
) -> None:
    """Raise `Superseded` unless the positions are where this instance left them. One that froze, and wakes up after
    its partitions were given away, learns it here."""
    for partition in partitions:
        if stored.get(partition) != known[partition]:
            raise Superseded(
                f"{partition}: the position is {stored.get(partition)}, not {known[partition]}: another instance has it"
            )


def _rollback(connection: Conn) -> None:
    """Leave the transaction if there still is a session to leave it in; the server does it for a broken one."""
    with contextlib.suppress(psycopg.Error):
        connection.rollback()
