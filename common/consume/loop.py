"""The commit-after-batch loop: how every consumer processes each event once, whatever crashes when.

A batch is one database transaction: lock the positions of its partitions, lock the business rows, read what is
decided, decide, store, advance the positions, commit. Then its results are published and acknowledged. Only then are
the offsets committed to Kafka. A crash at any point repeats the batch: records below the stored position are not
decided again, but their stored decisions are published again. So the position makes each record count once, and safety
never depends on the group protocol or on a rebalance callback.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Generic

from confluent_kafka import Consumer
from loguru import logger

from common import log, metrics, postgres
from common.backoff import delays_s
from common.codec import encode
from common.config.process import Process
from common.consume import limits, parking, positions, published
from common.consume.connection import SessionConnection
from common.consume.handler import Decided, Handler, Locked, decide
from common.consume.inbox import Inbox
from common.consume.parking import Breaker, Sorted
from common.consume.positions import Start, WentBack
from common.consume.records import Arrival, Record, ranges
from common.consume.redrive import Redriver, marked
from common.consume.tally import Stopwatch, Tally
from common.consume.timetable import Timetable
from common.errors import Failure, Stopped, Superseded, classify, describe
from common.events import TOPICS_OF
from common.kafka import broker
from common.kafka.broker import Partition, Topic, TopicWatch
from common.kafka.clients import client_config
from common.kafka.holes import offsets_without_record
from common.kafka.identity import AdminClient
from common.kafka.produce.batch import Outgoing
from common.kafka.publisher import Publisher
from common.kafka.settings import SettingsWatch
from common.pipeline import pipeline, queue_commit
from common.postgres import transaction_of_pipeline
from common.tracing.live import Tracer
from common.vacuum import VacuumWatch
from common.worker import Worker

LAG_EVERY_S: Final = 1.0
OPERATOR_EVERY_S: Final = 1.0
STOPPED_POLL_S: Final = 1.0
SMALL_BATCH_RECORDS: Final = 150
"""The rows of batches up to this size go along with the other statements, those of larger ones are copied. See
`common.pipeline.Table`."""


class Session(Generic[Locked]):
    """One membership in the group, from joining to leaving. Only a transient failure of a batch does not end it."""

    def __init__(self, process: Process, handler: Handler[Locked], worker: Worker, tracer: Tracer | None) -> None:
        """`worker` runs it, and is told how it stands."""
        self._process = process
        self._handler = handler
        self._reads = handler.reads
        self._worker = worker
        self._stopping = worker.stopping
        self._report = worker.report
        self._tracer = tracer
        self._log = logger.bind(group=handler.group)
        self._breaker = Breaker()
        self._tally = Tally(handler.group)
        self._redriver = Redriver(handler, self._publish)
        self._vacuum_watch = VacuumWatch(handler.group)
        self._operator_at_s = time.monotonic()
        self._operator_failed = False
        self._lag_at_s = 0.0
        self._settings: SettingsWatch | None = None

    def degraded(self) -> list[str]:
        """Settings of its topics that are not as they must be: it works, but not for long."""
        return [str(drift) for drift in self._settings.drift] if self._settings else []

    def run(self) -> None:
        """Consume until stopped. Raises whatever ends the session."""
        process = self._process
        self._report(f"connecting to PostgreSQL, and to Kafka at {process.brokers}")
        self._database = SessionConnection(process, self._handler.group)
        self._publisher = Publisher(process.brokers, process.instance)
        try:
            self._admin = self._new_client()
            topics = self._describe()
            self._topic_ids = {topic.name: topic.topic_id for topic in topics.values()}
            self._topic_watch = TopicWatch(self._admin, topics)
            if self._database.is_promoted:
                published.check(process.brokers, self._admin, self._database.current, self._handler)
            self._settings = SettingsWatch(self._admin, topics)
            self._inbox = Inbox(
                process,
                self._handler.group,
                self._reads,
                self._stopping,
                self._find_starts,
                broker.all_partitions(topics[name] for name in self._reads),
                self._report,
                self._handler.arrivals(),
                Timetable(self._handler.phase),
                partial(offsets_without_record, process.brokers, self._admin),
            )
            try:
                self._check_limits(topics)
                while not self._stopping.is_set():
                    if batch := self._inbox.next_batch():
                        self._process_with_retries(batch)
                    self._attend_when_due()
                    self._report_lag_when_due()
                    self._tally.report_when_due(time.monotonic())
            except WentBack as loss:
                self._inbox.keep(loss.positions)
                raise
            finally:
                self._tally.report()
                self._inbox.close()
        finally:
            self._database.close()
            self._publisher.close()

    def _describe(self) -> dict[str, Topic]:
        """The topics read and published to, as they are now."""
        topics = broker.describe(self._admin, {*self._reads, *self._handler.publishes})
        broker.check_partition_counts(topics)
        return topics

    def _find_starts(self, consumer: Consumer, partitions: Sequence[Partition]) -> list[Start]:
        """Where to begin. The topics are described anew: the assigned ones may have replaced those known so far."""
        topics = self._describe()
        read = {name: topics[name] for name in self._reads}
        copies = max(topic.replicas for topic in read.values())
        return positions.confirmed(
            lambda client: positions.starts(self._database.current, client, consumer, read, partitions),
            self._admin,
            self._new_client,
            copies,
        )

    def _new_client(self) -> AdminClient:
        return AdminClient(client_config(self._process.brokers, self._process.instance))

    def _check_limits(self, topics: Mapping[str, Topic]) -> None:
        limits.check_partitions(self._process.partitions, {t.name: t.partitions for t in topics.values()})
        limits.check_message_size(broker.message_bytes_max(self._admin, self._reads))
        connections = postgres.connections(self._database.current)
        if warning := limits.check_connections(needed=postgres.CONNECTIONS_PER_PROCESS, **connections):
            self._log.warning(warning)

    # A batch

    def _process_with_retries(self, batch: list[Arrival]) -> None:
        """Process a batch, however often it fails with a transient error."""
        for delay in delays_s():
            try:
                self._process_batch(batch)
            except Exception as error:
                if classify(error) is Failure.FATAL:
                    self._log.error("this batch ends the consumer", records=ranges(batch))
                self._check_retryable(error)
                self._report_retry(error)
                self._database.recover(error, self._inbox.positions)
                self._check_topics()
                self._inbox.wait(STOPPED_POLL_S if isinstance(error, Stopped) else delay)
                self._report_lag_when_due()
                batch = self._inbox.owned(batch)
            else:
                self._report("")
                return
            if not batch or self._stopping.is_set():
                return

    def _process_batch(self, batch: Sequence[Arrival]) -> None:
        """Store, publish, commit the offsets. The guarantees rest on the order of these steps."""
        clock = Stopwatch()
        first = {arrival.record.partition: arrival.record for arrival in reversed(batch)}
        last = {arrival.record.partition: arrival.record for arrival in batch}
        try:
            decided, outcome = self._store(batch, first, last)
        except Exception as error:
            if classify(error) is not Failure.POISON:
                raise
            self._bisect(batch, error)
            return
        clock.lap("store")
        published = self._publish(decided)
        clock.lap("publish")
        self._inbox.commit_soon({partition: record.offset + 1 for partition, record in last.items()})
        clock.lap("commit")
        self._tally.count(len(batch), outcome, published, clock.laps)
        if self._tracer is not None:
            self._tracer.processed(outcome.fresh + outcome.repeats, len(batch), clock.laps)
        if log.is_debug():
            self._tally.log_events(outcome.fresh)
        if self._breaker.count(len(batch), sum(parked.root for parked in outcome.parked)):
            self._stop_group()

    def _bisect(self, batch: Sequence[Arrival], poison: Exception) -> None:
        """Process the halves of a batch with poison in it separately, down to the one event, which is parked."""
        middle = len(batch) // 2
        if middle == 0:
            [suspect] = batch
            if suspect.received is None:
                raise poison
            self._process_batch([Arrival(suspect.record, None, describe(poison), suspect.arrived_s)])
            return
        self._process_batch(batch[:middle])
        self._inbox.poll_when_due()
        if rest := self._inbox.owned(batch[middle:]):
            self._process_batch(rest)

    def _store(
        self, batch: Sequence[Arrival], first: Mapping[Partition, Record], last: Mapping[Partition, Record]
    ) -> tuple[Decided, Sorted]:
        """Decide and store in one transaction. Raises `Superseded` when another instance has moved a position,
        `Stopped` when an operator has to resume this consumer."""
        connection, known = self._database.current, self._inbox.positions
        with transaction_of_pipeline(connection):
            with pipeline(connection) as statements:
                locked_positions = positions.lock(statements, last)
                queried_guards = parking.query_guards(statements)
                locked = self._handler.lock(statements, [a.received for a in batch if a.received is not None])
            positions.check_not_superseded(known, positions.fetch(locked_positions), last)
            positions.check_no_gap(known, first)
            guards = parking.fetch_guards(queried_guards)
            if guards.stopped is not None:
                raise Stopped(guards.stopped)
            outcome = parking.sort(batch, known, parking.blocked_customers(connection, guards, batch))
            decided = decide(self._handler, locked, outcome.fresh, outcome.repeats)
            moved = {partition: record for partition, record in last.items() if record.offset >= known[partition]}
            if moved:
                is_small = len(batch) <= SMALL_BATCH_RECORDS
                if not is_small:
                    decided.store(connection)
                if outcome.parked:
                    parking.park(connection, outcome.parked, self._topic_ids)
                with pipeline(connection) as statements:
                    if is_small:
                        decided.store(statements)
                    decided.update(statements)
                    positions.advance(statements, {p: (record.offset + 1, record.at) for p, record in moved.items()})
                    queue_commit(statements)
        known.update({partition: record.offset + 1 for partition, record in moved.items()})
        return decided, outcome

    def _publish(self, decided: Decided) -> int:
        results = decided.results()
        if self._tracer is not None:
            results = self._tracer.watched(results)
        outgoing = [
            Outgoing(topic, partition, key, value)
            for partition, event in results
            for key, value in [(event.partitionkey.encode(), encode(event))]
            for topic in TOPICS_OF[type(event)]
        ]
        self._publisher.publish(outgoing)
        if self._tracer is not None:
            self._tracer.published()
        return len(outgoing)

    def _stop_group(self) -> None:
        """Too many roots: every instance of the group waits until an operator resumes it."""
        why = f"over {parking.STOP_SHARE_MAX:.0%} of the last events could not be processed"
        parking.stop(self._database.current, why)
        self._breaker = Breaker()
        self._operator_at_s = 0.0

    # Once a second

    def _attend_when_due(self) -> None:
        """Check that the topics are still the same, and now and then the database; stop or redrive, if an operator has
        asked for it."""
        if time.monotonic() - self._operator_at_s < OPERATOR_EVERY_S:
            return
        self._operator_at_s = time.monotonic()
        self._check_topics()
        self._worker.report_no_loss()
        try:
            requested = self._wait_while_stopped()
            if self._operator_failed:
                self._operator_failed = False
                self._report("")
            self._vacuum_watch.check_when_due(self._database.current, self._operator_at_s)
            while requested.redrive and (rows := marked(self._database.current, self._inbox.positions)):
                self._redriver.redrive(self._database.current, self._inbox.positions, rows)
                self._inbox.poll_when_due()
        except Exception as error:
            self._check_retryable(error)
            self._operator_failed = True
            self._report_retry(error)
            self._database.recover(error, self._inbox.positions)

    def _check_topics(self) -> None:
        """Check, when it is due, that the topics are still the same, and their settings as they must be."""
        now_s = time.monotonic()
        self._topic_watch.check(now_s)
        if self._settings is not None:
            self._settings.check(now_s)

    def _wait_while_stopped(self) -> parking.Requested:
        waited = False
        while (requested := parking.requested(self._database.current)).stop and not self._stopping.is_set():
            waited = True
            self._report(str(Stopped(requested.stop)))
            self._inbox.wait(STOPPED_POLL_S)
            self._check_topics()
            self._report_lag_when_due()
        if waited:
            self._report("")
        return requested

    # After a failure

    def _check_retryable(self, error: Exception) -> None:
        """Raises the error unless the session can go on after it."""
        if classify(error) is not Failure.TRANSIENT or isinstance(error, Superseded):
            raise error

    def _report_retry(self, error: Exception) -> None:
        metrics.failures.labels(self._handler.group, Failure.TRANSIENT.value).inc()
        self._report(describe(error) if isinstance(error, Stopped) else f"retrying: {describe(error)}")
        self._log.warning("retrying: {}", describe(error))

    # Reports

    def _report_lag_when_due(self) -> None:
        if time.monotonic() - self._lag_at_s >= LAG_EVERY_S:
            self._lag_at_s = time.monotonic()
            for topic, behind in self._inbox.lag().items():
                metrics.lag.labels(self._handler.group, topic).set(behind)
