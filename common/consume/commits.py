"""The offsets that a consumer commits to Kafka, after their results are stored and published.

The positions make each record count once. A commit only spares a successor repeats, and it is the broker's most
expensive request.
"""

import time
from collections.abc import Collection, Mapping
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from loguru import logger

from common.kafka.broker import Partition
from common.kafka.identity import Consumer

COMMIT_EVERY_S: Final = 0.25


class Commits:
    """The next offsets of one consumer that Kafka does not have yet. Belongs to one thread."""

    def __init__(self, group: str) -> None:
        self._log = logger.bind(group=group)
        self._uncommitted: dict[Partition, int] = {}
        self._sent: dict[Partition, int] = {}
        """The offset of the last commit of each partition."""
        self._sent_at_s = 0.0

    def add(self, offsets: Mapping[Partition, int]) -> None:
        """Send these with the next commit."""
        self._uncommitted.update(offsets)

    @property
    def is_due(self) -> bool:
        """Whether the last commit was long enough ago."""
        return time.monotonic() - self._sent_at_s >= COMMIT_EVERY_S

    def send(self, consumer: Consumer) -> None:
        """Send the offsets, and wait for nothing. A refusal is not an error: they are committed later, here or by the
        partition's next owner, for whom these records are repeats.

        Never `asynchronous=False`: that call has no time limit, and now and then it does not return
        (confluent-kafka-python #1801). Before a partition is revoked, the client waits for its commits by itself.
        """
        if not self._uncommitted:
            return
        self._sent_at_s = time.monotonic()
        self._sent.update(self._uncommitted)
        offsets = [TopicPartition(*partition, offset) for partition, offset in self._uncommitted.items()]
        self._uncommitted = {}
        try:
            consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self.on_answer(error.args[0], offsets)

    def on_answer(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Retry the offsets that were refused, unless the partition is lost or a later offset has been sent."""
        if error is None:
            return
        for tp in offsets:
            partition = Partition(tp.topic, tp.partition)
            if self._sent.get(partition) == tp.offset:
                self._uncommitted.setdefault(partition, tp.offset)
        self._log.warning("offsets not committed, will be retried: {}", error.str())

    def forget(self, lost: Collection[Partition]) -> None:
        """Send nothing of these partitions any more."""
        for partition in lost:
            self._uncommitted.pop(partition, None)
            self._sent.pop(partition, None)
