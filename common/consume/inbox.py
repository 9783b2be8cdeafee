"""A consumer's side of Kafka: its membership in the group, the records it receives, the offsets it commits.

Offsets are checked one by one: a gap in the log is reported as a loss, not skipped. Rebalance callbacks run inside
`next_batch` and `wait`, never while a batch is being processed.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from loguru import logger

from common import metrics
from common.config.process import Process
from common.consume.commits import Commits
from common.consume.handler import HELD_RECORDS_MAX, Arrivals
from common.consume.positions import Start
from common.consume.reading import Reading, WithoutRecord
from common.consume.records import Arrival, arrival_of
from common.consume.timetable import Timetable
from common.errors import LossDetected
from common.kafka.broker import Partition, query
from common.kafka.clients import FETCH_QUEUE_BACKOFF_MS, consumer_config
from common.kafka.identity import Consumer, note_refusal

BATCH_RECORDS_MAX: Final = 2_000
BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
POLL_S: Final = 0.25
HELD_POLL_S: Final = 0.01
"""While records are held back, they are checked again after this time even if no other record has arrived."""
POLL_AT_LEAST_EVERY_S: Final = 10.0
HOLES_EVERY_S: Final = 2.0
"""While no record comes: how often the ends of partitions are checked for offsets without a record."""

FETCH_S: Final = FETCH_QUEUE_BACKOFF_MS / 1000 + 0.002
"""Time for one more fetch by the client, which first has to see that its queue is empty."""
ARRIVE_S: Final = 0.001
"""Time for the partitions of a fetch to arrive one after the other."""

_LOG_BROKEN: Final = frozenset(
    {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
)
"""The client's errors, under `auto.offset.reset=error`, when the log no longer has the offset to read."""


class Inbox:
    """One membership in a consumer group. Belongs to one thread; after an error a new one is made.

    `find_starts` returns where to begin in partitions just assigned. It is also called with `everything`, all
    partitions, before joining. `report` is called with the reason why no records come, or "". `arrivals` decides
    which records are due, and `timetable` when a batch begins.
    """

    def __init__(
        self,
        process: Process,
        group: str,
        topics: Sequence[str],
        stopping: threading.Event,
        find_starts: Callable[[Consumer, Sequence[Partition]], list[Start]],
        everything: Sequence[Partition],
        report: Callable[[str], None],
        arrivals: Arrivals,
        timetable: Timetable,
        without_record: WithoutRecord,
    ) -> None:
        self.positions: dict[Partition, int] = {}
        """The stored position of each assigned partition, as this instance knows it."""
        self._topics = topics
        self._stopping = stopping
        self._find_starts = find_starts
        self._report = report
        self._log = logger.bind(group=group)
        self._commits = Commits(group)
        self._reading: dict[tuple[str | None, int | None], Reading] = {}
        """By topic and number: a `Partition` made for every record would cost as much as decoding it."""
        self._without_record = without_record
        self._holes_at = 0.0
        self._arrivals = arrivals
        metrics.watch_pool("held-records", HELD_RECORDS_MAX, lambda: arrivals.held)
        self._paused: set[Partition] = set()
        self._due: list[Arrival] = []
        self._broker_away = False
        self._timetable = timetable
        self._next_slot_at = 0.0
        self._full = False
        self._polled_at = time.monotonic()
        self._failure: Exception | None = None
        """Raised by a callback during a poll."""
        self._consumer = Consumer(
            {
                **consumer_config(process.brokers, process.instance, group),
                "error_cb": self._client_error,
                "on_commit": self._commits.on_answer,
            }
        )
        try:
            # Before joining, so that the partitions do not move from one instance that cannot start to the next.
            find_starts(self._consumer, everything)
        except BaseException:
            self._consumer.close()
            raise
        self._consumer.subscribe(
            list(topics),
            on_assign=self._deferring_errors(self._assigned),
            on_revoke=self._deferring_errors(self._revoked),
            on_lost=self._deferring_errors(self._lost),
        )
        report("joining the group")

    def next_batch(self) -> list[Arrival]:
        """The records to process next, possibly none. Raises `LossDetected` for a gap, `KafkaException`.

        The batch before has been processed by now.
        """
        self._timetable.ended(time.monotonic())
        if self._arrivals.held > HELD_RECORDS_MAX:
            self.wait(POLL_S)
        elif len(self._due) < BATCH_RECORDS_MAX:
            self._fill()
        self._due += self._arrivals.due(time.monotonic())
        self._pause_those_ahead()
        count = size = 0
        for due in self._due:
            if count >= BATCH_RECORDS_MAX or size >= BATCH_BYTES_MAX:
                break
            size += len(due.record.value)
            count += 1
        batch, self._due = self._due[:count], self._due[count:]
        self._full = count >= BATCH_RECORDS_MAX or size >= BATCH_BYTES_MAX
        if batch:
            began_at = time.monotonic()
            self._timetable.began(began_at)
            self._next_slot_at = began_at + self._timetable.until_next_slot_s(time.time())
        return batch

    def wait(self, delay_s: float) -> None:
        """Wait and keep polling, so that the group does not take this instance for dead."""
        self._consumer.pause([TopicPartition(*p) for p in self.positions])
        until = time.monotonic() + delay_s
        while not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
            self._receive(self._poll(BATCH_RECORDS_MAX, min(left, POLL_S)))
        self._consumer.resume([TopicPartition(*p) for p in self.positions if p not in self._paused])

    def poll_when_due(self) -> None:
        """Poll, if the last poll was long ago: for work of many steps, such as a bisection. Partitions may be lost."""
        if time.monotonic() - self._polled_at > POLL_AT_LEAST_EVERY_S:
            self.wait(POLL_S)

    def owned(self, batch: Sequence[Arrival]) -> list[Arrival]:
        """The records of a batch whose partitions are still assigned."""
        return [arrival for arrival in batch if arrival.record.partition in self.positions]

    def commit_soon(self, offsets: Mapping[Partition, int]) -> None:
        """Commit these next offsets to Kafka, at most every `COMMIT_EVERY_S`. Their results are stored and
        published."""
        self._commits.add(offsets)
        if self._commits.is_due:
            self._commit()

    def keep(self, positions: Mapping[Partition, int]) -> None:
        """Commit these positions, which the database has lost, when the group is left: committed offsets ahead of the
        database are what shows the loss from then on."""
        self._commits.add(positions)

    def _commit(self) -> None:
        if not self._broker_away:
            self._commits.send(self._consumer)

    def lag(self) -> dict[str, int]:
        """By topic: how many records of the assigned partitions are in the log and not stored yet."""
        lag = dict.fromkeys(self._topics, 0)
        for partition, position in self.positions.items():
            _, end = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            lag[partition.topic] += max(0, end - position)
        return lag

    def close(self) -> None:
        """Commit the last offsets, if the group still takes them, and leave."""
        self._report("leaving the group")
        self._commit()
        self._consumer.close()

    def _fill(self) -> None:
        first = self._poll(1, 0 if self._due else HELD_POLL_S if self._arrivals.held else POLL_S)
        if not first:
            if not self._due and not self._arrivals.held:
                self._commit()
                if self._broker_away:
                    self._probe_broker()
                else:
                    self._pass_holes_at_the_ends()
            return
        self._receive(first)
        if self._broker_away:  # the client may report it when the broker has long been back
            self._report_broker_back()
        # After a full batch there is no wait: it would not make the next one larger.
        wait = 0.0 if self._full else self._next_slot_at - time.monotonic()
        if wait > 0:
            self._stopping.wait(wait)
            # With `queued.min.messages` 1 the client has fetched once, when the wait began. It fetches what came since
            # when its queue is empty.
            self._receive(self._poll(BATCH_RECORDS_MAX - 1, 0))
            self._receive(self._poll(1, FETCH_S))
            self._receive(self._poll(BATCH_RECORDS_MAX - 1, ARRIVE_S))
        else:
            self._receive(self._poll(BATCH_RECORDS_MAX - 1, 0))

    def _pause_those_ahead(self) -> None:
        ahead = self._arrivals.ahead & self.positions.keys()
        if pause := ahead - self._paused:
            self._consumer.pause([TopicPartition(*p) for p in pause])
        if resume := self._paused - ahead:
            self._consumer.resume([TopicPartition(*p) for p in resume])
        self._paused = ahead

    def _poll(self, records: int, timeout_s: float) -> list[Message]:
        self._polled_at = time.monotonic()
        messages = self._consumer.consume(records, timeout_s)
        if self._failure is not None:
            raise self._failure
        return messages

    def _deferring_errors(self, callback: Callable[[Consumer, list[TopicPartition]], None]) -> Callable[..., None]:
        """A callback whose error is raised by the poll that called it.

        Through the client it would come as a bare `KafkaError`, which is no exception, so that no `except` catches it
        (confluent-kafka 2.16).
        """

        def deferring(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            try:
                callback(consumer, partitions)
            except Exception as error:
                self._failure = self._failure or error

        return deferring

    def _receive(self, messages: Iterable[Message]) -> None:
        add, arrived_s = self._arrivals.add, time.monotonic()
        for message in messages:
            error = message.error()
            reading = self._reading.get((message.topic(), message.partition()))
            if error is not None and error.code() not in _LOG_BROKEN:
                with query(f"topic {message.topic()!r} cannot be read"):
                    raise KafkaException(error)
            if reading is None:
                continue  # a poll may still return records of a partition that has just been revoked
            partition, expected = reading.partition, reading.expected
            if error is not None:
                raise LossDetected(
                    f"{partition}: the log does not continue at offset {expected}: it was deleted or truncated "
                    f"({error.str()})"
                )
            offset = message.offset() or 0
            # Records missing below the position were decided once, or abandoned by an operator who moved it.
            if offset != expected and not expected <= offset <= max(expected, self.positions[partition]):
                self._pass_holes(reading, offset, arrived_s)
            reading.expected = offset + 1
            if reading.skipped:
                add(reading.arrival_of(message, offset, arrived_s))
            else:
                add(arrival_of(message, partition, offset, arrived_s))

    def _pass_holes(self, reading: Reading, end: int, arrived_s: float) -> None:
        position = self.positions[reading.partition]
        for hole in reading.holes_before(end, position, self._without_record, arrived_s):
            self._arrivals.add(hole)

    def _pass_holes_at_the_ends(self) -> None:
        """A partition may end in markers of a transaction, after which no record comes for a long time."""
        if time.monotonic() - self._holes_at < HOLES_EVERY_S:
            return
        self._holes_at = time.monotonic()
        for reading in self._reading.values():
            _, end = self._consumer.get_watermark_offsets(TopicPartition(*reading.partition), cached=True)
            if reading.expected < end:
                empty = self._without_record(reading.partition, reading.expected, end)
                if len(empty) == end - reading.expected:  # otherwise records are about to come
                    self._pass_holes(reading, end, time.monotonic())

    def _assigned(self, consumer: Consumer, added: list[TopicPartition]) -> None:
        if added:
            starts = self._find_starts(consumer, [Partition(tp.topic, tp.partition) for tp in added])
            for start in starts:
                partition = Partition(start.topic, start.partition)
                self.positions[partition] = start.position
                self._reading[partition] = Reading(partition, start.offset, start.skipped)
            assigned = [TopicPartition(s.topic, s.partition, s.offset) for s in starts]
            consumer.incremental_assign(assigned)
            # librdkafka keeps a partition paused that was lost and is assigned again: it would never be read.
            consumer.resume(assigned)
            self._log.info("assigned", partitions=[f"{s.topic}/{s.partition}@{s.offset}" for s in starts])
        self._report("")

    def _revoked(self, consumer: Consumer, gone: list[TopicPartition]) -> None:
        self._commit()
        self._lost(consumer, gone)

    def _lost(self, _: Consumer, gone: list[TopicPartition]) -> None:
        lost = {Partition(tp.topic, tp.partition) for tp in gone}
        for partition in lost:
            self.positions.pop(partition, None)
            self._reading.pop(partition, None)
        self._paused -= lost
        self._commits.forget(lost)
        self._arrivals.drop(lost)
        self._due = self.owned(self._due)
        self._log.info("revoked", partitions=[f"{tp.topic}/{tp.partition}" for tp in gone])

    def _client_error(self, error: KafkaError) -> None:
        """While the broker is away the client reports it many times a second. Log it once."""
        note_refusal(error)
        if not self._broker_away:
            self._log.warning("Kafka client: {}", error.str())
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._broker_away = True
            self._report(f"Kafka cannot be reached: {error.str()}")

    def _probe_broker(self) -> None:
        try:
            self._consumer.list_topics(self._topics[0], timeout=POLL_S)
        except KafkaException:
            return
        self._report_broker_back()

    def _report_broker_back(self) -> None:
        self._broker_away = False
        self._log.info("Kafka answers again")
        self._report("")
