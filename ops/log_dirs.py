"""How much of the brokers' disks the topics take, and how much is free, as the brokers say.

The client library has no such request: DescribeLogDirs, version 4, which brokers have since Kafka 3.3.
https://kafka.apache.org/protocol#The_Messages_DescribeLogDirs
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from confluent_kafka.admin import AdminClient, BrokerMetadata, ClusterMetadata  # type: ignore[attr-defined]

from common.config.kafka import Brokers
from common.errors import Transient
from common.kafka import broker, wire

API_KEY: Final = 35
API_VERSION: Final = 4
ALL_TOPICS: Final = bytes(3)
"""No tags in the header, no list of topics, no tags in the body."""


class Folder(NamedTuple):
    """A folder in which a broker keeps its topics: what each takes of it, and the volume that it is on, in bytes."""

    topics: Mapping[str, int]
    size: int
    usable: int


def bytes_of(brokers: Brokers, admin: AdminClient, topics: Iterable[str]) -> int:
    """The bytes that the segments of these topics take, on all brokers together. Raises what `folders` raises."""
    names = list(topics)
    members = cluster(admin).brokers.values()
    return sum(folder.topics.get(name, 0) for folder in folders(brokers, members) for name in names)


def cluster(admin: AdminClient) -> ClusterMetadata:
    """The brokers, and all topics with the copies of each partition. Raises `Transient` and `Fatal`."""
    with broker.query("the brokers cannot be listed"):
        return admin.list_topics(timeout=broker.REQUEST_TIMEOUT_S)


def folders(brokers: Brokers, members: Iterable[BrokerMetadata]) -> list[Folder]:
    """The folders of these brokers. Raises `Transient` when one of them does not answer, or answers with an error."""
    return [folder for member in members for folder in _of_broker(brokers, str(member.host), int(member.port or 0))]


def _of_broker(brokers: Brokers, host: str, port: int) -> list[Folder]:
    try:
        return read(wire.request(brokers, host, port, API_KEY, API_VERSION, ALL_TOPICS))
    except (IndexError, struct.error) as error:
        raise Transient(f"{host}:{port} does not say how much of its disk the topics take: {error}") from error


def read(answer: bytes) -> list[Folder]:
    """The folders in an answer. Raises `Transient` for an error in it, `IndexError` and `struct.error`."""
    fields = wire.Fields(answer)
    found = []
    fields.skip_tags()
    fields.take("i")  # the throttle time
    if error := fields.take("h"):
        raise Transient(
            f"a broker does not say how much of its disk the topics take: error {error} of Kafka's protocol"
        )
    for _ in fields.each():
        error, directory = fields.take("h"), fields.text()
        if error:
            raise Transient(f"folder {directory} of a broker cannot be read: error {error} of Kafka's protocol")
        topics: dict[str, int] = {}
        for _ in fields.each():
            name, size = fields.text(), 0
            for _ in fields.each():
                fields.take("i")  # the partition
                size += fields.take("q")
                fields.take("q"), fields.take("b")  # how far it is behind, whether it is moving here
                fields.skip_tags()
            topics[name] = size
            fields.skip_tags()
        found.append(Folder(topics, fields.take("q"), fields.take("q")))
        fields.skip_tags()
    return found
