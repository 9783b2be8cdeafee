"""Brokers that keep their log in memory, for tests of the producer: they store each batch once and in sequence."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from confluent_kafka import KafkaError
from google_crc32c import value as crc32c

from common.kafka.produce import requests
from common.kafka.wire import Fields

TOPIC: Final = "t"
AT_MS: Final = 1_700_000_000_000
ONE_TOPIC: Final = b"\0\2" + bytes(16) + b"\2t\0\0\0\0\0"
"""The body of a request for a topic's metadata, which makes none."""
NO_TOPIC: Final = b"\0\1\0\0\0\0"


class Stored(NamedTuple):
    """A batch of the log."""

    producer_id: int
    epoch: int
    sequence: int
    offset: int
    keys: list[bytes]
    values: list[bytes]


def records_of(batch: bytes) -> Stored:
    """What is in a batch; its offset is 0. Fails if it is damaged."""
    _, length, _, magic, checksum = struct.unpack_from(">qiibI", batch)
    assert (length, magic, checksum) == (len(batch) - 12, 2, crc32c(batch[21:]))
    attributes, last, first_ms, last_ms, producer_id, epoch, sequence, count = struct.unpack_from(
        ">hiqqqhii", batch, 21
    )
    assert (attributes, last, first_ms) == (0, count - 1, last_ms)
    assert last_ms > AT_MS - 1
    fields = Fields(batch[61:])
    keys: list[bytes] = []
    values: list[bytes] = []
    for delta in range(count):
        size = fields.varint() >> 1
        record = Fields(fields.skip(size))
        assert record.skip(2) == b"\0\0"
        assert record.varint() >> 1 == delta
        keys.append(record.skip(record.varint() >> 1))
        values.append(record.skip(record.varint() >> 1))
        assert record.skip(size) == b"\0"  # no headers, and nothing behind
    assert not fields.skip(1)
    return Stored(producer_id, epoch, sequence, 0, keys, values)


@dataclass
class Log:
    """One partition, as all of its copies have it."""

    leader: int
    batches: list[Stored] = field(default_factory=list)

    @property
    def values(self) -> list[bytes]:
        return [value for batch in self.batches for value in batch.values]

    def append(self, batch: Stored) -> tuple[int, int]:
        """An error of the protocol, and the offset of the first record."""
        own = [stored for stored in self.batches if stored.producer_id == batch.producer_id]
        for stored in own[-5:]:
            if (stored.sequence, len(stored.values)) == (batch.sequence, len(batch.values)):
                return 0, stored.offset
        if own and batch.sequence != (own[-1].sequence + len(own[-1].values)) % 2**31:
            return KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
        offset = len(self.values)
        self.batches.append(batch._replace(offset=offset))
        return 0, offset


CUT: Final = "cut"
"""An answer that never comes: the connection ends instead, and the log has nothing."""
CUT_AFTERWARDS: Final = "cut afterwards"
"""The same, and the log has it."""
NONSENSE: Final = "nonsense"
"""An answer that is none; the log has nothing."""
Answer = int | str | tuple[int]
"""In a tuple, an error of a broker that has stored the batch nevertheless."""
Behaviour = Callable[[int, Stored], Answer]
"""What a broker does with the batch of a partition: store it (0), refuse it by an error, or fail."""


class Brokers:
    """Several brokers that share their logs."""

    def __init__(self, leaders: dict[int, int]) -> None:
        self.logs = {number: Log(leader) for number, leader in leaders.items()}
        self.topics = {TOPIC: 0}
        """An error of the protocol for each topic that is known."""
        self.requests: list[tuple[int, list[int]]] = []
        """The broker and the partitions of each produce request."""
        self.behaviour: Behaviour = lambda _, __: 0
        self.identities = 0
        self.identity_error = 0
        self.topic_id = b"i" * 16
        self.epoch = 1
        """The count of the leaders' elections."""
        self.frozen: set[int] = set()
        """Brokers that answer nobody."""
        self.lagging: dict[int, dict[int, int]] = {}
        """The leaders that a broker still takes for those of now."""
        self.connections = 0
        self.metadata_requests = 0
        self.held: asyncio.Event | None = None
        """Produce requests are answered when it is set."""
        self.ports: dict[int, int] = {}
        self._servers: dict[int, asyncio.Server] = {}
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Starts all; gives their addresses."""
        try:
            for node in sorted({log.leader for log in self.logs.values()}):
                await self.start(node)
            yield ",".join(f"127.0.0.1:{port}" for port in self.ports.values())
        finally:
            for node in list(self._servers):
                self.stop(node)

    async def start(self, node: int) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._writers.add(writer)
            try:
                await self._serve(node, reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass  # the client has gone, or the test has ended
            finally:
                self._writers.discard(writer)
                writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", self.ports.get(node, 0))
        self.ports[node] = server.sockets[0].getsockname()[1]
        self._servers[node] = server

    def stop(self, node: int) -> None:
        self._servers.pop(node).close()
        for writer in self._writers:
            if writer.transport.get_extra_info("sockname")[1] == self.ports[node]:
                writer.transport.abort()

    async def _serve(self, node: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            [size] = struct.unpack(">i", await reader.readexactly(4))
            request = await reader.readexactly(size)
            key, version, correlation, client = struct.unpack_from(">hhih", request)
            body = Fields(request[10 + client :])
            if node in self.frozen:
                await asyncio.Event().wait()
            match (key, version):
                case requests.METADATA:
                    topics = body.skip(100)
                    assert topics in (ONE_TOPIC, NO_TOPIC)
                    self.metadata_requests += topics == ONE_TOPIC
                    answer = self._metadata(node)
                case requests.IDENTITY:
                    self.identities += 1
                    assert body.skip(100) == b"\0\0\0\0\0\0" + b"\xff" * 10 + b"\0", "a new one"
                    answer = b"\0" + struct.pack(">ihqh", 0, self.identity_error, 1_000 + self.identities, 0) + b"\0"
                case requests.PRODUCE:
                    answer = await self._produce(node, body)
                case other:
                    raise AssertionError(f"nobody asks {other}")
            writer.write(struct.pack(">ii", len(answer) + 4, correlation) + answer)

    def _metadata(self, node: int) -> bytes:
        brokers = b"".join(
            struct.pack(">i", node) + b"\x0a127.0.0.1" + struct.pack(">i", port) + b"\0\0"
            for node, port in self.ports.items()
        )
        topics = b""
        for name, error in self.topics.items():
            leaders = {} if error else {number: log.leader for number, log in self.logs.items()}
            epochs = dict.fromkeys(leaders, self.epoch)
            if node in self.lagging:
                leaders, epochs = self.lagging[node], dict.fromkeys(leaders, 0)
            topics += (
                struct.pack(">hb", error, len(name) + 1)
                + name.encode()
                + (bytes(16) if error else self.topic_id)
                + b"\0"
                + bytes([len(leaders) + 1])
            )
            for number, leader in leaders.items():
                topics += (
                    struct.pack(">hiii", 0, number, leader, epochs[number])
                    + (b"\2" + struct.pack(">i", leader)) * 2
                    + b"\1\0"
                )
            topics += b"\0\0\0\0\0"
        counts = bytes([len(self.ports) + 1]), bytes([len(self.topics) + 1])
        return b"\0\0\0\0\0" + counts[0] + brokers + b"\0\0\0\0\1" + counts[1] + topics + b"\0\0\0\0\0"

    async def _produce(self, node: int, body: Fields) -> bytes:
        body.skip_tags()
        body.varint()
        assert (body.take("h"), body.take("i")) == (-1, 2_500)
        assert body.varint() == 2, "one topic"
        assert body.text() == TOPIC
        batches = {}
        for _ in body.each():
            number = body.take("i")
            batches[number] = records_of(body.skip(body.varint() - 1))
            body.skip_tags()
        self.requests.append((node, list(batches)))
        if self.held is not None:
            await self.held.wait()
        results = b""
        for number, batch in batches.items():
            answer = self.behaviour(number, batch)
            if answer == NONSENSE:
                return b"\0\2\2t"
            error, offset = self._store(node, number, batch, answer)
            results += struct.pack(">ihqqq", number, error, offset, AT_MS, 0)
            results += b"\1\0\0" if error == 0 else b"\1\4why\0"
        return b"\0\2\2" + TOPIC.encode() + bytes([len(batches) + 1]) + results + b"\0\0\0\0\0\0"

    def _store(self, node: int, number: int, batch: Stored, answer: Answer) -> tuple[int, int]:
        log = self.logs[number]
        if log.leader != node:
            return KafkaError.NOT_LEADER_FOR_PARTITION, -1
        if answer in (0, CUT_AFTERWARDS) or isinstance(answer, tuple):
            stored = log.append(batch)
            if answer == 0:
                return stored
        if isinstance(answer, str):
            raise ConnectionError(answer)
        return answer[0] if isinstance(answer, tuple) else answer, -1
