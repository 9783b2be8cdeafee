"""Records on their way into the log: the batch that a partition gets them in, and the partition that a key belongs to.

References: Kafka's documentation, "Message Format" (magic 2); `Utils.murmur2` and `BuiltInPartitioner` of Java's
client; RFC 3720, B.4 (CRC-32C).
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from confluent_kafka import KafkaError
from google_crc32c import value as crc32c
from msgspec import Struct

from common.events import Milliseconds
from common.kafka.wire import varint

BATCH_BYTES_MAX: Final = 1_000_000
"""Of one partition in one request, and so the largest record. Topics take a little more (`max.message.bytes`)."""
RECORD_OVERHEAD: Final = 24
"""The most that a record has beside key and value, in bytes."""

_HEAD: Final = struct.Struct(">qiibI")
"""Base offset, length, leader epoch, magic, checksum."""
_COUNTED: Final = _HEAD.size - struct.calcsize(">qi")
"""What of the head belongs to the length."""
_BODY: Final = struct.Struct(">hiqqqhii")
"""What the checksum is of: attributes, last delta, first and last time, producer id and epoch, sequence, count."""
_MAGIC: Final = 2


class Acknowledged(NamedTuple):
    """Where the log has put a record, and when by the broker's clock (LogAppendTime)."""

    partition: int
    offset: int
    at: Milliseconds


Delivered = Callable[["Outgoing", Acknowledged | None, KafkaError | None], None]
"""Called once for a record, with its place in the log or the reason why it may not be there. It may send others."""


def _nobody(_: "Outgoing", __: Acknowledged | None, ___: KafkaError | None) -> None:
    """Nobody asks what becomes of it."""


class Outgoing(Struct, gc=False):
    """A record to send. `partition` is -1 where its key decides. The garbage collector does not look into it, so what
    `delivered` holds must not lead back to it."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    delivered: Delivered = _nobody
    due_s: float = 0.0
    """When it is given up, on the clock of the event loop."""

    @property
    def size(self) -> int:
        """At most so many bytes of a batch."""
        return len(self.key) + len(self.value) + RECORD_OVERHEAD


class Identity(NamedTuple):
    """Whom the log takes for the writer of a batch: batches of one identity are stored once and in sequence."""

    producer_id: int
    epoch: int


class _Signed(dict[int, bytes]):
    """Numbers that are not negative as signed varints (zigzag): a look into a dictionary costs a third of a call."""

    KNOWN: Final = 4096

    def __init__(self) -> None:
        super().__init__((value, varint(value << 1)) for value in range(self.KNOWN))

    def __missing__(self, value: int) -> bytes:
        return varint(value << 1)


_SIGNED: Final = _Signed()


def encode(records: Sequence[Outgoing], identity: Identity, sequence: int, at_ms: int) -> bytes:
    """The batch of these records, in order; `sequence` is that of the first."""
    parts = [_BODY.pack(0, len(records) - 1, at_ms, at_ms, *identity, sequence, len(records))]
    signed = _SIGNED
    for delta, record in enumerate(records):
        key, value = record.key, record.value
        place, key_length, value_length = signed[delta], signed[len(key)], signed[len(value)]
        # Attributes and the distance in time before, the number of headers behind: each is zero, in one byte.
        length = len(place) + len(key_length) + len(key) + len(value_length) + len(value) + 3
        parts += signed[length], b"\0\0", place, key_length, key, value_length, value, b"\0"
    body = b"".join(parts)
    return _HEAD.pack(0, _COUNTED + len(body), -1, _MAGIC, crc32c(body)) + body


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Java's client gives this key, so that any client of any language agrees."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(key: bytes) -> int:
    """The 32-bit hash of Austin Appleby, with the seed of Kafka's clients."""
    length, whole = len(key), len(key) & ~3
    hashed = 0x9747B28C ^ length
    for word in struct.unpack_from(f"<{whole >> 2}I", key):
        mixed = word * 0x5BD1E995 & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 24) * 0x5BD1E995 & 0xFFFFFFFF
        hashed = hashed * 0x5BD1E995 & 0xFFFFFFFF ^ mixed
    if length > whole:
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    hashed = (hashed ^ hashed >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return hashed ^ hashed >> 15
