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
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec
import psycopg
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from loguru import logger

from common import log, metrics, positions
from common.backoff import delays_s
from common.config import Process
from common.errors import Failure, LossDetected, Poison, Superseded, classify
from common.events import Event, Milliseconds, decoder_for, encode, type_of
from common.kafka import Outgoing, Publisher, client_config, consumer_config
from common.positions import Partition
from common.postgres import Conn, connect, terminate_stale_blockers

BATCH_RECORDS_MAX: Final = 2_000
BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
POLL_S: Final = 0.25
COMMIT_TIMEOUT_S: Final = 5.0

# When little arrives, a batch is whatever is there: latency. When much arrives, waiting a moment makes batches large:
# each costs the broker and PostgreSQL the same, so 50 ms of waiting took a quarter off the CPU of an order.
LINGER_MAX_S: Final = 0.05
LINGER_FROM_RATE: Final = 600
LINGER_FULL_RATE: Final = 3_500
RATE_WINDOW_S: Final = 0.5

LAG_EVERY_S: Final = 1.0
LOCK_NOT_AVAILABLE: Final = "55P03"


def linger_s(records_per_s: float) -> float:
    """Seconds to let a batch grow after its first record, given the recent rate."""
    share = (records_per_s - LINGER_FROM_RATE) / (LINGER_FULL_RATE - LINGER_FROM_RATE)
    return LINGER_MAX_S * min(1.0, max(0.0, share))


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


class Rate:
    """How many records a second arrived lately, by exponential smoothing over `RATE_WINDOW_S`."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._at = 0.0

    def count(self, records: int, at_s: float) -> None:
        elapsed = max(at_s - self._at, 1e-6)
        self._at = at_s
        weight = min(1.0, elapsed / RATE_WINDOW_S)
        self.per_s += weight * (records / elapsed - self.per_s)


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
                if time.monotonic() - started > 60:
                    delays = delays_s()
                self._stopping.wait(next(delays))
        self._say("stopped")

    def _say(self, missing: str) -> None:
        self._missing = missing


class _Session(Generic[Locked]):
    """One membership in the group, from joining to leaving. Any failure but a transient one inside a batch ends it."""

    def __init__(self, process: Process, handler: Handler[Locked], stopping: threading.Event, say: Any) -> None:
        self._process = process
        self._handler = handler
        self._stopping = stopping
        self._say = say
        self._log = logger.bind(group=handler.group)
        # As stored in the database by this instance. A row that says otherwise was moved by somebody else.
        self._positions: dict[Partition, int] = {}
        self._expected: dict[Partition, int] = {}
        self._uncommitted: dict[Partition, int] = {}
        self._pending: deque[Message] = deque()
        self._rate = Rate()
        self._lag_at = 0.0

    def run(self) -> None:
        """Consume until told to stop. Raises whatever ends the session."""
        instance = self._process.instance
        self._say(f"connecting to PostgreSQL and Kafka at {self._process.bootstrap_servers}")
        self._connection = connect(self._process.database_url, instance)
        self._admin = AdminClient(client_config(self._process.bootstrap_servers, instance))
        self._topics = positions.describe(self._admin, self._handler.topics)
        positions.check_partition_counts(self._topics)
        self._publisher = Publisher(self._process.bootstrap_servers, instance)
        self._consumer = Consumer(
            consumer_config(self._process.bootstrap_servers, instance, self._handler.group), logger=None
        )
        try:
            self._consumer.subscribe(
                list(self._handler.topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            self._say("joining the group")
            while not self._stopping.is_set():
                batch = self._next_batch()
                if batch:
                    self._settle_with_retries(batch)
                elif self._uncommitted:
                    self._commit()
                self._report_lag()
        finally:
            self._consumer.close()
            self._connection.close()

    # Membership

    def _assigned(self, consumer: Consumer, added: list[TopicPartition]) -> None:
        if added:
            starts = positions.starts(self._connection, self._admin, consumer, self._topics, added)
            for start in starts:
                partition = Partition(start.topic, start.partition)
                self._positions[partition] = start.position
                self._expected[partition] = start.offset
            consumer.incremental_assign([TopicPartition(s.topic, s.partition, s.offset) for s in starts])
            self._log.info("assigned", partitions=[f"{s.topic}/{s.partition}@{s.offset}" for s in starts])
        self._say("")

    def _revoked(self, consumer: Consumer, gone: list[TopicPartition]) -> None:
        # Called from within consume(), so no batch is half done: what is left to do is to commit its offsets.
        if self._uncommitted:
            self._commit()
        self._lost(consumer, gone)

    def _lost(self, consumer: Consumer, gone: list[TopicPartition]) -> None:
        for tp in gone:
            partition = Partition(tp.topic, tp.partition)
            self._positions.pop(partition, None)
            self._expected.pop(partition, None)
            self._uncommitted.pop(partition, None)
        self._pending = deque(m for m in self._pending if _partition_of(m) in self._positions)
        self._log.info("revoked", partitions=[f"{tp.topic}/{tp.partition}" for tp in gone])

    # Taking in

    def _next_batch(self) -> list[Message]:
        if not self._pending:
            first = self._consumer.consume(1, POLL_S)
            if not first:
                self._rate.count(0, time.monotonic())
                return []
            self._take(first)
            wait = linger_s(self._rate.per_s)
            if wait:
                self._stopping.wait(wait)
            self._take(self._consumer.consume(BATCH_RECORDS_MAX - 1, 0))
        batch: list[Message] = []
        size = 0
        while self._pending and len(batch) < BATCH_RECORDS_MAX and size < BATCH_BYTES_MAX:
            message = self._pending.popleft()
            size += len(message)
            batch.append(message)
        self._rate.count(len(batch), time.monotonic())
        return batch

    def _take(self, messages: Iterable[Message]) -> None:
        for message in messages:
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            partition = _partition_of(message)
            # A poll may still return records of a partition that has just been revoked.
            expected = self._expected.get(partition)
            if expected is None:
                continue
            if message.offset() != expected:
                raise LossDetected(
                    f"{partition}: the log goes on at offset {message.offset()} where {expected} was to come; "
                    "records are missing; see docs/OPERATIONS.md, 'Loss detected'"
                )
            self._expected[partition] = expected + 1
            self._pending.append(message)

    # A batch

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
                self._wait_polling(delay)
                if self._stopping.is_set():
                    return
                batch = [m for m in batch if _partition_of(m) in self._positions]
                if not batch:
                    return
            else:
                self._say("")
                return

    def _settle(self, batch: Sequence[Message]) -> None:
        started = time.perf_counter()
        records = [_decode(message) for message in batch]
        ends = {r.partition: r.offset + 1 for r in records}
        decided, fresh = self._store(records, ends)
        stored = time.perf_counter()
        outgoing = [
            Outgoing(event.topic, partition, event.partitionkey.encode(), encode(event))
            for partition, event in decided.results()
        ]
        self._publisher.publish(outgoing)
        published = time.perf_counter()
        self._uncommitted.update(ends)
        self._commit()
        self._count(records, fresh, len(outgoing), started, stored, published)
        if log.is_debug():
            self._trace(records)

    def _store(self, records: Sequence[Received], ends: dict[Partition, int]) -> tuple[Decided, int]:
        connection = self._connection
        try:
            with connection.pipeline():
                held = positions.lock(connection, ends)
                locked = self._handler.lock(connection, records)
            for partition, position in positions.fetched(held).items():
                if position != self._positions[partition]:
                    raise Superseded(
                        f"{partition}: the stored position is {position}, not {self._positions[partition]}: another "
                        "instance has it"
                    )
            fresh = [r for r in records if r.offset >= self._positions[r.partition]]
            repeats = [r for r in records if r.offset < self._positions[r.partition]]
            decided = self._handler.decide(locked, fresh, repeats)
            if fresh:
                decided.store(connection)
                moved = {r.partition: (r.offset + 1, r.at) for r in fresh}
                with connection.pipeline():
                    decided.update(connection)
                    positions.advance(connection, moved)
                connection.commit()
                self._positions.update({partition: offset for partition, (offset, _) in moved.items()})
            else:
                connection.rollback()
        except BaseException:
            _rollback(connection)
            raise
        return decided, len(fresh)

    def _commit(self) -> None:
        """Commit to Kafka what is stored and published. A refusal is not an error: it will be committed later, here or
        by the partition's next owner, for whom these records are repeats."""
        offsets = [TopicPartition(p.topic, p.number, offset) for p, offset in self._uncommitted.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
            self._uncommitted.clear()
        except KafkaException as error:
            if classify(error) is not Failure.TRANSIENT:
                raise
            self._log.warning("offsets not committed, will try again: {}", describe(error))

    # Recovery

    def _recover(self, error: Exception) -> None:
        if self._connection.broken or self._connection.closed:
            self._connection.close()
            try:
                self._connection = connect(self._process.database_url, self._process.instance)
            except psycopg.OperationalError as again:
                self._log.warning("no connection to PostgreSQL: {}", describe(again))
        elif isinstance(error, psycopg.Error) and error.sqlstate == LOCK_NOT_AVAILABLE:
            ended = terminate_stale_blockers(self._connection)
            if ended:
                self._log.warning("terminated sessions that held locks for too long", pids=ended)

    def _wait_polling(self, delay: float) -> None:
        """Wait, but go on polling, so that the group does not take this instance for dead."""
        owned = [TopicPartition(p.topic, p.number) for p in self._positions]
        self._consumer.pause(owned)
        until = time.monotonic() + delay
        while not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
            self._take(self._consumer.consume(BATCH_RECORDS_MAX, min(left, POLL_S)))
        self._consumer.resume([TopicPartition(p.topic, p.number) for p in self._positions])

    # Telling

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
        if time.monotonic() - self._lag_at < LAG_EVERY_S:
            return
        self._lag_at = time.monotonic()
        lag = dict.fromkeys(self._handler.topics, 0)
        for partition, expected in self._expected.items():
            _, end = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            lag[partition.topic] += max(0, end - expected)
        for message in self._pending:
            lag[_partition_of(message).topic] += 1
        for topic, behind in lag.items():
            metrics.lag.labels(self._handler.group, topic).set(behind)


def describe(error: BaseException) -> str:
    """One line for an operator."""
    if isinstance(error, KafkaException):
        return f"Kafka: {error.args[0].str()}"
    if isinstance(error, psycopg.Error):
        return f"PostgreSQL: {str(error).strip().splitlines()[0] if str(error) else type(error).__name__}"
    return str(error) or type(error).__name__


def _partition_of(message: Message) -> Partition:
    return Partition(str(message.topic()), int(message.partition() or 0))


def _decode(message: Message) -> Received:
    partition = _partition_of(message)
    try:
        event = decoder_for[partition.topic].decode(message.value() or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Poison(f"{partition} offset {message.offset()} is not an event: {error}") from error
    return Received(partition, int(message.offset() or 0), Milliseconds(message.timestamp()[1]), event)


def _rollback(connection: Conn) -> None:
    """Leave the transaction if there still is a session to leave it in; the server does it for a broken one."""
    with contextlib.suppress(psycopg.Error):
        connection.rollback()
