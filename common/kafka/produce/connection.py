"""A connection to one broker that takes requests from an event loop, and answers them in their order."""

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from confluent_kafka import KafkaError

from common.config.kafka import Brokers
from common.errors import Fatal
from common.kafka import scram, wire
from common.kafka.clients import PRODUCER_SOCKET_TIMEOUT_MS, RECEIVE_BYTES_MAX
from common.kafka.identity import note_refusal
from common.kafka.produce import requests

TIMEOUT_S: Final = PRODUCER_SOCKET_TIMEOUT_MS / 1000
"""How long a broker has to answer a request, or to take a connection."""
READ_S: Final = 0.02
"""How long a loop that is late has to read an answer that may be there."""
Answered = Callable[[bytes | None], None]
"""Called once with the answer to a request, or with None when the connection ended before it."""
_SIZE: Final = struct.Struct(">i")


class Connection(asyncio.Protocol):
    """Closes itself when a request has no answer within `TIMEOUT_S`: whoever is frozen keeps connections open."""

    def __init__(self, client_id: str, on_lost: "Callable[[Connection], None]") -> None:
        """`on_lost` is called when it has ended, after all requests are answered with None."""
        self._loop = asyncio.get_running_loop()
        client = client_id.encode()
        self._client = struct.pack(">h", len(client)) + client
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._correlation = 0
        self._asked: deque[tuple[int, float, Answered]] = deque()
        """The id of each request that has no answer yet, and when it is given up."""
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: int | None = None
        """The request that had no answer when its time was up."""
        self._error: OSError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def request(self, api: tuple[int, int], body: bytes, answered: Answered) -> None:
        """Ask, by the key and version of an API. A body in a flexible version begins with the tags of its header."""
        if not self.is_open:
            self._loop.call_soon(answered, None)  # never before this returns
            return
        assert self._transport is not None
        self._correlation = (self._correlation + 1) & 0x7FFFFFFF
        head = struct.pack(">hhi", *api, self._correlation) + self._client
        self._asked.append((self._correlation, self._loop.time() + TIMEOUT_S, answered))
        if self._timer is None:
            self._timer = self._loop.call_later(TIMEOUT_S, self._check)
        self._transport.write(b"".join((_SIZE.pack(len(head) + len(body)), head, body)))

    async def ask(self, api: tuple[int, int], body: bytes) -> bytes:
        """Raises `OSError` when there is no answer; `ssl.SSLError` if the broker does not take our certificate, which
        it says only after the handshake (RFC 8446)."""
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        self.request(api, body, lambda answer: None if future.done() else future.set_result(answer))
        answer = await future
        if answer is None:
            raise self._error or ConnectionError("the broker has closed the connection, or is silent")
        return answer

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= 4:
            [size] = _SIZE.unpack_from(received)
            if not 4 <= size <= RECEIVE_BYTES_MAX:
                return self.abort()
            if len(received) < 4 + size:
                return None
            [correlation] = _SIZE.unpack_from(received, 4)
            answer = bytes(received[8 : 4 + size])
            del received[: 4 + size]
            if not self._asked or self._asked[0][0] != correlation:
                return self.abort()
            self._asked.popleft()[2](answer)
        return None

    def _check(self) -> None:
        self._timer = None
        if self._asked:
            correlation, due_s, _ = self._asked[0]
            left_s = due_s - self._loop.time()
            if left_s <= 0 and self._overdue == correlation:
                return self.abort()
            if left_s <= 0:
                # A loop that stood still, or did not run, comes to its timers before it reads: the answer may be here.
                self._overdue, left_s = correlation, READ_S
            self._timer = self._loop.call_later(left_s, self._check)
        return None

    def abort(self) -> None:
        """End it at once; what is asked remains unanswered."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._error = error if isinstance(error, OSError) else None
        asked, self._asked = self._asked, deque()
        for _, _, answered in asked:
            answered(None)
        self._on_lost(self)


async def connect(
    brokers: Brokers, client_id: str, host: str, port: int, on_lost: "Callable[[Connection], None]"
) -> Connection:
    """A connection that takes requests. Raises `OSError` when there is none, also when the broker does not take the
    user or cannot prove who it is; `note_refusal` hears of these."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _connect(brokers, client_id, host, port, on_lost)
    except OSError as error:  # also ssl.SSLError and TimeoutError
        if isinstance(error, ssl.SSLError):
            note_refusal(KafkaError(KafkaError._SSL, f"{host}:{port}: {error}"))
        raise
    except (scram.Refused, Fatal) as error:
        note_refusal(KafkaError(KafkaError._AUTHENTICATION, f"{host}:{port}: {error}"))
        raise ConnectionError(str(error)) from error
    except (struct.error, UnicodeError) as error:
        raise ConnectionError(f"{host}:{port} is no broker: {error}") from error


async def _connect(
    brokers: Brokers, client_id: str, host: str, port: int, on_lost: "Callable[[Connection], None]"
) -> Connection:
    refused: scram.Refused | None = None
    for password in wire.passwords(brokers):
        connection = await _encrypted(brokers, client_id, host, port, on_lost)
        try:
            if brokers.protocol == "SASL_SSL":
                await _login(connection, brokers.username, password)
            # One that is frozen accepts connections too, and one that wants to know who asks answers some requests.
            await connection.ask(requests.METADATA, requests.metadata_request([]))
        except BaseException as error:
            connection.abort()
            if not isinstance(error, scram.Refused):
                raise
            refused = error
        else:
            return connection
    assert refused is not None, "there is at least one password"
    raise refused


async def _encrypted(
    brokers: Brokers, client_id: str, host: str, port: int, on_lost: "Callable[[Connection], None]"
) -> Connection:
    context = wire.tls(brokers) if brokers.protocol != "PLAINTEXT" else None
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(client_id, on_lost), host, port, ssl=context, server_hostname=host if context else None
    )
    return connection


async def _login(connection: Connection, username: str, password: str) -> None:
    logging_in = wire.login(username, password)
    api_key, version, body = next(logging_in)
    while True:
        answer = await connection.ask((api_key, version), body)
        try:
            api_key, version, body = logging_in.send(answer)
        except StopIteration:
            return
