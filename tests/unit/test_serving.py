"""How a server begins and ends: no established connection is lost."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn
import uvloop

from common.http import protocol
from common.http.app import application
from common.http.protocol import Connection
from common.http.server import _bind, _Server

HOST = "127.0.0.1"
REQUEST = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"
WAIT_S = 5.0

Act = Callable[[_Server, socket.socket], Coroutine[Any, Any, None]]


def with_a_server(act: Act) -> None:
    async def main() -> None:
        config = uvicorn.Config(application([]), http=Connection, ws="none", lifespan="off", log_config=None)
        config.load()
        server = _Server(config)
        server.lifespan = config.lifespan_class(config)
        listener = _bind(HOST, 0)
        await server.startup([listener])
        await act(server, listener)

    uvloop.run(main())


def connect(listener: socket.socket) -> socket.socket:
    """A client whose connection the kernel has established. The loop has not run since, so the server has not accepted
    it."""
    client = socket.create_connection(listener.getsockname(), timeout=WAIT_S)
    client.setblocking(False)
    return client


async def answer(client: socket.socket) -> bytes:
    """Everything that the server sends until the connection ends."""
    received = b""
    async with asyncio.timeout(WAIT_S):
        while chunk := await asyncio.get_running_loop().sock_recv(client, 4_096):
            received += chunk
    client.close()
    return received


def test_connections_that_wait_to_be_accepted_are_answered_when_the_server_ends() -> None:
    async def act(server: _Server, listener: socket.socket) -> None:
        clients = [connect(listener) for _ in range(20)]
        for client in clients:
            client.send(REQUEST)
        await server.shutdown([listener])
        for client in clients:
            assert (await answer(client)).startswith(b"HTTP/1.1 200 ")

    with_a_server(act)


def test_a_connection_that_was_idle_when_the_server_ends_has_its_next_request_answered() -> None:
    async def act(server: _Server, listener: socket.socket) -> None:
        client = connect(listener)
        client.send(REQUEST)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT_S):
            assert b"connection: close" not in await loop.sock_recv(client, 4_096)
        ending = asyncio.create_task(server.shutdown([listener]))
        while server.servers[0].is_serving():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0)
        client.send(REQUEST)
        assert b"connection: close" in await answer(client)
        await ending

    with_a_server(act)


def test_a_connection_that_stays_idle_is_closed(monkeypatch: Any) -> None:
    monkeypatch.setattr(protocol, "IDLE_CLOSE_S", 0.0)

    async def act(server: _Server, listener: socket.socket) -> None:
        client = connect(listener)
        await server.shutdown([listener])
        assert await answer(client) == b""

    with_a_server(act)
