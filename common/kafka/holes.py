"""Which offsets of a log have no record, and why: what the client passes over without a word.

A transactional producer's markers take offsets, and the records of a transaction that was aborted are not given out.
Both look like lost records. Only the log's batches tell the difference, so they are fetched here by Kafka's own
protocol (Fetch, version 4, which brokers know from 0.11 on). It happens only where offsets are missing.

References: Kafka's protocol guide, "Fetch API" and "Record Batch".
"""

import struct
from typing import Final

from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from common.config.kafka import Brokers
from common.errors import Transient
from common.events import Milliseconds
from common.kafka import broker, wire
from common.kafka.broker import REQUEST_TIMEOUT_S, Partition

HOLE_OFFSETS_MAX: Final = 10_000
"""More missing offsets in one place are not looked into: they are reported as a loss."""
_FETCH: Final = 1
_FETCH_VERSION: Final = 4
_FETCH_BYTES: Final = 1024 * 1024
_FETCHES_MAX: Final = 64

_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20
_BATCH: Final = struct.Struct(">qiibIhiqq")
"""Of a batch: first offset, length, epoch, magic, checksum, attributes, offset delta of the last record, times."""
_BATCH_PREFIX: Final = 12
"""The first offset and the length, which do not count in the length."""


def offsets_without_record(
    brokers: Brokers, admin: AdminClient, partition: Partition, first: int, end: int
) -> dict[int, Milliseconds]:
    """Those of the offsets from `first` up to but not including `end` that hold a marker or belong to a transaction
    which the client has passed over, each with its time. Call it only for offsets that the client did not give out.

    More than `HOLE_OFFSETS_MAX` are left out. Raises `Transient` when the broker does not answer, and `Fatal`.
    """
    if end - first > HOLE_OFFSETS_MAX:
        return {}
    times: dict[int, Milliseconds] = {}
    host, port = _leader(admin, partition)
    offset = first
    for _ in range(_FETCHES_MAX):
        batches = _batches(_fetch(brokers, host, port, partition, offset))
        for base, last, attributes, at in batches:
            if attributes & (_CONTROL | _TRANSACTIONAL):
                times |= dict.fromkeys(range(max(first, base), min(end, last + 1)), Milliseconds(at))
        if not batches or batches[-1][1] + 1 >= end:
            break
        offset = batches[-1][1] + 1
    return times


def _leader(admin: AdminClient, partition: Partition) -> tuple[str, int]:
    """The address of the broker that leads the partition."""
    with broker.query(f"the leader of {partition} cannot be found"):
        metadata = admin.list_topics(partition.topic, timeout=REQUEST_TIMEOUT_S)
    described = metadata.topics[partition.topic].partitions.get(partition.number)
    leader = metadata.brokers.get(described.leader) if described else None
    if leader is None:
        raise Transient(f"{partition} has no leader now")
    return str(leader.host), int(leader.port or 0)


def _fetch(brokers: Brokers, host: str, port: int, partition: Partition, offset: int) -> bytes:
    """The batches from the one that holds `offset` on; none if the log does not have that offset."""
    topic = partition.topic.encode()
    # A consumer (-1), at once, uncommitted records too.
    body = struct.pack(">iiiib", -1, 0, 0, _FETCH_BYTES, 0)
    body += struct.pack(">ih", 1, len(topic)) + topic
    body += struct.pack(">iiqi", 1, partition.number, offset, _FETCH_BYTES)
    answer = wire.request(brokers, host, port, _FETCH, _FETCH_VERSION, body)
    # Throttling, one topic and its name, one partition; its number, error, ends, no aborted ones.
    at = 4 + 4 + 2 + len(topic) + 4
    try:
        _, error, _, _, aborted, length = struct.unpack_from(">ihqqii", answer, at)
    except struct.error as cause:
        raise Transient(f"the batches of {partition} cannot be read: {cause}") from cause
    if error == KafkaError.OFFSET_OUT_OF_RANGE:
        return b""
    if error or aborted > 0:
        raise Transient(f"the batches of {partition} cannot be read: error {error} of Kafka's protocol")
    start = at + struct.calcsize(">ihqqii")
    return answer[start : start + max(0, length)]


def _batches(records: bytes) -> list[tuple[int, int, int, int]]:
    """First and last offset, attributes and time of each batch. The last one may be cut."""
    batches, at = [], 0
    while at + _BATCH.size <= len(records):
        base, length, _, _, _, attributes, delta, _, time = _BATCH.unpack_from(records, at)
        batches.append((base, base + delta, attributes, time))
        at += _BATCH_PREFIX + length
    return batches
