"""The log as the auditor asks for it: its topics, its bounds, and what the groups have committed."""

from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from common.errors import Transient, describe
from common.events import ORDERS, READERS
from common.kafka import broker
from common.kafka.broker import Partition
from common.kafka.clients import client_config
from ops.verify.evidence.progress import TOPICS, Place
from ops.verify.statements import Unproven

CLIENT_ID: Final = "verify"
COORDINATOR_S: Final = 15.0


class Bounds(NamedTuple):
    """Where each partition begins and ends."""

    starts: dict[Partition, int]
    ends: dict[Partition, int]


class Log:
    """The broker, asked by an operator's client. Every method raises `Unproven` when it does not answer."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._admin = AdminClient(client_config(servers, CLIENT_ID))

    def topic_ids(self) -> dict[str, str]:
        """Raises `Unproven` also for a missing topic and for partition counts that differ."""
        try:
            found = broker.describe(self._admin, TOPICS)
        except Transient as error:
            raise Unproven(str(error)) from error
        counts = {topic.name: topic.partitions for topic in found.values()}
        if len(set(counts.values())) > 1:
            raise Unproven(f"topics must have equal partition counts, found {counts}")
        return {name: topic.topic_id for name, topic in found.items()}

    def bounds(self) -> Bounds:
        try:
            found = broker.log_bounds(self._admin, broker.all_partitions(broker.describe(self._admin, TOPICS).values()))
        except Transient as error:
            raise away(self._servers, error) from error
        ours = {partition: bounds for partition, bounds in found.items() if partition.topic in TOPICS}
        return Bounds({p: first for p, (first, _) in ours.items()}, {p: end for p, (_, end) in ours.items()})

    def committed(self) -> dict[Place, int]:
        """What the consumer groups have committed. Asked with time for a coordinator that is loading."""
        partitions = [p for p in self.bounds().ends if p.topic in TOPICS]
        found = {}
        for group in READERS[ORDERS]:
            consumer = Consumer(
                {**client_config(self._servers, CLIENT_ID), "group.id": group, "enable.auto.commit": False}
            )
            try:
                read = [p for p in partitions if group in READERS[p.topic]]
                for partition, offset in broker.committed_offsets(consumer, read, COORDINATOR_S).items():
                    found[group, partition.topic, partition.number] = offset
            except Transient as error:
                raise away(self._servers, error) from error
            finally:
                consumer.close()
        return found


def away(servers: str, error: Transient | KafkaException) -> Unproven:
    return Unproven(f"Kafka at {servers} does not answer: {describe(error)}")
