"""Reads the records of a topic from the files in which the broker keeps them, and makes those files fit another broker.

The files consist of record batches of format 2 (https://kafka.apache.org/documentation/#recordbatch).
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

# Base offset, length of the rest, leader epoch, format, CRC, attributes, last offset delta, base and last timestamp,
# producer id and epoch, base sequence, number of records.
_BATCH: Final = Struct(">qiibIhiqqqhii")
_CRC: Final = Struct(">I")
_CRC_AT: Final = 17
_LENGTH_ENDS: Final = 12
"""The length of a batch counts from here."""
_COMPRESSION: Final = 0b111
_LOG_APPEND_TIME: Final = 0b1000
_TRANSACTIONAL: Final = 0b1_0000
_CONTROL: Final = 0b10_0000
FORMAT: Final = 2


class StoredRecord(NamedTuple):
    """A record as the broker keeps it. `at` is the broker's time, in milliseconds since the Unix epoch."""

    topic: str
    partition: int
    offset: int
    at: int
    key: bytes | None
    value: bytes | None
    headers: int


def records_of(topic: str, partition: int, segment: bytes) -> Iterator[StoredRecord]:
    """The records of a segment, in order. Raises `ValueError` for a format that this does not read."""
    begin = 0
    while begin < len(segment):
        base, length, _, version, _, attributes, _, _, at, _, _, _, count = _BATCH.unpack_from(segment, begin)
        position = begin + _BATCH.size
        begin += _LENGTH_ENDS + length
        if attributes & _CONTROL:  # the end of a transaction
            continue
        if version != FORMAT or attributes & _COMPRESSION or not attributes & _LOG_APPEND_TIME:
            raise ValueError(f"{topic}/{partition}@{base}: format {version}, attributes {attributes:b}")
        for _ in range(count):
            size, body = _varint(segment, position)
            position = body + size
            _, body = _varint(segment, body + 1)  # behind the attributes: the time, which is the batch's
            delta, body = _varint(segment, body)
            key, body = _bytes(segment, body)
            value, body = _bytes(segment, body)
            headers, _ = _varint(segment, body)
            yield StoredRecord(topic, partition, base + delta, at, key, value, headers)


def for_any_broker(segment: bytes) -> bytes:
    """The same records, from no producer, in no transaction and without the leader's epoch. Another broker gives out
    the same producer ids, and would compare the sequence numbers."""
    batches = bytearray(segment)
    begin = 0
    while begin < len(batches):
        base, length, _, version, _, attributes, last, base_at, at, *_, count = _BATCH.unpack_from(batches, begin)
        end = begin + _LENGTH_ENDS + length
        if attributes & _CONTROL:
            del batches[begin:end]
            continue
        attributes &= ~_TRANSACTIONAL
        _BATCH.pack_into(batches, begin, base, length, 0, version, 0, attributes, last, base_at, at, -1, -1, -1, count)
        _CRC.pack_into(batches, begin + _CRC_AT, crc32c(batches[begin + _CRC_AT + _CRC.size : end]))
        begin = end
    return bytes(batches)


def crc32c(data: bytes | bytearray) -> int:
    """The checksum of RFC 3720."""
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = _TABLE[(checksum ^ byte) & 0xFF] ^ (checksum >> 8)
    return checksum ^ 0xFFFFFFFF


def _of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE: Final = [_of_byte(byte) for byte in range(256)]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A zigzag-encoded number, and where the next field begins."""
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), position


def _bytes(data: bytes, position: int) -> tuple[bytes | None, int]:
    size, begin = _varint(data, position)
    return (None, begin) if size < 0 else (data[begin : begin + size], begin + size)
