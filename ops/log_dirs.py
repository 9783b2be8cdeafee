"""How much of the brokers' disks the topics take, as the brokers say.

The client library has no such request, so it is written here byte by byte: DescribeLogDirs, version 1, which Kafka 4
takes at least. https://kafka.apache.org/protocol#The_Messages_DescribeLogDirs
"""

import socket
import struct
from collections.abc import Iterable
from typing import Final

from confluent_kafka.admin import AdminClient

from common.errors import Transient

API_KEY: Final = 35
API_VERSION: Final = 1
TIMEOUT_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024


def bytes_of(admin: AdminClient, topics: Iterable[str]) -> int:
    """The bytes that the segments of these topics take, on all brokers together. Raises `Transient` when a broker does
    not answer, or answers with an error."""
    wanted = frozenset(topics)
    brokers = admin.list_topics(timeout=TIMEOUT_S).brokers.values()
    return sum(_of_broker(str(broker.host), int(broker.port or 0), wanted) for broker in brokers)


def _of_broker(host: str, port: int, topics: frozenset[str]) -> int:
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection, connection.makefile("rb") as file:
            # Key, version, correlation id, no client id, and no list of topics, which means all.
            request = struct.pack(">hhihi", API_KEY, API_VERSION, 0, -1, -1)
            connection.sendall(struct.pack(">i", len(request)) + request)
            [size] = struct.unpack(">i", file.read(4))
            if not 0 <= size <= ANSWER_BYTES_MAX:
                raise Transient(f"{host}:{port} answers with {size} bytes; is it a broker?")
            return total(file.read(size), topics)
    except (OSError, struct.error) as error:
        raise Transient(f"{host}:{port} does not say how much of its disk the topics take: {error}") from error


def total(answer: bytes, topics: frozenset[str]) -> int:
    """The bytes of these topics in an answer. Raises `Transient` for an error in it, and `struct.error`."""
    offset = 8  # after the correlation id and the throttle time

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
