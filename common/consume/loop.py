"""The commit-after-batch loop: how every consumer takes events in, once each, whatever crashes when.

A batch is one database transaction: lock the positions of its partitions, lock the business rows, read what is
decided, decide, store, advance the positions, commit. Then its results are published and acknowledged. Only then are
the offsets committed to Kafka. A crash at any point repeats the batch: records below the stored position are not
decided again, their stored decisions are published again. So the position, not the group protocol, makes each record
count once, and safety never depends on a rebalance callback.

The loop runs in a thread of its own and owns its consumer, its publisher and its connection.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

import psycopg
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from loguru import logger

from common import log, metrics, postgres
from common.backoff import delays_s
from common.config import Process
from common.consume import limits, parking, positions
from common.consume.inbox import STAY_EVERY_S, Arrivals, Inbox
from common.consume.parking import Breaker, Letter, Marked, Opened, Parked, Received, Sorted
from common.consume.positions import Start
from common.consume.tally import Stopwatch, Tally
from common.errors import Failure, Stopped, Superseded, classify, describe
from common.events import Event, encode, type_of
from common.kafka import broker, clients
from common.kafka.broker import Partition, Topic, TopicWatch
from common.kafka.clients import client_config
from common.kafka.publisher import Outgoing, Publisher
from common.postgres import Conn, connect, terminate_stale_blockers, transaction
from common.worker import Worker

LAG_EVERY_S: Final = 1.0
ATTEND_EVERY_S: Final = 1.0
STOPPED_POLL_S: Final = 1.0
NICE: Final = 5
"""A consumer gets a third of what the api gets of a busy processor (`nice(1)`)."""
LOCK_NOT_AVAILABLE: Final = "55P03"


Locked = TypeVar("Locked")
Answer = TypeVar("Answer")


class Handler(Protocol[Locked]):
    """What a service does with a batch. Its three steps run inside the batch's transaction, in this order."""

    @property
    def group(self) -> str:
        """The consumer group's name."""
        ...

    @property
    def topics(self) -> tuple[str, ...]:
        """What it reads."""
        ...

    @property
    def publishes(self) -> str:
        """The topic of its results."""
        ...

    def arrivals(self) -> Arrivals:
        """New, empty: where records wait until they are due."""
        ...

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


class BatchConsumer(Worker, Generic[Locked]):
    """Runs a handler over its topics until stopped: one `_Session` after the other."""

    def __init__(self, process: Process, handler: Handler[Locked]) -> None:
        super().__init__(f"{handler.group} consumer", self._run_session, group=handler.group)
        self._process = process
        self._handler = handler

    def _run_session(self) -> None:
        _give_way()
        _Session(self._process, self._handler, self).run()


class _Session(Generic[Locked]):
    """One membership in the group, from joining to leaving. Any failure but a transient one inside a batch ends it."""

    def __init__(self, process: Process, handler: Handler[Locked], worker: Worker) -> None:
        self._process = process
        self._handler = handler
        self._worker = worker
        self._stopping = worker.stopping
        self._report = worker.report
        self._log = logger.bind(group=handler.group)
        self._breaker = Breaker()
        self._tally = Tally(handler.group)
        self._attended_at = time.monotonic()
        self._attend_failed = False
        self._lag_at = 0.0

    def run(self) -> None:
        """Consume until told to stop. Raises whatever ends the session."""
        process, handler = self._process, self._handler
        self._report(f"connecting to PostgreSQL, and to Kafka at {process.bootstrap_servers}")
        self._connection = connect(process.database_url, process.instance)
        try:
            self._admin = AdminClient(client_config(process.bootstrap_servers, process.instance))
            topics = self._describe()
            self._topic_ids = {topic.name: topic.topic_id for topic in topics.values()}
            self._topic_watch = TopicWatch(self._admin, topics)
            self._publisher = Publisher(process.bootstrap_servers, process.instance)
            everything = broker.all_partitions(topics[name] for name in handler.topics)
            self._inbox = Inbox(
                process,
                handler.group,
                handler.topics,
                self._stopping,
                self._find_starts,
                everything,
                self._report,
                handler.arrivals(),
            )
            try:
                self._check_limits(topics)
                while not self._stopping.is_set():
                    if batch := self._inbox.next_batch():
                        self._with_retries(batch)
                    self._attend_when_due()
                    self._report_lag()
                    self._tally.tell_when_due(time.monotonic())
            finally:
                self._tally.tell()
                self._inbox.close()
        finally:
            self._connection.close()

    def _describe(self) -> dict[str, Topic]:
        """What the broker says of the topics read and published to, now."""
        topics = broker.describe(self._admin, list({*self._handler.topics, self._handler.publishes}))
        broker.check_partition_counts(topics)
        return topics

    def _find_starts(self, consumer: Consumer, partitions: Sequence[Partition]) -> list[Start]:
        """Where to begin. The topics are described anew: what is assigned may be those that replaced the known ones."""
        topics = self._describe()
        read = {name: topics[name] for name in self._handler.topics}
        return positions.starts(self._connection, self._admin, consumer, read, partitions)

    def _check_limits(self, topics: Mapping[str, Topic]) -> None:
        limits.check_partitions(self._process.partitions, {t.name: t.partitions for t in topics.values()})
        limits.check_message_size(broker.message_bytes_max(self._admin, self._handler.topics))
        limits.check_batch_time(
            stay_every_ms=int(STAY_EVERY_S * 1000),
            statement_timeout_ms=postgres.STATEMENT_TIMEOUT_MS,
            delivery_timeout_ms=clients.DELIVERY_TIMEOUT_MS,
            commit_timeout_ms=clients.SOCKET_TIMEOUT_MS,
            max_poll_interval_ms=clients.MAX_POLL_INTERVAL_MS,
        )
        with transaction(self._connection):
            connections = postgres.connections(self._connection)
        if warning := limits.check_connections(needed=postgres.CONNECTIONS_PER_PROCESS, **connections._asdict()):
            self._log.warning(warning)

    def _with_retries(self, batch: list[Opened]) -> None:
        for delay in delays_s():
            try:
                self._settle(batch)
            except Exception as error:
                if classify(error) is not Failure.TRANSIENT or isinstance(error, Superseded):
                    raise
                self._tell(error)
                self._recover(error)
                self._topic_watch.check(time.monotonic())
                self._inbox.wait(STOPPED_POLL_S if isinstance(error, Stopped) else delay)
                self._report_lag()
                batch = [one for one in batch if one.letter.partition in self._inbox.positions]
            else:
                self._report("")
                return
            if not batch or self._stopping.is_set():
                return

    def _settle(self, batch: Sequence[Opened]) -> None:
        """A batch's whole way. The order of these steps is what the guarantees rest on.

        When some event of it turns out to be poison, it is bisected down to that one, the suspect, which is parked.
        """
        clock = Stopwatch()
        first, last = ends(batch)
        try:
            decided, found = self._store(batch, first, last)
        except Exception as error:
            if classify(error) is not Failure.POISON:
                raise
            middle = len(batch) // 2
            if middle == 0:
                [suspect] = batch
                if suspect.received is None:
                    raise
                self._settle([parking.suspected(suspect, describe(error))])
                return
            self._settle(batch[:middle])
            self._inbox.stay()
            if rest := [one for one in batch[middle:] if one.letter.partition in self._inbox.positions]:
                self._settle(rest)
            return
        clock.lap("store")
        published = self._publish(decided)
        clock.lap("publish")
        self._inbox.done({partition: letter.offset + 1 for partition, letter in last.items()})
        clock.lap("commit")
        self._tally.count(len(batch), found, published, clock.laps)
        if log.is_debug():
            self._trace(found.fresh)
        self._watch(len(batch), found.parked)

    def _store(
        self, batch: Sequence[Opened], first: Mapping[Partition, Letter], last: Mapping[Partition, Letter]
    ) -> tuple[Decided, Sorted]:
        """Decide and store in one transaction. Raises `Superseded` when another instance has moved a position,
        `Stopped` when an operator has to resume this consumer."""
        connection, known = self._connection, self._inbox.positions
        with transaction(connection):
            with connection.pipeline():
                held = positions.lock(connection, last)
                looked = parking.look(connection)
                locked = self._handler.lock(connection, [one.received for one in batch if one.received is not None])
            _check_not_superseded(known, positions.fetched(held), last)
            _check_no_gap(known, first)
            guards = parking.guards(looked)
            if guards.stopped is not None:
                raise Stopped(guards.stopped)
            keys = (one.letter.key for one in batch)
            found = parking.sort(batch, known, parking.held(connection, guards.any_held, keys))
            decided = self._handler.decide(locked, found.fresh, found.repeats)
            moved = {partition: letter for partition, letter in last.items() if letter.offset >= known[partition]}
            if moved:
                decided.store(connection)
                if found.parked:
                    parking.park(connection, found.parked, self._topic_ids)
                with connection.pipeline():
                    decided.update(connection)
                    positions.advance(connection, {p: (letter.offset + 1, letter.at) for p, letter in moved.items()})
                    postgres.queue_commit(connection)
        known.update({partition: letter.offset + 1 for partition, letter in moved.items()})
        return decided, found

    def _watch(self, events: int, parked: Sequence[Parked]) -> None:
        """Tell what was parked, and stop this consumer group if it is too much."""
        for letter, root, error, _ in parked:
            metrics.parked.labels(self._handler.group, "root" if root else "follower").inc()
            customer = letter.key and letter.key.decode(errors="replace")
            topic, partition = letter.partition
            self._log.error(
                "parked: {}", error, customer=customer, topic=topic, partition=partition, offset=letter.offset
            )
        if self._breaker.count(events, sum(p.root for p in parked)):
            share = f"{parking.STOP_SHARE_MAX:.0%}"
            self._ask(lambda: parking.stop(self._connection, f"over {share} of the last events could not be processed"))
            self._breaker = Breaker()
            self._attended_at = 0.0

    def _publish(self, decided: Decided) -> int:
        outgoing = [
            Outgoing(event.topic, partition, event.partitionkey.encode(), encode(event))
            for partition, event in decided.results()
        ]
        self._publisher.publish(outgoing)
        return len(outgoing)

    # What an operator wants

    def _attend_when_due(self) -> None:
        if time.monotonic() - self._attended_at < ATTEND_EVERY_S:
            return
        self._attended_at = time.monotonic()
        self._topic_watch.check(self._attended_at)
        self._worker.report_no_loss()
        try:
            self._wait_while_stopped()
            if self._attend_failed:
                self._attend_failed = False
                self._report("")
            while rows := self._ask(lambda: parking.marked(self._connection, self._inbox.positions)):
                self._redrive(rows)
                self._inbox.stay()
        except Exception as error:
            if classify(error) is not Failure.TRANSIENT or isinstance(error, Superseded):
                raise
            self._attend_failed = True
            self._tell(error)
            self._recover(error)

    def _wait_while_stopped(self) -> None:
        waited = False
        while (reason := self._ask(lambda: parking.stopped(self._connection))) and not self._stopping.is_set():
            waited = True
            self._report(str(Stopped(reason)))
            self._inbox.wait(STOPPED_POLL_S)
            self._topic_watch.check(time.monotonic())
            self._report_lag()
        if waited:
            self._report("")

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        with transaction(self._connection):
            return question()

    def _redrive(self, rows: Sequence[Marked], error: str = "") -> None:
        """Decide marked letters like a batch. One that fails again is parked again, with those behind it.

        A letter that was decided, but perhaps not published before a crash, is a repeat and answered again.
        """
        connection, known = self._connection, self._inbox.positions
        partitions = {row.letter.partition for row in rows}
        try:
            with transaction(connection):
                if error:
                    parking.park_again(connection, rows[0], error)
                    self._log.error("parked again: {}", error, place=rows[0].place)
                    return
                reopened = [(row.state, received) for row in rows if (received := parking.reopen(row)) is not None]
                with connection.pipeline():
                    held = positions.lock(connection, partitions)
                    locked = self._handler.lock(connection, [received for _, received in reopened])
                _check_not_superseded(known, positions.fetched(held), partitions)
                decided = self._handler.decide(
                    locked,
                    [received for state, received in reopened if state != "decided"],
                    [received for state, received in reopened if state == "decided"],
                )
                decided.store(connection)
                with connection.pipeline():
                    decided.update(connection)
                    parking.set_state(connection, rows, "decided")
        except Exception as failure:
            if error or classify(failure) is not Failure.POISON:
                raise
            middle = len(rows) // 2
            if middle == 0:
                self._redrive(rows, describe(failure))
            else:
                self._redrive(rows[:middle])
            return  # what is left is asked for again: a part of it may wait behind what has just failed
        self._publish(decided)
        with transaction(connection):
            parking.set_state(connection, rows, "done")
        self._log.info("redriven", records=len(rows))

    # Recovery

    def _tell(self, error: Exception) -> None:
        metrics.failures.labels(self._handler.group, Failure.TRANSIENT.value).inc()
        self._report(describe(error) if isinstance(error, Stopped) else f"retrying: {describe(error)}")
        self._log.warning("retrying: {}", describe(error))

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


def _give_way() -> None:
    """When the processors are all busy, a request that somebody waits for goes first. On Linux this concerns the
    calling thread and those that it starts, its Kafka clients' too; elsewhere the whole process."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)


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


def ends(batch: Sequence[Opened]) -> tuple[dict[Partition, Letter], dict[Partition, Letter]]:
    """The first and the last letter of each partition."""
    first = {one.letter.partition: one.letter for one in reversed(batch)}
    last = {one.letter.partition: one.letter for one in batch}
    return first, last


def _check_no_gap(known: Mapping[Partition, int], first: Mapping[Partition, Letter]) -> None:
    """Raise `Superseded` if records between the position and the batch would be passed over: a partition was lost and
    given back while the batch waited, and its position is not where it was."""
    for partition, letter in first.items():
        if letter.offset > known[partition]:
            raise Superseded(f"{partition}: the batch begins at {letter.offset}, the position is {known[partition]}")
