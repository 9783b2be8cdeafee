"""How much of the brokers' disks the topics take, as the brokers say.

The client library has no such request: DescribeLogDirs, version 1, which Kafka 4 takes at least.
https://kafka.apache.org/protocol#The_Messages_DescribeLogDirs
"""

import struct
from collections.abc import Iterable
from typing import Final

from confluent_kafka.admin import AdminClient

from common.errors import Transient
from common.kafka import broker, wire

API_KEY: Final = 35
API_VERSION: Final = 1
ALL_TOPICS: Final = struct.pack(">i", -1)


def bytes_of(admin: AdminClient, topics: Iterable[str]) -> int:
    """The bytes that the segments of these topics take, on all brokers together. Raises `Transient` when a broker does
    not answer, or answers with an error, and `Fatal`."""
    names = frozenset(topics)
    with broker.query("the brokers cannot be listed"):
        brokers = admin.list_topics(timeout=broker.REQUEST_TIMEOUT_S).brokers.values()
    return sum(_of_broker(str(member.host), int(member.port or 0), names) for member in brokers)


def _of_broker(host: str, port: int, topics: frozenset[str]) -> int:
    try:
        return total(wire.request(host, port, API_KEY, API_VERSION, ALL_TOPICS), topics)
    except struct.error as error:
        raise Transient(f"{host}:{port} does not say how much of its disk the topics take: {error}") from error


def total(answer: bytes, topics: frozenset[str]) -> int:
    """The bytes of these topics in an answer. Raises `Transient` for an error in it, and `struct.error`."""
    offset = 4  # after the throttle time

    def take(layout: str) -> int:
        nonlocal offset
        [value] = struct.unpack_from(">" + layout, answer, offset)
        offset += struct.calcsize(">" + layout)
        return int(value)

    def text() -> str:
        nonlocal offset
        length = take("h")
        offset += length
        return answer[offset - length : offset].decode()

    size = 0
    for _ in range(take("i")):
        error, directory = take("h"), text()
        if error:
            raise Transient(f"folder {directory} of a broker cannot be read: error {error} of Kafka's protocol")
        for _ in range(take("i")):
            counts = text() in topics
            for _ in range(take("i")):
                take("i")  # the partition
                size += counts * take("q")
                take("q"), take("b")  # how far it is behind, whether it is moving here
    return size
