"""How a server begins and ends: no established connection is lost."""

import asyncio
import errno
import gc
import re
import select
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import uvicorn
import uvloop

from common.auth.authenticator import OPEN
from common.config.env import Env
from common.config.process import process_settings
from common.http import protocol
from common.http.app import application
from common.http.connections import Gate
from common.http.protocol import Connection
from common.http.server import _bind, _Server, drop_handshakes, serve
from common.tls.certificate import ServerCertificate

HOST = "127.0.0.1"
REQUEST = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
WAIT_S = 5.0
ROUNDS = 10

Act = Callable[[_Server, socket.socket], Coroutine[Any, Any, None]]


def with_a_server(act: Act, gate: Gate | None = None, certificate: ServerCertificate | None = None) -> None:
    async def main() -> None:
        config = uvicorn.Config(application([]), http=Connection, ws="none", lifespan="off", log_config=None)
        config.load()
        server = _Server(config, gate, certificate)
        server.lifespan = config.lifespan_class(config)
        listener = _bind(HOST, 0)
        await server.startup([listener])
        try:
            await act(server, listener)
        finally:
            if server.servers[0].is_serving():
                await server.shutdown([listener])

    uvloop.run(main())


def test_what_a_task_makes_is_left_to_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the clients of a first run that fails would never be freed."""

    class Begun(Exception):
        """Ends the server before it serves."""

    class Task:
        def start(self) -> None:
            raise Begun(gc.get_freeze_count())

        def stop(self) -> None:
            """Nothing runs."""

    settings = process_settings(Env("test", {"DB": "postgresql://x", "AUTH": "off"}), database="DB", port=1)
    settings = replace(settings, port=0, admin_port=0)
    threshold = gc.get_threshold()
    gc.unfreeze()
    with ExitStack() as ending:
        ending.callback(gc.set_threshold, *threshold)
        ending.callback(gc.unfreeze)
        monkeypatch.setattr("common.http.server._bind", lambda *address: ending.enter_context(_bind(*address)))
        with pytest.raises(Begun) as begun:
            uvloop.run(serve(application([], auth=OPEN), settings, [Task()]))
        assert begun.value.args[0] > 0


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


def test_no_connection_begins_at_a_listener_that_is_about_to_close() -> None:
    with _bind(HOST, 0) as listener:
        listener.listen(8)
        before = connect(listener)
        drop_handshakes(listener)
        with socket.socket() as late:
            late.setblocking(False)
            assert late.connect_ex(listener.getsockname()) == errno.EINPROGRESS
            assert select.select([], [late], [], 0)[1] == []  # over the loopback, a handshake takes no time
        accepted, _ = listener.accept()
        accepted.send(b"x")
        assert before.recv(1) == b"x"
        with pytest.raises(BlockingIOError):
            listener.accept()
        for connection in (accepted, before):
            connection.close()


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


def test_a_server_that_is_told_to_stop_does_so_at_once() -> None:
    async def act(server: _Server, _: socket.socket) -> None:
        serving = asyncio.create_task(server.main_loop())
        await asyncio.sleep(0)
        server.stop()
        for _round in range(ROUNDS):
            await asyncio.sleep(0)
        assert serving.done()

    with_a_server(act)


def test_every_answer_has_a_date_and_forbids_caching() -> None:
    async def act(server: _Server, listener: socket.socket) -> None:
        await server.on_tick(0)
        for sent in (
            REQUEST,
            REQUEST.replace(b"/livez", b"/nowhere"),
            REQUEST.replace(b"localhost", b"x y"),
            b"x\r\n\r\n",
        ):
            client = connect(listener)
            client.send(sent.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            head = (await answer(client)).lower()
            [date] = re.findall(rb"\r\ndate: (.+?)\r\n", head)
            sent_at = parsedate_to_datetime(date.decode())
            assert abs((datetime.now(UTC) - sent_at).total_seconds()) < WAIT_S
            assert head.count(b"cache-control: no-store") == 1

    with_a_server(act)


def test_half_sent_requests_do_not_keep_other_clients_out() -> None:
    async def act(server: _Server, listener: socket.socket) -> None:
        clients = [connect(listener) for _ in range(60)]
        for client in clients:
            client.send(REQUEST[:-2])
        for _ in range(3):
            asking = connect(listener)
            asking.send(REQUEST.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            assert (await answer(asking)).startswith(b"HTTP/1.1 200 ")
        assert len(server.server_state.connections) <= 20
        closed = await answer(clients[0])
        for client in clients[1:]:
            client.close()
        assert closed == b"" or closed.startswith(b"HTTP/1.1 503 ")

    with_a_server(act, Gate(limit=20))


def test_a_client_without_room_gets_503() -> None:
    async def act(server: _Server, listener: socket.socket) -> None:
        busy = [connect(listener) for _ in range(3)]
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT_S):
            for client in busy:
                client.send(REQUEST)
                await loop.sock_recv(client, 4_096)
        connections = [c for c in server.server_state.connections if isinstance(c, Connection)]
        for connection in connections:
            connection._unanswered = 1  # as if each were being answered
        refused = await answer(connect(listener))
        for connection, client in zip(connections, busy, strict=True):
            connection._unanswered = 0
            client.close()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in refused

    with_a_server(act, Gate(limit=4))
