"""A consumer's side of Kafka: its membership in the group, what it may take in, and what it has committed.

Offsets are checked one by one: a log that goes on elsewhere than it should is a loss to be named, not to be skipped.
Rebalance callbacks run inside `next_batch` and `wait`, never while a batch is being settled.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from loguru import logger

from common.config import Process
from common.consume.parking import Letter, Opened, opened
from common.consume.positions import Start
from common.errors import LOSS_HELP, Fatal, LossDetected
from common.events import Milliseconds
from common.kafka.broker import Partition
from common.kafka.clients import consumer_config

BATCH_RECORDS_MAX: Final = 2_000
BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
POLL_S: Final = 0.25
HELD_POLL_S: Final = 0.01
"""While something is held back: how soon it is looked at again although nothing else has come."""
COMMIT_EVERY_S: Final = 0.25
STAY_EVERY_S: Final = 10.0

# A batch costs nearly the same whatever its size. So a consumer rests half as long as its last batch took before it
# takes the next: when it is quiet a batch takes some milliseconds and nobody waits; the more there is to do, and the
# slower the machine, the larger batches become.
SPACING_OF_BUSY: Final = 1.5
SPACING_MAX_S: Final = 0.1
FRESH_S: Final = 0.01
"""For one more fetch by the client, which takes it some milliseconds."""

_LOG_BROKEN: Final = frozenset(
    {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
)
"""What the client says, under `auto.offset.reset=error`, when the log is no longer where it reads."""


def spacing_s(busy_s: float) -> float:
    """Seconds from the start of one batch to the start of the next, at the least, given how long the former took."""
    return min(SPACING_MAX_S, SPACING_OF_BUSY * busy_s)


def _letter(message: Message, partition: Partition, offset: int) -> Letter:
    kind, at = message.timestamp()
    if kind != TIMESTAMP_LOG_APPEND_TIME:
        raise Fatal(
            f"{partition.topic}: message.timestamp.type must be LogAppendTime: deadlines and the order of events are "
            "judged by the broker's clock, not by a client's"
        )
    headers: Any = message.headers() or ()  # as pairs, which is how librdkafka gives them
    return Letter(partition, offset, Milliseconds(at), message.key(), message.value() or b"", headers)


class _Reading:
    """Where this instance stands in a partition that it reads: `expected` is the offset that comes next."""

    __slots__ = ("expected", "partition")

    def __init__(self, partition: Partition, expected: int) -> None:
        self.partition = partition
        self.expected = expected


class Arrivals(Protocol):
    """What has arrived, until it is due. Of each partition a beginning is due, in order."""

    @property
    def held(self) -> int:
        """How many records are kept back."""
        ...

    def add(self, one: Opened) -> None: ...

    def due(self, at_s: float) -> list[Opened]:
        """Give out what is to be settled now, given the monotonic time."""
        ...

    def drop(self, gone: Collection[Partition]) -> None:
        """Forget what is held of these partitions."""
        ...


class InOrderOfArrival:
    """Nothing is held back."""

    held = 0

    def __init__(self) -> None:
        self._arrived: list[Opened] = []

    def add(self, one: Opened) -> None:
        self._arrived.append(one)

    def due(self, _: float) -> list[Opened]:
        arrived, self._arrived = self._arrived, []
        return arrived

    def drop(self, gone: Collection[Partition]) -> None:
        self._arrived = [one for one in self._arrived if one.letter.partition not in gone]


class Inbox:
    """One membership in a consumer group. Belongs to one thread; any error it raises ends it, and a new one is made.

    `find_starts` is asked where to begin in partitions just assigned, and, before it joins, whether one could begin in
    `everything` there is; `say` is told why nothing is taken in; `arrivals` says what of the arrived is due.
    """

    def __init__(
        self,
        process: Process,
        group: str,
        topics: Sequence[str],
        stopping: threading.Event,
        find_starts: Callable[[Consumer, Sequence[Partition]], list[Start]],
        everything: Sequence[Partition],
        say: Callable[[str], None],
        arrivals: Arrivals,
    ) -> None:
        self.positions: dict[Partition, int] = {}
        """Of each partition assigned: the stored position as this instance knows it."""
        self._topics = topics
        self._stopping = stopping
        self._find_starts = find_starts
        self._say = say
        self._log = logger.bind(group=group)
        self._reading: dict[tuple[str | None, int | None], _Reading] = {}
        """By topic and number: a `Partition` made for every record would cost as much as decoding it."""
        self._uncommitted: dict[Partition, int] = {}
        self._arrivals = arrivals
        self._due: list[Opened] = []
        self._broker_away = False
        self._begun_at = 0.0
        self._busy_s = 0.0
        self._settling = False
        self._full = False
        self._committed_at = 0.0
        self._committing: dict[Partition, int] = {}
        self._polled_at = time.monotonic()
        self._failure: Exception | None = None
        """What a callback has raised within a poll."""
        self._consumer = Consumer(
            {
                **consumer_config(process.bootstrap_servers, process.instance, group),
                "error_cb": self._client_error,
                "on_commit": self._committed,
            }
        )
        try:
            # Before joining, so that instances that cannot go on do not hand the partitions round among themselves.
            find_starts(self._consumer, everything)
        except BaseException:
            self._consumer.close()
            raise
        self._consumer.subscribe(
            list(topics),
            on_assign=self._kept(self._assigned),
            on_revoke=self._kept(self._revoked),
            on_lost=self._kept(self._lost),
        )
        say("joining the group")

    def next_batch(self) -> list[Opened]:
        """The records to settle next, possibly none. Raises `LossDetected` for a gap, `KafkaException`."""
        if self._settling:
            self._settling = False
            self._busy_s = time.monotonic() - self._begun_at
        if len(self._due) < BATCH_RECORDS_MAX:
            self._fill()
        self._due += self._arrivals.due(time.monotonic())
        count = size = 0
        for one in self._due:
            if count >= BATCH_RECORDS_MAX or size >= BATCH_BYTES_MAX:
                break
            size += len(one.letter.value)
            count += 1
        batch, self._due = self._due[:count], self._due[count:]
        self._full = count >= BATCH_RECORDS_MAX or size >= BATCH_BYTES_MAX
        if batch:
            self._settling = True
            self._begun_at = time.monotonic()
        return batch

    def wait(self, delay_s: float) -> None:
        """Wait, but go on polling, so that the group does not take this instance for dead."""
        self._consumer.pause([TopicPartition(*p) for p in self.positions])
        until = time.monotonic() + delay_s
        while not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
            self._take(self._poll(BATCH_RECORDS_MAX, min(left, POLL_S)))
        self._consumer.resume([TopicPartition(*p) for p in self.positions])

    def stay(self) -> None:
        """Poll if that is due: within what takes many attempts, such as a search for poison. Partitions may go."""
        if time.monotonic() - self._polled_at > STAY_EVERY_S:
            self.wait(POLL_S)

    def done(self, offsets: Mapping[Partition, int]) -> None:
        """Take note of the next offsets of what is stored and published; commit them to Kafka now and then.

        The positions make each record count once. A commit only spares a successor repeats, so one every
        `COMMIT_EVERY_S` is enough, and it is the broker's dearest request.
        """
        self._uncommitted.update(offsets)
        if time.monotonic() - self._committed_at >= COMMIT_EVERY_S:
            self._commit(asynchronous=True)

    def _commit(self, *, asynchronous: bool) -> None:
        """A refusal is not an error: it will be committed later, here or by the partition's next owner, for whom these
        records are repeats. Waiting for an answer takes 45 s when there is nobody to give it."""
        if not self._uncommitted or self._broker_away:
            return
        self._committed_at = time.monotonic()
        self._committing = self._uncommitted
        wanted = [TopicPartition(*partition, offset) for partition, offset in self._uncommitted.items()]
        self._uncommitted = {}
        try:
            if asynchronous:
                self._consumer.commit(offsets=wanted, asynchronous=True)
            else:
                self._consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:
            self._committed(error.args[0], wanted)

    def _committed(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        """What became of a commit. One that was refused is tried again, unless the partition is gone or further."""
        if error is None:
            return
        owned = {partition: offset for partition, offset in self._committing.items() if partition in self.positions}
        self._uncommitted = {**owned, **self._uncommitted}
        self._log.warning("offsets not committed, will be retried: {}", error.str())

    def lag(self) -> dict[str, int]:
        """By topic: how many records are known to be in the log and not stored yet, in the partitions assigned."""
        lag = dict.fromkeys(self._topics, 0)
        for partition, position in self.positions.items():
            _, end = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            lag[partition.topic] += max(0, end - position)
        return lag

    def close(self) -> None:
        """Commit what is done, if the group still takes it, and leave."""
        self._commit(asynchronous=False)
        self._consumer.close()

    def _fill(self) -> None:
        first = self._poll(1, 0 if self._due else HELD_POLL_S if self._arrivals.held else POLL_S)
        if not first:
            if not self._due and not self._arrivals.held:
                self._commit(asynchronous=True)
                if self._broker_away:
                    self._look_for_the_broker()
            return
        self._take(first)
        if self._broker_away:  # the client may say so when the broker is long back
            self._broker_answers()
        # The time that the last batch took counts: what arrived meanwhile has waited already. After a full one no
        # waiting makes the next any larger.
        wait = 0.0 if self._full else self._begun_at + spacing_s(self._busy_s) - time.monotonic()
        if wait > 0:
            self._stopping.wait(wait)
            # With `queued.min.messages` 1 the client has fetched once, when the wait began, and does so again when
            # its queue is empty: what came meanwhile.
            self._take(self._poll(BATCH_RECORDS_MAX - 1, 0))
            self._take(self._poll(1, FRESH_S))
        self._take(self._poll(BATCH_RECORDS_MAX - 1, 0))

    def _poll(self, records: int, timeout_s: float) -> list[Message]:
        self._polled_at = time.monotonic()
        messages = self._consumer.consume(records, timeout_s)
        if self._failure is not None:
            raise self._failure
        return messages

    def _kept(self, reaction: Callable[[Consumer, list[TopicPartition]], None]) -> Callable[..., None]:
        """A callback whose failure is raised by the poll, past the client: that raises a bare `KafkaError`, which no
        `except` catches since it is no exception, where C code had raised `KafkaException` (confluent-kafka 2.16)."""

        def kept(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            try:
                reaction(consumer, partitions)
            except Exception as error:
                self._failure = self._failure or error

        return kept

    def _take(self, messages: Iterable[Message]) -> None:
        add, arrived_s = self._arrivals.add, time.monotonic()
        for message in messages:
            error = message.error()
            reading = self._reading.get((message.topic(), message.partition()))
            if error is not None and error.code() not in _LOG_BROKEN:
                raise KafkaException(error)
            if reading is None:
                continue  # a poll may still return records of a partition that has just been revoked
            partition, expected = reading.partition, reading.expected
            if error is not None:
                raise LossDetected(
                    f"{partition}: the log does not go on at offset {expected}, it was deleted or truncated "
                    f"({error.str()}); {LOSS_HELP}"
                )
            offset = message.offset() or 0
            # What is missing below the position was decided once, or given up by an operator who moved it.
            if offset != expected and not expected <= offset <= max(expected, self.positions[partition]):
                raise LossDetected(
                    f"{partition}: the log goes on at offset {offset} where {expected} was to come: records "
                    f"are missing; {LOSS_HELP}"
                )
            reading.expected = offset + 1
            add(opened(_letter(message, partition, offset), arrived_s))

    def _assigned(self, consumer: Consumer, added: list[TopicPartition]) -> None:
        if added:
            starts = self._find_starts(consumer, [Partition(tp.topic, tp.partition) for tp in added])
            for start in starts:
                partition = Partition(start.topic, start.partition)
                self.positions[partition] = start.position
                self._reading[partition] = _Reading(partition, start.offset)
            assigned = [TopicPartition(s.topic, s.partition, s.offset) for s in starts]
            consumer.incremental_assign(assigned)
            # librdkafka keeps a pause over losing a partition and getting it back: it would never be read again.
            consumer.resume(assigned)
            self._log.info("assigned", partitions=[f"{s.topic}/{s.partition}@{s.offset}" for s in starts])
        self._say("")

    def _revoked(self, consumer: Consumer, gone: list[TopicPartition]) -> None:
        self._commit(asynchronous=False)
        self._lost(consumer, gone)

    def _lost(self, _: Consumer, gone: list[TopicPartition]) -> None:
        lost = {Partition(tp.topic, tp.partition) for tp in gone}
        for partition in lost:
            self.positions.pop(partition, None)
            self._uncommitted.pop(partition, None)
            self._reading.pop(partition, None)
        self._arrivals.drop(lost)
        self._due = [one for one in self._due if one.letter.partition not in lost]
        self._log.info("revoked", partitions=[f"{tp.topic}/{tp.partition}" for tp in gone])

    def _client_error(self, error: KafkaError) -> None:
        """While the broker is away the client says so many times a second; it is said once."""
        if not self._broker_away:
            self._log.warning("Kafka client: {}", error.str())
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._broker_away = True
            self._say(f"Kafka cannot be reached: {error.str()}")

    def _look_for_the_broker(self) -> None:
        try:
            self._consumer.list_topics(self._topics[0], timeout=POLL_S)
        except KafkaException:
            return
        self._broker_answers()

    def _broker_answers(self) -> None:
        self._broker_away = False
        self._log.info("Kafka answers again")
        self._say("")
