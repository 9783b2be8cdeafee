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
from starlette.responses import Response, StreamingResponse

from common.http import protocol
from common.http.app import application
from common.http.connections import ListenerState
from common.http.protocol import Connection as ServedConnection
from common.http.requests import BODY_BYTES_MAX, read_body
from common.http.responses import json_response
from tests.fuzz import oracle
from tests.fuzz.wire import Answer, Connection, Gone, Target
from tests.routes import public_route

HOST = "127.0.0.1"
POSTED = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
ROUNDS = 10
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
        self._state = ListenerState()
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

        async def parts(request: Request) -> Response:
            return StreamingResponse(iter(("one", "two")))

        async def endless(request: Request) -> Response:
            async def lines() -> AsyncIterator[str]:
                yield "one"
                self.arrived.release()
                await asyncio.Event().wait()

            return StreamingResponse(lines())

        routes = [
            public_route("/parts", parts),
            public_route("/endless", endless),
            public_route("/wait", wait),
            public_route("/later", later),
            public_route("/echo", echo, "POST"),
            public_route("/large", large),
        ]
        config = uvicorn.Config(application(routes), http=ServedConnection, ws="none", lifespan="off", log_config=None)
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


@pytest.fixture(autouse=True)
def close_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a test may still send when the usual time is over. The reset then takes the refusal away."""
    monkeypatch.setattr(protocol, "REFUSED_CLOSE_S", 60.0)


def on_a_server(test: Callable[[Served], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def bounded() -> None:
            async with asyncio.timeout(10), serving() as served:
                await test(served)

        uvloop.run(bounded())  # as the services do: it differs in what a closed transport does

    run.__doc__ = test.__doc__
    return run


def get(path: str, request_id: str = "mine") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\nx-request-id: {request_id}\r\n\r\n".encode()


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
    broken = POSTED + b"transfer-encoding: chunked\r\n\r\nzz\r\n"
    connection.send(get("/wait", "first") + broken)
    await served.arrived.acquire()
    served.release.set()
    await answered(connection, "first")
    await refused(connection, 400)


@on_a_server
async def test_a_body_that_breaks_while_it_is_read_is_refused(served: Served) -> None:
    connection = await served.connect()
    connection.send(POSTED + b"transfer-encoding: chunked\r\n\r\n1\r\n1\r\n")
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
    posted = POSTED + b"x-request-id: mine\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    whole = posted * 3 + get("/livez")
    connection.send(whole[:-5])
    for _ in range(3):
        await answered(connection)
    connection.send(whole[-5:])
    await answered(connection)


@on_a_server
async def test_trailers_without_end_are_cut_off(served: Served) -> None:
    connection = await served.connect()
    connection.send(POSTED + b"transfer-encoding: chunked\r\n\r\n0\r\n")
    for _ in range(protocol.REQUEST_BYTES_MAX // 1_000_000 + 2):
        connection.send(b"x: " + b"y" * 1_000_000 + b"\r\n")
        await connection.drained()
    assert await refused(connection, 413) == "/problems/too-large"


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /livez HT",
        b"GET /livez HTTP/1.1\r\nx: y\r\n",
        POSTED + b"content-length: 5\r\n\r\nx",
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
    for _ in range(ROUNDS):  # what is cut off goes in a later round of the loop
        await asyncio.sleep(0)
    assert served.connections
    served.check_time(protocol.UNREAD_S + 1)
    await eventually(lambda: not served.connections)


@on_a_server
async def test_a_large_answer_is_sent_as_its_client_reads_it(served: Served) -> None:
    connection = await served.connect()
    connection.send(get("/large"))
    await eventually(lambda: any(c.flow.write_paused for c in served.connections))
    [held] = served.connections
    assert held.transport.get_write_buffer_size() < LARGE / 4
    assert not held.cycle.response_complete
    connection.half_close()
    await eventually(lambda: held._closing)
    answer = await answered(connection)
    assert answer.body == b"x" * LARGE
    assert await connection.rest() == b""


@on_a_server
async def test_a_connection_that_gives_way_does_not_wait_for_a_client_that_reads_nothing(served: Served) -> None:
    connection = await served.connect()
    connection.send(get("/large"))
    await eventually(lambda: any(c.flow.write_paused for c in served.connections))
    [held] = served.connections
    held.give_way()
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


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
UPGRADES = {
    "h2c": get("/livez")[:-2] + OFFER + b"\r\n",
    "websocket": get("/livez")[:-2] + b"upgrade: websocket\r\nconnection: keep-alive\r\nconnection: upgrade\r\n\r\n",
    "with a body": POSTED + b"x-request-id: mine\r\n" + OFFER + b"content-length: 2\r\n\r\n{}",
    "with chunks": POSTED
    + b"x-request-id: mine\r\n"
    + OFFER
    + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "to a route that there is not": get("/nowhere")[:-2] + OFFER + b"\r\n",
    "with 100-continue": POSTED
    + b"x-request-id: mine\r\n"
    + OFFER
    + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize("name", UPGRADES)
def test_an_offer_to_upgrade_is_ignored(name: str, size: int) -> None:
    """As Java's HttpClient sends it with every request, in one piece or in several."""

    @on_a_server
    async def test(served: Served) -> None:
        connection = await served.connect()
        whole = UPGRADES[name] * 2 + get("/livez", "last")
        for at in range(0, len(whole), size):
            connection.send(whole[at : at + size])
            await connection.drained()
            await asyncio.sleep(0)
        for _ in range(2):
            answer = await connection.answer()
            oracle.judge(answer, request_id=b"mine")
            assert answer.status == (404 if "there is not" in name else 200)
            assert "body" not in name or answer.body == b'{"read":2}'
        await answered(connection, "last")

    test()


REFUSED = {
    501: (
        POSTED + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\nhost: localhost\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    ),
    505: (
        b"GET /livez HTTP/2.0\r\nhost: localhost\r\n\r\n",
        b"GET /livez HTTP/0.9\r\nhost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.2\r\nhost: localhost\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ),
    400: (
        POSTED.replace(b"/1.1", b"/1.0") + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POSTED + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        POSTED + b"content-length: 2, 2\r\n\r\n{}",
        POSTED + b"content-length: 12\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POSTED + b"x: a\r\n b\r\ncontent-length: 2\r\n\r\n{}",
        b"GET ftp://localhost/livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /livez#x HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\nhost: localhost\n\n",
        b"get /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"FROB /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ),
}


@pytest.mark.parametrize(("status", "sent"), [(status, sent) for status in REFUSED for sent in REFUSED[status]])
def test_a_request_in_another_framing_or_version_is_refused(status: int, sent: bytes) -> None:
    @on_a_server
    async def test(served: Served) -> None:
        for pieces in (1, 2, len(sent)):
            connection = await served.connect()
            size = -(-len(sent) // pieces)
            for at in range(0, len(sent), size):
                connection.send(sent[at : at + size])
                await connection.drained()
                await asyncio.sleep(0)
            await refused(connection, status)

    test()


@on_a_server
async def test_a_target_with_a_host_counts_instead_of_the_header(served: Served) -> None:
    connection = await served.connect()
    for target, host, status in (
        (b"http://localhost/livez", b"evil.example", 200),
        (b"HTTP://127.0.0.1:99/livez", b"localhost", 200),
        (b"http://localhost?x=y", b"localhost", 404),
        (b"http://evil.example/livez", b"localhost", 421),
        (b"http://user:secret@localhost/livez", b"localhost", 400),
        (b"http:///livez", b"localhost", 400),
    ):
        connection.send(b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (target, host))
        assert (await connection.answer()).status == status, target


@on_a_server
async def test_options_of_the_whole_server_says_what_it_can_do(served: Served) -> None:
    connection = await served.connect()
    connection.send(b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n" + get("/livez", "next"))
    options = await connection.answer()
    assert (options.status, options.headers[b"allow"]) == (204, b"GET, HEAD, OPTIONS, POST")
    await answered(connection, "next")


@on_a_server
async def test_http_1_0_gets_neither_chunks_nor_interim_answers(served: Served) -> None:
    for sent, body in (
        (b"GET /livez HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", b'{"status":"ok"}'),
        (b"GET /parts HTTP/1.0\r\n\r\n", b"onetwo"),
        (b"HEAD /parts HTTP/1.0\r\n\r\n", b""),
        (POSTED.replace(b"1.1", b"1.0") + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n{}", b'{"read":2}'),
    ):
        connection = await served.connect()
        connection.send(sent)
        head, _, content = (await connection.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in head
        assert b"transfer-encoding" not in head
        assert content == body


@on_a_server
async def test_http_1_1_gets_chunks(served: Served) -> None:
    connection = await served.connect()
    connection.send(get("/parts") + get("/livez", "next"))
    answer = await connection.answer()
    assert (answer.body, answer.headers[b"transfer-encoding"]) == (b"onetwo", b"chunked")
    await answered(connection, "next")


@on_a_server
async def test_a_body_that_was_not_asked_for_ends_the_connection(served: Served) -> None:
    """Whether it is still sent cannot be known: what follows may be the body or the next request."""
    for path, length, status in ((b"/nowhere", 2, 404), (b"/echo", BODY_BYTES_MAX + 1, 413)):
        connection = await served.connect()
        head = POSTED.replace(b"/echo", path) + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % length
        connection.send(head)
        assert (await refused(connection, status)) in ("/problems/not-found", "/problems/too-large")
        assert connection.interim == 0


@on_a_server
async def test_trailers_are_no_headers(served: Served) -> None:
    connection = await served.connect()
    whole = POSTED + b"x-request-id: mine\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nhost: b\r\nx: y\r\n\r\n"
    connection.send(whole + get("/livez", "next"))
    await answered(connection)
    await answered(connection, "next")


@on_a_server
async def test_a_client_that_closes_its_sending_side_gets_its_answers(served: Served) -> None:
    connection = await served.connect()
    connection.send(get("/wait"))
    await served.arrived.acquire()
    connection.half_close()
    await eventually(lambda: all(connection._closing for connection in served.connections))
    served.release.set()
    assert (await answered(connection)).closes
    assert await connection.rest() == b""


@on_a_server
async def test_a_stream_ends_when_its_client_closes_its_sending_side(served: Served) -> None:
    """The client may have gone, and nothing else would show it."""
    connection = await served.connect()
    connection.send(get("/endless"))
    await served.arrived.acquire()
    connection.half_close()
    await eventually(lambda: not served.connections)


async def eventually(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # what it waits for is the server, which has no event for it
        await asyncio.sleep(0)
