"""The log as the tools read it: its topics and bounds, what the groups have committed, and its records.

Records are read by assignment, without a group, so that no consumer notices.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from common.codec import decoded, decoder_for
from common.config.kafka import Brokers
from common.errors import Fatal, Transient
from common.events import OUTCOMES, READS
from common.kafka.broker import Partition, Topic, all_partitions, committed_offsets, describe, log_bounds
from common.kafka.clients import client_config, reader_config
from common.kafka.identity import AdminClient, Consumer
from common.kafka.settings import Drift, fetch_drift
from ops.groups import Member, members

ANSWER_S: Final = 10.0
COORDINATOR_S: Final = 15.0
"""A coordinator that is loading needs some time to answer."""
SILENCE_S: Final = 20.0
FETCH_RECORDS: Final = 2_000
FETCH_BYTES: Final = 4 * 1024 * 1024
BUFFER_KIB: Final = 16 * 1024


class Log:
    """The broker as an operator's client asks it. Every method raises `Transient` or `KafkaException` when the broker
    does not answer or lacks a topic."""

    def __init__(self, brokers: Brokers, tool: str) -> None:
        self.brokers = brokers
        self._tool = tool
        self.admin = AdminClient(client_config(brokers, tool))

    def wait(self, within_s: float = ANSWER_S) -> None:
        """Wait for the broker to answer. Raises `Fatal`."""
        try:
            self.admin.list_topics(timeout=within_s)
        except KafkaException as error:
            raise Fatal(f"Kafka does not answer at {self.brokers}; is it up? 'just start kafka'") from error

    def topics(self, names: Sequence[str]) -> dict[str, Topic]:
        return describe(self.admin, names)

    def bounds(self, names: Sequence[str]) -> dict[Partition, tuple[int, int]]:
        """The first offset, and the one after the last, of every partition of these topics."""
        return log_bounds(self.admin, all_partitions(self.topics(names).values()))

    def drift(self, names: Sequence[str]) -> list[Drift]:
        """The settings of these topics that are not as they must be."""
        return fetch_drift(self.admin, names)

    def members(self) -> dict[str, list[Member]]:
        """Who is in each of our groups."""
        return members(self.brokers, self.admin.list_topics(timeout=ANSWER_S).brokers.values(), READS)

    def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """What a group has committed in those of these partitions that it may read. Read by a consumer that joins no
        group."""
        read = [p for p in partitions if group not in READS or p.topic in (*READS[group], OUTCOMES)]
        consumer = Consumer({**client_config(self.brokers, self._tool), "group.id": group, "enable.auto.commit": False})
        try:
            return committed_offsets(consumer, read, COORDINATOR_S)
        finally:
            consumer.close()

    def read(self, bounds: Mapping[Partition, tuple[int, int]]) -> Iterator[Message]:
        """The records between these bounds, one partition after the other."""
        consumer = self.consumer()
        try:
            for partition, (first, end) in bounds.items():
                tail = Tail(consumer, partition, first, end)
                while tail.is_open:
                    yield from tail.fetch()
        finally:
            consumer.close()

    def offsets_at(self, bounds: Mapping[Partition, tuple[int, int]], at_ms: int) -> dict[Partition, int]:
        """The first offset of each partition whose record is not before this time; its end when there is none."""
        consumer = self.consumer()
        try:
            wanted = [TopicPartition(*partition, max(0, at_ms)) for partition in bounds]
            offsets = {Partition(w.topic, w.partition): w.offset for w in consumer.offsets_for_times(wanted, ANSWER_S)}
        finally:
            consumer.close()
        return {p: end if offsets[p] < 0 else min(max(offsets[p], first), end) for p, (first, end) in bounds.items()}

    def events(self, bounds: Mapping[Partition, tuple[int, int]]) -> Iterator[Any]:
        """The events between these bounds. A record that is no event of its topic is left out."""
        for message in self.read(bounds):
            event = decoded(decoder_for[str(message.topic())].decode, message.value())
            if event is not None:
                yield event

    def consumer(self) -> Consumer:
        """A client for a `Tail`."""
        return Consumer(
            {
                **reader_config(self.brokers, self._tool),
                "auto.offset.reset": "error",
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": FETCH_BYTES,
                "queued.max.messages.kbytes": BUFFER_KIB,
            }
        )


class Tail:
    """What is still to be read of a partition: from `offset` up to but not including `end`."""

    def __init__(self, consumer: Consumer, partition: Partition, offset: int, end: int) -> None:
        self.partition = partition
        self.offset = offset
        self.end = end
        self.is_open = offset < end
        self._consumer = consumer
        if self.is_open:
            consumer.assign([TopicPartition(*partition, offset)])

    def fetch(self) -> Iterator[Message]:
        """The next records, in order. Raises `Transient` when none comes for `SILENCE_S`, and `KafkaException`."""
        silent_since = time.monotonic()
        while not (messages := self._consumer.consume(FETCH_RECORDS, 0.2)):
            if time.monotonic() - silent_since > SILENCE_S:
                raise Transient(
                    f"the log could not be read for {SILENCE_S:.0f} s: {self.partition} from offset {self.offset}"
                )
        number, end, offset = self.partition.number, self.end, self.offset
        for message in messages:
            if message.partition() != number:
                continue  # of the partition that the client was assigned before
            offset = message.offset() or 0
            error = message.error()
            if error is None and offset < end:
                yield message
                offset += 1
            elif error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
        self.offset = offset
        if offset >= end:
            self.is_open = False
            self._consumer.unassign()
