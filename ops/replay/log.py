"""The log as the replay reads it: by assignment, without a group, from given offsets to given ends."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from common.consume.parking import Received
from common.consume.positions import Partition, Topic, all_partitions, describe, log_bounds
from common.errors import Fatal
from common.events import Event, Milliseconds, decoder_for
from common.kafka import client_config
from ops import topics

CLIENT_ID: Final = "replay"
SILENCE_S: Final = 20.0
FETCH_RECORDS: Final = 5_000

T = TypeVar("T")


class Log:
    """Reads what was published. Raises `Fatal` when it does not come, `KafkaException` when the broker is away."""

    def __init__(self, servers: str, admin: AdminClient) -> None:
        self._servers = servers
        self.admin = admin

    def describe(self, names: Sequence[str]) -> dict[str, Topic]:
        return describe(self.admin, names)

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        return log_bounds(self.admin, partitions)

    def committed(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return topics.committed(self._servers, group, partitions)

    def events(self, topic: str) -> Iterator[Any]:
        """The events of a topic from its beginning to its end, each partition's in order."""
        bounds = self.bounds(all_partitions(self.describe([topic]).values()))
        for record in self.read(bounds):
            yield record.event

    def read(self, bounds: Mapping[Partition, tuple[int, int]]) -> Iterator[Received]:
        """The events of these parts of the log. What is no event of its topic is left out: its reader parks it."""
        for message in self._messages({p: (first, end) for p, (first, end) in bounds.items() if first < end}):
            partition = Partition(str(message.topic()), int(message.partition() or 0))
            try:
                event: Event = decoder_for[partition.topic].decode(message.value() or b"")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            yield Received(partition, int(message.offset() or 0), Milliseconds(message.timestamp()[1]), event)

    def _messages(self, bounds: Mapping[Partition, tuple[int, int]]) -> Iterator[Message]:
        consumer = Consumer(
            {
                **client_config(self._servers, CLIENT_ID),
                "group.id": CLIENT_ID,  # the client asks for one; nothing joins it
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,  # a partition may end in something that is not a record
                "fetch.queue.backoff.ms": 5,
            }
        )
        left = dict(bounds)
        try:
            consumer.assign([TopicPartition(*p, first) for p, (first, _) in left.items()])
            heard = time.monotonic()
            while left:
                for message in consumer.consume(FETCH_RECORDS, 0.2):
                    heard = time.monotonic()
                    partition = Partition(str(message.topic()), int(message.partition() or 0))
                    offset = int(message.offset() or 0)
                    error = message.error()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    _, end = left.get(partition, (0, 0))
                    if error is None and offset < end:
                        yield message
                    if offset + (error is None) >= end:
                        left.pop(partition, None)
                if time.monotonic() - heard > SILENCE_S:
                    raise Fatal(f"replay: the log could not be read for {SILENCE_S:.0f} s: {sorted(left)}")
        finally:
            consumer.close()


def time_of(event: Event) -> Milliseconds:
    """When the event says that it happened."""
    return Milliseconds(round(datetime.fromisoformat(event.time).timestamp() * 1000))


def chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk
