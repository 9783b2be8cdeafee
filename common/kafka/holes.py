"""Which offsets of a log have no record, and why: what the client passes over without a word.

A transactional producer's markers take offsets, and the records of a transaction that was aborted are not given out.
Both look like lost records. Only the log's batches tell the difference, so they are fetched here by Kafka's own
protocol (Fetch, version 4, which brokers know from 0.11 on). It happens only where offsets are missing.

References: Kafka's protocol guide, "Fetch API" and "Record Batch".
"""

import socket
import struct
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from loguru import logger

from common.events import Milliseconds
from common.kafka.broker import REQUEST_TIMEOUT_S, Partition

HOLE_OFFSETS_MAX: Final = 10_000
"""More missing offsets in one place are not looked into: they are reported as a loss."""
_FETCH_BYTES: Final = 1024 * 1024
_FETCHES_MAX: Final = 64

_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20
_BATCH: Final = struct.Struct(">qiibIhiqq")
"""Of a batch: first offset, length, epoch, magic, checksum, attributes, offset delta of the last record, times."""
_BATCH_PREFIX: Final = 12
"""The first offset and the length, which do not count in the length."""


def offsets_without_record(admin: AdminClient, partition: Partition, first: int, end: int) -> dict[int, Milliseconds]:
    """Those of the offsets from `first` up to but not including `end` that hold a marker or belong to a transaction
    which the client has passed over, each with its time. Call it only for offsets that the client did not give out.

    Offsets that cannot be judged are left out: too many, or the broker does not answer in plain text.
    """
    if end - first > HOLE_OFFSETS_MAX:
        return {}
    times: dict[int, Milliseconds] = {}
    try:
        with _connect(admin, partition) as connection:
            offset = first
            for _ in range(_FETCHES_MAX):
                batches = _batches(_fetch(connection, partition, offset))
                for base, last, attributes, at in batches:
                    if attributes & (_CONTROL | _TRANSACTIONAL):
                        times |= dict.fromkeys(range(max(first, base), min(end, last + 1)), Milliseconds(at))
                if not batches or batches[-1][1] + 1 >= end:
                    break
                offset = batches[-1][1] + 1
    except (OSError, struct.error, KafkaException) as error:
        logger.warning("cannot find out why offsets are missing: {!r}", error, partition=str(partition), first=first)
    return times


def _connect(admin: AdminClient, partition: Partition) -> socket.socket:
    """A connection to the partition's leader."""
    metadata = admin.list_topics(partition.topic, timeout=REQUEST_TIMEOUT_S)
    leader = metadata.topics[partition.topic].partitions[partition.number].leader
    broker = metadata.brokers[leader]
    return socket.create_connection((broker.host, broker.port), timeout=REQUEST_TIMEOUT_S)


def _fetch(connection: socket.socket, partition: Partition, offset: int) -> bytes:
    """The batches from the one that holds `offset` on. Raises `OSError`, also for an answer with an error."""
    topic = partition.topic.encode()
    # API 1, version 4, correlation 0, no client id; a consumer (-1), at once, uncommitted records too.
    request = struct.pack(">hhih", 1, 4, 0, -1) + struct.pack(">iiiib", -1, 0, 0, _FETCH_BYTES, 0)
    request += struct.pack(">ih", 1, len(topic)) + topic
    request += struct.pack(">iiqi", 1, partition.number, offset, _FETCH_BYTES)
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _receive(connection, 4))
    answer = _receive(connection, size)
    # Correlation and throttling, one topic and its name, one partition; its number, error, ends, no aborted ones.
    at = 4 + 4 + 4 + 2 + len(topic) + 4
    _, error, _, _, aborted, length = struct.unpack_from(">ihqqii", answer, at)
    if error or aborted > 0:
        raise OSError(f"the broker answers with error {error}")
    start = at + struct.calcsize(">ihqqii")
    return answer[start : start + max(0, length)]


def _receive(connection: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = connection.recv(min(size, _FETCH_BYTES))
        if not part:
            raise OSError("the broker has closed the connection")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _batches(records: bytes) -> list[tuple[int, int, int, int]]:
    """First and last offset, attributes and time of each batch. The last one may be cut."""
    batches, at = [], 0
    while at + _BATCH.size <= len(records):
        base, length, _, _, _, attributes, delta, _, time = _BATCH.unpack_from(records, at)
        batches.append((base, base + delta, attributes, time))
        at += _BATCH_PREFIX + length
    return batches
