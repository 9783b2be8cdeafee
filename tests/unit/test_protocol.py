"""The limits of a connection, on real sockets; the test sets the time."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.server import ServerState

from common.http import protocol
from common.http.app import application, nothing_missing
from common.http.protocol import Connection as ServedConnection
from common.http.requests import read_body
from common.http.responses import json_response
from tests.fuzz import oracle
from tests.fuzz.wire import Answer, Connection, Gone, Target

HOST = "127.0.0.1"
LARGE = 8 * 1024 * 1024


class Kept(logging.Handler):
    """Keeps the lines of a log."""

    def __init__(self, lines: list[logging.LogRecord]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record)


class Served:
    """A server of one small application. `release` lets the requests to /wait be answered, `later` those to /later."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.later = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)
        self._state = ServerState()
        self._listener: asyncio.Server | None = None
        self._clients: list[Connection] = []

    async def start(self) -> None:
        async def wait(request: Request) -> Response:
            self.arrived.release()
            await self.release.wait()
            return json_response({"waited": True})

        async def later(request: Request) -> Response:
            await self.later.wait()
            return json_response({"waited": True})

        async def echo(request: Request) -> Response:
            return json_response({"read": len(await read_body(request))})

        async def large(request: Request) -> Response:
            return Response(b"x" * LARGE, media_type="text/plain")

        routes = [
            Route("/wait", wait),
            Route("/later", later),
            Route("/echo", echo, methods=["POST"]),
            Route("/large", large),
        ]
        config = uvicorn.Config(
            application(routes, nothing_missing), http=ServedConnection, ws="none", lifespan="off", log_config=None
        )
        config.load()
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: ServedConnection(config=config, server_state=self._state, app_state={}), HOST, 0
        )

    async def connect(self) -> Connection:
        assert self._listener is not None
        self._clients.append(await Connection.open(Target(HOST, self._listener.sockets[0].getsockname()[1])))
        return self._clients[-1]

    @property
    def tasks(self) -> "set[asyncio.Task[None]]":
        return self._state.tasks

    @property
    def connections(self) -> list[ServedConnection]:
        return [connection for connection in self._state.connections if isinstance(connection, ServedConnection)]

    def check_time(self, after_s: float) -> None:
        """What the server does, this many seconds later."""
        now = asyncio.get_running_loop().time()
        for connection in self.connections:
            connection.check_time(now + after_s)

    async def stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self.release.set()
        self.later.set()
        for client in self._clients:
            client.reset()
        await eventually(lambda: not self.connections)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    served = Served()
    await served.start()
    try:
        yield served
    finally:
        await served.stop()


def on_a_server(test: Callable[[Served], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def bounded() -> None:
            async with asyncio.timeout(10), serving() as served:
                await test(served)

        uvloop.run(bounded())  # as the services do: it differs in what a closed transport does

    run.__doc__ = test.__doc__
    return run


def get(path: str, request_id: str = "mine") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: a\r\nx-request-id: {request_id}\r\n\r\n".encode()


async def refused(connection: Connection, status: int) -> str:
    """The connection's last answer must be this refusal; returns its type."""
    answer = await connection.answer()
    oracle.judge(answer)
    assert answer.status == status, answer
    assert answer.closes
    with pytest.raises(Gone):
        await connection.answer()
    return oracle.problem_type(answer)


async def answered(connection: Connection, request_id: str = "mine") -> Answer:
    answer = await connection.answer()
    oracle.judge(answer, request_id=request_id.encode())
    assert answer.status == 200, answer
    return answer


GARBAGE = b"\0\0\0\r\n\r\n"


@on_a_server
async def test_a_request_that_cannot_be_parsed_is_refused(served: Served) -> None:
    connection = await served.connect()
    connection.send(GARBAGE)
    assert await refused(connection, 400) == "/problems/malformed-request"


@on_a_server
async def test_a_refusal_waits_for_the_answers_before_it(served: Served) -> None:
    """Otherwise the client would take it for the answer to the first request."""
    connection = await served.connect()
    connection.send(get("/wait", "first") + get("/livez", "second") + GARBAGE + get("/livez", "third"))
    await served.arrived.acquire()
    connection.send(get("/livez", "fourth"))
    served.release.set()
    await answered(connection, "first")
    await answered(connection, "second")
    await refused(connection, 400)


@on_a_server
async def test_a_broken_body_is_refused_in_its_turn(served: Served) -> None:
    connection = await served.connect()
    broken = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    connection.send(get("/wait", "first") + broken)
    await served.arrived.acquire()
    served.release.set()
    await answered(connection, "first")
    await refused(connection, 400)


@on_a_server
async def test_a_body_that_breaks_while_it_is_read_is_refused(served: Served) -> None:
    connection = await served.connect()
    connection.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n")
    await asyncio.sleep(0)
    connection.send(b"zz\r\n")
    await refused(connection, 400)


@on_a_server
async def test_pipelining_is_bounded(served: Served) -> None:
    connection = await served.connect()
    connection.send(get("/wait", "0") + b"".join(get("/livez", f"{i}") for i in range(1, 1_000)))
    await served.arrived.acquire()
    served.release.set()
    for number in range(protocol.PIPELINED_MAX + 1):
        await answered(connection, f"{number}")
    assert await refused(connection, 400) == "/problems/too-many-pipelined"


@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize(
    "head", [b"x: " + b"y" * 40_000, b"\r\n".join(b"x%d: y" % i for i in range(5_000))], ids=["long", "many"]
)
def test_a_head_is_bounded(head: bytes, pieces: int) -> None:
    @on_a_server
    async def test(served: Served) -> None:
        connection = await served.connect()
        whole = b"GET /livez HTTP/1.1\r\n" + head + b"\r\n\r\n"
        size = len(whole) // pieces + 1
        for at in range(0, len(whole), size):
            connection.send(whole[at : at + size])
            await connection.drained()
            await asyncio.sleep(0.001)
        assert await refused(connection, 431) == "/problems/head-too-large"

    test()


@on_a_server
async def test_a_head_that_begins_behind_a_large_body_is_not_held_for_large(served: Served) -> None:
    connection = await served.connect()
    body = b"x" * 60_000
    posted = b"POST /echo HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    whole = posted * 3 + get("/livez")
    connection.send(whole[:-5])
    for _ in range(3):
        await answered(connection)
    connection.send(whole[-5:])
    await answered(connection)


@on_a_server
async def test_trailers_without_end_are_cut_off(served: Served) -> None:
    connection = await served.connect()
    connection.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
    for _ in range(protocol.REQUEST_BYTES_MAX // 1_000_000 + 2):
        connection.send(b"x: " + b"y" * 1_000_000 + b"\r\n")
        await connection.drained()
    assert await refused(connection, 413) == "/problems/too-large"


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /livez HT",
        b"GET /livez HTTP/1.1\r\nx: y\r\n",
        b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nx",
    ],
)
def test_a_request_that_does_not_arrive_in_time_is_refused(begun: bytes) -> None:
    @on_a_server
    async def test(served: Served) -> None:
        connection = await served.connect()
        connection.send(get("/livez"))
        await answered(connection)
        connection.send(begun)
        await eventually(lambda: any(c.arriving for c in served.connections))
        served.check_time(protocol.ARRIVE_S - 1)
        served.check_time(protocol.ARRIVE_S + 1)
        assert await refused(connection, 408) == "/problems/too-slow"

    test()


@on_a_server
async def test_a_connection_without_a_request_is_closed_silently(served: Served) -> None:
    for sent in (b"", b"\r\n"):
        connection = await served.connect()
        connection.send(sent)
        await eventually(lambda: len(served.connections) == 1)
        served.check_time(protocol.ARRIVE_S + 1)
        assert await connection.rest() == b""
        await eventually(lambda: not served.connections)


@on_a_server
async def test_an_empty_line_does_not_keep_a_connection_open(served: Served) -> None:
    """It stops uvicorn's own timer."""
    connection = await served.connect()
    connection.send(get("/livez"))
    await answered(connection)
    connection.send(b"\r\n")
    await eventually(lambda: all(c.timeout_keep_alive_task is None for c in served.connections))
    served.check_time(0)
    served.check_time(protocol.ARRIVE_S + 1)
    assert await connection.rest() == b""


@on_a_server
async def test_a_client_that_waits_for_its_answer_is_not_cut_off(served: Served) -> None:
    connection = await served.connect()
    connection.send(get("/wait"))
    await served.arrived.acquire()
    served.check_time(0)
    served.check_time(100 * protocol.ARRIVE_S)
    served.release.set()
    await answered(connection)


@on_a_server
async def test_a_client_that_does_not_read_is_cut_off(served: Served) -> None:
    connection = await served.connect()
    connection.send(get("/large"))
    await eventually(lambda: any(c.transport.get_write_buffer_size() for c in served.connections))
    served.check_time(0)
    served.check_time(protocol.UNREAD_S - 1)
    assert served.connections
    served.check_time(protocol.UNREAD_S + 1)
    await eventually(lambda: not served.connections)


@on_a_server
async def test_a_client_that_pipelines_and_goes_away_leaves_no_traceback(served: Served) -> None:
    complaints: list[logging.LogRecord] = []
    handler = Kept(complaints)
    logging.getLogger("uvicorn.error").addHandler(handler)
    try:
        connection = await served.connect()
        connection.send(get("/wait") + get("/later") + get("/livez"))
        served.release.set()
        await answered(connection)
        connection.reset()
        await eventually(lambda: not served.connections)
        served.later.set()
        await eventually(lambda: not served.tasks)
        assert complaints == []
    finally:
        logging.getLogger("uvicorn.error").removeHandler(handler)


@on_a_server
async def test_an_upgrade_is_ignored_but_not_with_a_body(served: Served) -> None:
    connection = await served.connect()
    upgrade = get("/livez")[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
    connection.send(upgrade + get("/livez", "next"))
    await answered(connection)
    await answered(connection, "next")
    connection.send(
        upgrade.replace(b"GET /livez", b"POST /echo").replace(b"\r\n\r\n", b"\r\ncontent-length: 2\r\n\r\n{}")
    )
    await refused(connection, 400)


async def eventually(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # what it waits for is the server, which has no event for it
        await asyncio.sleep(0)
