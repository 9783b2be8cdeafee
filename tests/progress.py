"""How far the services have come: their positions, what their groups have committed, and the ends of the log."""

from collections.abc import Iterable
from functools import partial
from typing import Final

from confluent_kafka import Consumer

from common.events import READS
from common.kafka.broker import Partition, committed_offsets, log_ends
from common.kafka.clients import client_config
from ops.tool import GROUP_OF
from tests.stack import Stack
from tests.waiting import eventually

SERVICES: Final = tuple(GROUP_OF)
"""Those that read the log, by their databases."""


def positions(stack: Stack, service: str) -> dict[Partition, int]:
    """The next offset that the service will decide, of each partition of its topics."""
    rows = stack.query(service, "SELECT topic, partition, next_offset FROM positions")
    return {Partition(topic, number): offset for topic, number, offset in rows}


def position(stack: Stack, service: str, where: Partition) -> int:
    """The same of one partition."""
    return positions(stack, service)[where]


def ends(stack: Stack, *topics: str) -> dict[Partition, int]:
    """The offset that the next record of each partition will get."""
    count = int(stack.variables["TOPIC_PARTITIONS"])
    return log_ends(stack.admin, [Partition(topic, number) for topic in topics for number in range(count)])


def committed(stack: Stack, service: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """The offsets that the service's group has committed in these partitions, where it has."""
    reader = Consumer({**client_config(stack.brokers, "test"), "group.id": GROUP_OF[service]})
    try:
        return committed_offsets(reader, partitions)
    finally:
        reader.close()


def behind(stack: Stack, service: str, topic: str) -> int:
    """How many offsets of a topic the service has yet to pass."""
    read = sum(offset for where, offset in positions(stack, service).items() if where.topic == topic)
    return sum(ends(stack, topic).values()) - read


def await_read(stack: Stack, *services: str) -> None:
    """Wait until these services, or all, have read all their topics to the ends, and have published what follows from
    it, for only then do they commit."""
    for service in services or SERVICES:
        eventually(partial(_has_read, stack, service), f"{service} has read and published all")


def _has_read(stack: Stack, service: str) -> bool:
    read = positions(stack, service)
    if read != ends(stack, *READS[GROUP_OF[service]]):
        return False
    begun = {where: offset for where, offset in read.items() if offset}  # nothing is committed of the others
    return committed(stack, service, read) == begun
