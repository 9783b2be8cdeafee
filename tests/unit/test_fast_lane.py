"""The fast lane against the ordinary way: the same bytes to both, on real sockets, and the same answers from both."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from common.auth.authenticator import OPEN, Authenticator, Open
from common.auth.principal import Principal, Unauthenticated
from common.database import DatabaseUnavailable
from common.events import OrderId
from common.http import problem
from common.http.app import application
from common.http.connections import ListenerState
from common.http.heads import Hosts
from common.http.limits.buckets import Rate
from common.http.limits.limiter import Limiter
from common.http.limits.settings import RequestLimits
from common.http.problem import ProblemError
from common.http.protocol import Connection
from common.kafka.produce.batch import Acknowledged
from order.api import operations
from order.api.place.fast_lane import HEAD_BYTES_MAX, FastLane, accepted_head, head_reader, read_head, split_own
from order.api.place.single import REPLAYED, PlaceOrder
from tests.unit.order_api import PLACE, Api, FakeLog, FakeRequests
from tests.unit.principals import ByName, principal

HOST = "127.0.0.1"
HOSTS = Hosts()
NO_LIMITS = RequestLimits()
BODY = b'{"customer_id":"cust-1","product_id":"apple","quantity":2}'
WAIT_S = 5.0


def request(*headers: bytes, body: bytes = BODY, line: bytes = b"POST /api/v1/orders HTTP/1.1") -> bytes:
    typed = any(header.lower().startswith(b"content-type:") for header in headers)
    sent = headers if typed else (*headers, b"content-type: application/json")
    return b"\r\n".join([line, b"host: localhost", *sent, b"content-length: %d" % len(body), b"", body])


class SlowLog(FakeLog):
    """Acknowledges when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[asyncio.Future[Acknowledged]] = []
        self.arrived = asyncio.Event()

    def send(self, order_id: OrderId, customer_id: str, value: bytes) -> "asyncio.Future[Acknowledged]":
        sent: asyncio.Future[Acknowledged] = asyncio.get_running_loop().create_future()
        self.sent.append(sent)
        self.arrived.set()
        return sent


class Served:
    """One way of serving an api, on a port of its own."""

    def __init__(
        self,
        api: Api,
        *,
        fast: bool,
        limits: RequestLimits = NO_LIMITS,
        accepted: bytes = accepted_head(),
        auth: Authenticator = OPEN,
    ) -> None:
        self.api = api
        self.ordinary = 0
        self.state = ListenerState()
        endpoint = PlaceOrder(api.desk, api.keyed, api.outcomes)

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self.ordinary += 1
            await endpoint(scope, receive, send)

        app = application([], direct={operations.PLACE: counted}, auth=auth)
        limiter = app.limiter = Limiter(limits)
        config = uvicorn.Config(app, proxy_headers=False, ws="none", lifespan="off", log_config=None)
        config.load()
        kind = (
            partial(
                FastLane,
                desk=api.desk,
                keyed=api.keyed,
                log=api.log,
                read_head=head_reader(HOSTS),
                accepted=accepted,
                limiter=limiter,
                auth=auth,
            )
            if fast
            else Connection
        )
        self._protocol: Callable[[], Connection] = partial(kind, config=config, server_state=self.state, app_state={})

    @property
    def connections(self) -> list[Connection]:
        return [connection for connection in self.state.connections if isinstance(connection, Connection)]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        listener = await asyncio.get_running_loop().create_server(self._protocol, HOST, 0)
        reader, writer = await asyncio.open_connection(HOST, listener.sockets[0].getsockname()[1])
        try:
            yield reader, writer
        finally:
            writer.close()
            listener.close()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """One complete answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None, head
    return head + await asyncio.wait_for(reader.readexactly(int(length[1])), WAIT_S)


def alike(answer: bytes) -> bytes:
    """An answer without its random ids."""
    without_ids = re.sub(rb"[0-9a-f]{8}-[0-9a-f-]{27}", b"ORDER", answer)
    drawn = re.sub(rb'(x-request-id: |"request_id":")[0-9a-f]{16}\b', rb"\1DRAWN", without_ids)
    head, _, body = drawn.partition(b"\r\n\r\n")
    return b"\r\n".join(sorted(head.split(b"\r\n"))) + b"\r\n\r\n" + body


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0)


async def exchange(served: Served, *pieces: bytes) -> bytes:
    """Send the pieces, each once the one before has arrived."""
    async with served.client() as (reader, writer):
        for piece in pieces[:-1]:
            writer.write(piece)
            await until(lambda: any(connection.arriving for connection in served.connections))
        writer.write(pieces[-1])
        return await answer(reader)


def both(
    *pieces: bytes, api: Callable[[], Api] = Api, auth: Callable[[], Authenticator] = lambda: OPEN
) -> tuple[bytes, Served, Served]:
    """Send the same bytes to both, each with an api of its own. The answers must be alike; returns the lane's."""

    async def run() -> tuple[bytes, Served, Served]:
        fast, ordinary = (Served(api(), fast=each, auth=auth()) for each in (True, False))
        fast_answer, ordinary_answer = await exchange(fast, *pieces), await exchange(ordinary, *pieces)
        assert alike(fast_answer) == alike(ordinary_answer)
        return fast_answer, fast, ordinary

    return asyncio.run(run())


def test_the_lane_says_that_the_operation_is_deprecated() -> None:
    further = (("deprecation", "@1793491200"), ("link", '</100%>; rel="deprecation"'))

    async def run() -> bytes:
        return await exchange(Served(Api(), fast=True, accepted=accepted_head(further)), request())

    answered = asyncio.run(run())
    assert answered.startswith(b"HTTP/1.1 202 Accepted\r\n")
    for name, value in further:
        assert f"\r\n{name}: {value}\r\n".encode() in answered


USUAL = {
    "as curl sends it": request(b"User-Agent: curl/8.5.0", b"Accept: */*", b"Content-Type: application/json"),
    "kept alive": request(b"Connection: keep-alive", b"content-type: application/json; charset=utf-8"),
    "as Java sends it": request(
        b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAEAAEAAAAIAAAAB", b"Upgrade: h2c"
    ),
    "with ids of its own": request(
        b"x-request-id: mine-1", b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    ),
    "an id unfit to be repeated": request(b"x-request-id: no t fit"),
    "with a key": request(b"idempotency-key: basket-17"),
    "with an invalid key": request(b"idempotency-key: " + b"x" * 300),
    "several lines": request(
        body=b'{"customer_id":"c","items":[{"product_id":"apple","quantity":1},{"product_id":"pear","quantity":3}]}'
    ),
    "not JSON": request(body=b"{"),
    "nothing": request(body=b""),
    "not UTF-8": request(body=b'{"customer_id":"\xff"}'),
    "not an order": request(body=b'{"customer_id":"c","product_id":"apple","quantity":0,"colour":"red"}'),
    "not for sale": request(body=b'{"customer_id":"c","product_id":"old","quantity":1}'),
    "at another price": request(
        body=b'{"customer_id":"c","product_id":"apple","quantity":1,"expected_amount":1}'
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USUAL)
def test_the_lane_answers_usual_requests_as_the_ordinary_way_does(name: str) -> None:
    _, fast, ordinary = both(USUAL[name])
    assert (fast.ordinary, ordinary.ordinary) == (0, 1)
    for event, other in zip(fast.api.log.placed, ordinary.api.log.placed, strict=True):
        assert event.data.items == other.data.items
        if b"traceparent" in USUAL[name]:
            assert event.traceparent == other.traceparent


UNUSUAL = {
    "another content type": (request(b"content-type: text/plain"),),
    "no content type": (request().replace(b"content-type: application/json\r\n", b""),),
    "another charset": (request(b"content-type: application/json; charset=utf-16"),),
    "a content coding": (request(b"content-encoding: gzip"),),
    "a part": (request(b"content-range: bytes 0-1/2"),),
    "a page of another site": (request(b"origin: https://evil.example"),),
    "a page of its own": (request(b"origin: http://localhost"),),
    "an image on a page of another site": (request(b"sec-fetch-site: cross-site"),),
    "another host": (request().replace(b"localhost", b"evil.example"),),
    "no host at all": (request().replace(b"localhost", b""),),
    "an upgrade and a wish to close": (request(b"connection: upgrade, close", b"upgrade: h2c"),),
    "an upgrade in pieces": (
        request(b"connection: upgrade", b"upgrade: h2c")[:70],
        request(b"connection: upgrade", b"upgrade: h2c")[70:],
    ),
    "a preference to wait": (request(b"prefer: wait=0"),),
    "a request to close": (request(b"connection: close"),),
    "HTTP/1.0": (request(line=b"POST /api/v1/orders HTTP/1.0"),),
    "a query": (request(line=b"POST /api/v1/orders?x=1 HTTP/1.1"),),
    "two proxies' words": (request(b"x-forwarded-for: 192.0.2.1", b"x-forwarded-for: 192.0.2.2"),),
    "two keys": (request(b"idempotency-key: a", b"idempotency-key: b"),),
    "two keys, one of unusual form": (request(b"idempotency-key: a", b"Idempotency-Key:b"),),
    "a key of unusual form": (request(b"idempotency-key:  a "),),
    "a key that is empty": (request(b"idempotency-key: "),),
    "two trace contexts": (request(b"traceparent: a", b"traceparent: b"),),
    "a trace context of unusual form": (
        request(b"traceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ),
    "two request ids": (request(b"x-request-id: a", b"X-Request-Id: b"),),
    "a folded header": (request(b"x-long: a", b" b"),),
    "an empty header": (request(b"x-empty:"),),
    "a long head": (request(b"x-long: " + b"a" * HEAD_BYTES_MAX),),
    "chunks": (
        b"POST /api/v1/orders HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    ),
    "two pieces": (request()[:70], request()[70:]),
    "two hosts": (request(b"host: other"),),
    "no host": (request().replace(b"host: localhost\r\n", b""),),
    "two lengths": (request(b"content-length: 5"),),
    "an invalid length": (request(b"content-length: +5"),),
    "not HTTP": (b"POST /api/v1/orders HTTP/1.1\r\nno header\r\n\r\n",),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_requests_go_the_ordinary_way(name: str) -> None:
    _, fast, ordinary = both(*UNUSUAL[name])
    assert fast.ordinary == ordinary.ordinary
    for event, other in zip(fast.api.log.placed, ordinary.api.log.placed, strict=True):
        assert (event.traceparent[:35] == other.traceparent[:35]) == (b"traceparent:00" in UNUSUAL[name][0])


REFUSED = {
    "no catalogue": lambda: Api(products={}),
    "no log": lambda: Api(FakeLog(refused=problem.unavailable("full"))),
    "nobody knows": lambda: Api(FakeLog(fails=ProblemError(problem.unavailable("unknown", order_id="x")))),
    "a bug": lambda: Api(FakeLog(fails=RuntimeError("bug"))),
}


KEY = pytest.mark.parametrize("key", [(), (b"idempotency-key: k",)], ids=["unkeyed", "keyed"])


@KEY
@pytest.mark.parametrize("name", REFUSED)
def test_both_ways_answer_a_failure_alike(name: str, key: tuple[bytes, ...]) -> None:
    answer, fast, _ = both(request(*key), api=REFUSED[name])
    assert fast.ordinary == 0
    assert answer.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 500 "))


def test_both_ways_answer_a_key_alike_whose_database_is_away() -> None:
    answer, fast, _ = both(request(b"idempotency-key: k"), api=lambda: Api(requests=FakeRequests(away=True)))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert fast.ordinary == len(fast.api.log.placed) == 0


def test_both_ways_answer_a_key_alike_that_the_database_could_not_store() -> None:
    async def run(fast: bool) -> bytes:
        requests = FakeRequests(slow=True)
        served = Served(Api(requests=requests), fast=fast)
        async with served.client() as (reader, writer):
            writer.write(request(b"idempotency-key: k"))
            await until(lambda: hasattr(requests, "pending"))
            requests.pending.set_exception(DatabaseUnavailable("gone"))
            answered = await answer(reader)
            assert answered.startswith(b"HTTP/1.1 503 ")
            assert served.api.log.placed == []
            return alike(answered)

    assert asyncio.run(run(True)) == asyncio.run(run(False))


def test_an_order_that_is_in_the_log_is_not_sent_again() -> None:
    async def run() -> None:
        requests = FakeRequests()
        served = Served(Api(requests=requests), fast=True)
        first = await exchange(served, request(b"idempotency-key: k"))
        requests.stored = {key: stored._replace(in_log=True) for key, stored in requests.stored.items()}
        again = await exchange(served, request(b"idempotency-key: k"))
        assert first.rpartition(b"\r\n\r\n")[2] == again.rpartition(b"\r\n\r\n")[2]
        assert len(served.api.log.placed) == 1

    asyncio.run(run())


def test_a_head_is_parsed_once_whatever_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def read(lines: bytes, hosts: Hosts) -> int | None:
        parsed.append(lines)
        return read_head(lines, hosts)

    monkeypatch.setattr("order.api.place.fast_lane.read_head", read)

    async def run() -> None:
        served = Served(Api(), fast=True)
        for number in range(3):
            own = (b"idempotency-key: %d" % number, b"X-Request-Id: %d" % number)
            assert (await exchange(served, request(*own))).startswith(b"HTTP/1.1 202 ")

    asyncio.run(run())
    assert len(parsed) == 1


@pytest.mark.parametrize(("body", "status"), [(BODY, 202), (BODY.replace(b"2}", b"3}"), 422)])
def test_both_ways_answer_a_key_alike_that_came_before(body: bytes, status: int) -> None:
    async def run() -> None:
        fast, ordinary = (Served(Api(), fast=each) for each in (True, False))
        for served in (fast, ordinary):
            await exchange(served, request(b"idempotency-key: k"))
        again = request(b"idempotency-key: k", body=body)
        got = await exchange(fast, again)
        assert got.startswith(b"HTTP/1.1 %d " % status)
        assert (b"\r\n%b: %b\r\n" % REPLAYED in got) == (status == 202)
        assert alike(got) == alike(await exchange(ordinary, again))
        assert fast.ordinary == 0
        assert len({event.subject for event in fast.api.log.placed}) == 1

    asyncio.run(run())


FORWARDED = b"x-forwarded-for: 192.0.2.%d"
BEHIND_A_PROXY = RequestLimits(address=Rate(1, 2), trusted_proxies=(ip_network("127.0.0.0/8"),))


@pytest.mark.parametrize(
    ("limits", "answered"),
    [
        (RequestLimits(address=Rate(1, 2)), [202, 202, 429, 429]),
        (BEHIND_A_PROXY, [202, 202, 429, 202]),
    ],
)
def test_both_ways_limit_the_requests_of_an_address_alike(limits: RequestLimits, answered: list[int]) -> None:
    async def run() -> None:
        fast, ordinary = (Served(Api(), fast=fast, limits=limits) for fast in (True, False))
        for status, number in zip(answered, (1, 1, 1, 2), strict=True):
            sent = request(FORWARDED % number)
            got = await exchange(fast, sent)
            assert got.startswith(b"HTTP/1.1 %d " % status)
            assert alike(got) == alike(await exchange(ordinary, sent))
        assert fast.ordinary == 0
        assert len(fast.api.log.placed) == answered.count(202)

    asyncio.run(run())


def test_both_ways_limit_a_principal_alike() -> None:
    async def run() -> None:
        limits = RequestLimits(customer=Rate(1, 2))
        names = ("cust-1", "cust-1", "cust-1", "cust-2")
        fast, ordinary = (
            Served(Api(), fast=fast, limits=limits, auth=ByName(principal("cust-1"), principal("cust-2")))
            for fast in (True, False)
        )
        for status, name in zip([202, 202, 429, 202], names, strict=True):
            sent = request(b"authorization: Bearer " + name.encode(), body=BODY.replace(b"cust-1", name.encode()))
            got = await exchange(fast, sent)
            assert got.startswith(b"HTTP/1.1 %d " % status)
            assert alike(got) == alike(await exchange(ordinary, sent))
        assert fast.ordinary == 2  # the first of each: its credentials are not known yet

    asyncio.run(run())


def test_a_head_is_read_the_same_whatever_its_order_and_case() -> None:
    head = read_head(b"\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Type: application/json", HOSTS)
    other = read_head(b"\r\ncontent-length: \t5 \r\nhost:localhost\r\ncontent-type: application/json", HOSTS)
    assert head == other == 5


@pytest.mark.parametrize(
    ("lines", "rest", "own"),
    [
        (b"\r\nhost: h\r\nauthorization: Bearer a\r\nx: y", b"\r\nhost: h\r\nx: y", {b"authorization": b"Bearer a"}),
        (b"\r\nAuthorization: Bearer a\r\nhost: h", b"\r\nhost: h", {b"authorization": b"Bearer a"}),
        (b"\r\nhost: h\r\nX-Request-ID: r", b"\r\nhost: h", {b"x-request-id": b"r"}),
        (
            b"\r\nidempotency-key: k\r\nhost: h\r\ntraceparent: t\r\nx-forwarded-for: a, b",
            b"\r\nhost: h",
            {b"idempotency-key": b"k", b"traceparent": b"t", b"x-forwarded-for": b"a, b"},
        ),
        *(
            (lines, lines, {})
            for lines in (
                b"\r\nhost: h\r\nx-authorization: Bearer a",
                b"\r\nhost: h\r\nx: authorization: Bearer a",
                b"\r\nauthorization: a\r\nauthorization: b",
                b"\r\nAuthorization: a\r\nidempotency-key: k\r\nauthorization: b",
                b"\r\nauthorization:  a\r\nx: y",
                b"\r\nauthorization: a \r\nx: y",
                b"\r\nidempotency-key:k",
                b"\r\nidempotency-key: ",
                b"\r\nidempotency-key: k\x80",
                b"\r\nidempotency-key: k\n",
                b"",
            )
        ),
    ],
)
def test_what_each_request_has_of_its_own_is_taken_out_of_a_head(
    lines: bytes, rest: bytes, own: dict[bytes, bytes]
) -> None:
    assert split_own(lines) == (rest, own)


@pytest.mark.parametrize(
    "credentials",
    [
        (b"authorization: Bearer ann", b"Authorization: Bearer shop"),
        (b"authorization: Bearer ann", b"AUTHORIZATION: Bearer ann"),
        (b"authorization:Bearer ann",),
        (b"authorization:  Bearer ann",),
        (b"authorization: Bearer ann ",),
        (b"authorization: Bearer ann\r\n folded",),
        (b"authorization: Bearer\tann",),
    ],
)
def test_credentials_of_unusual_form_are_judged_the_ordinary_way(credentials: tuple[bytes, ...]) -> None:
    answered, lane, _ = both(request(*credentials), auth=remembers)
    assert lane.ordinary == (answered.split()[1] == b"202")


@asynccontextmanager
async def order_on_its_way(
    *headers: bytes,
) -> AsyncIterator[tuple[Served, SlowLog, asyncio.StreamReader, asyncio.StreamWriter]]:
    """An order that the log has not acknowledged yet: the server, its log, and the client's connection."""
    log = SlowLog()
    served = Served(Api(log), fast=True)
    async with served.client() as (reader, writer):
        writer.write(request(*headers))
        await asyncio.wait_for(log.arrived.wait(), WAIT_S)
        yield served, log, reader, writer


def test_requests_sent_ahead_are_answered_in_turn_and_each_once() -> None:
    async def run() -> None:
        async with order_on_its_way(b"x-request-id: first") as (_, log, reader, writer):
            writer.write(request(b"x-request-id: second") + request(b"x-request-id: third"))
            await writer.drain()
            for name in (b"first", b"second", b"third"):
                log.arrived.clear()
                log.sent.pop().set_result(PLACE)
                assert b"x-request-id: %b\r\n" % name in await answer(reader)
                if name != b"third":
                    await asyncio.wait_for(log.arrived.wait(), WAIT_S)
        assert log.sent == []

    asyncio.run(run())


@KEY
def test_a_server_that_ends_answers_the_requests_it_has_and_closes(key: tuple[bytes, ...]) -> None:
    async def run() -> None:
        async with order_on_its_way(*key) as (served, log, reader, _):
            [connection] = served.connections
            connection.shutdown()
            log.sent.pop().set_result(PLACE)
            received = await answer(reader)
            assert received.startswith(b"HTTP/1.1 202 ")
            assert b"\r\nconnection: close\r\n" in received
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""

    asyncio.run(run())


@KEY
def test_a_client_that_closes_its_sending_side_gets_its_answer(key: tuple[bytes, ...]) -> None:
    async def run() -> None:
        async with order_on_its_way(*key) as (served, log, reader, writer):
            writer.write_eof()
            await until(lambda: all(connection._closing for connection in served.connections))
            log.sent.pop().set_result(PLACE)
            assert b"\r\nconnection: close\r\n" in await answer(reader)
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""

    asyncio.run(run())


async def leave(served: Served, writer: asyncio.StreamWriter) -> None:
    """Reset the client's connection, and wait until the server has seen that."""
    end: socket.socket = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    await until(lambda: not served.connections)


@KEY
def test_an_order_stands_although_its_client_has_gone(key: tuple[bytes, ...], caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with order_on_its_way(*key) as (served, log, _, writer):
            await leave(served, writer)
            log.sent.pop().set_result(PLACE)
            await asyncio.sleep(0)
            assert served.state.total_requests == 0  # nothing is written to a connection that is closed

    asyncio.run(run())
    assert caplog.records == []


def test_an_order_whose_key_is_stored_goes_into_the_log_although_its_client_has_gone() -> None:
    async def run() -> None:
        requests = FakeRequests(slow=True)
        served = Served(Api(requests=requests), fast=True)
        async with served.client() as (_, writer):
            writer.write(request(b"idempotency-key: k"))
            await until(lambda: hasattr(requests, "pending"))
            await leave(served, writer)
            requests.pending.set_result(requests.asked.first)
            await asyncio.sleep(0)
        assert len(served.api.log.placed) == 1

    asyncio.run(run())


def test_an_idle_connection_is_closed_and_a_used_one_is_not() -> None:
    async def run() -> None:
        served = Served(Api(), fast=True)
        async with served.client() as (reader, writer):
            writer.write(request())
            await answer(reader)
            [connection] = served.connections
            connection.timeout_keep_alive_handler()  # too early: it checks again later
            writer.write(request())
            await answer(reader)
            connection.timeout_keep_alive = 0
            connection.timeout_keep_alive_handler()
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""

    asyncio.run(run())


# Who asks


class Remembers(Open):
    """Remembers these, and learns of the others when it is asked the ordinary way."""

    def __init__(self, **principals: Principal) -> None:
        self.people = {f"Bearer {name}".encode(): principal for name, principal in principals.items()}
        self.remembered = dict(self.people)

    def known(self, authorization: bytes | None) -> Principal | None:
        return self.remembered.get(authorization or b"")

    async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
        if not authorizations or authorizations[0] not in self.people:
            raise Unauthenticated("the token has expired")
        self.remembered[authorizations[0]] = self.people[authorizations[0]]
        return self.people[authorizations[0]]


def remembers() -> Remembers:
    def principal(subject: str, *scopes: str) -> Principal:
        return Principal(subject, frozenset(scopes), 2e9, "token")

    return Remembers(
        ann=principal("cust-1", "customer"), bob=principal("cust-2", "customer"), shop=principal("shop", "merchant"),
        auditor=principal("a", "auditor"), both=principal("cust-2", "customer", "merchant"),
    )  # fmt: skip


@KEY
@pytest.mark.parametrize(
    ("name", "status", "fast"),
    [("ann", 202, True), ("shop", 202, True), ("both", 202, True), ("bob", 403, True), ("auditor", 403, False),
     ("nobody", 401, False), (None, 401, False)],
)  # fmt: skip
def test_the_lane_lets_in_whom_the_ordinary_way_lets_in(
    name: str | None, status: int, fast: bool, key: tuple[bytes, ...]
) -> None:
    headers = () if name is None else (f"authorization: Bearer {name}".encode(),)
    answered, lane, _ = both(request(*headers, *key), auth=remembers)
    assert int(answered.split()[1]) == status
    assert lane.ordinary == (not fast and status == 202)
    assert [order.data.customer_id for order in lane.api.log.placed] == (["cust-1"] if status == 202 else [])


def test_credentials_that_are_new_are_verified_once_and_then_served_fast() -> None:
    async def run() -> tuple[Served, list[bytes]]:
        auth = remembers()
        auth.remembered.clear()
        served = Served(Api(), fast=True, auth=auth)
        asked = request(b"authorization: Bearer ann")
        return served, [await exchange(served, asked) for _ in range(3)]

    served, answers = asyncio.run(run())
    assert [answered.split()[1] for answered in answers] == [b"202"] * 3
    assert served.ordinary == 1


def test_two_sets_of_credentials_are_not_served_fast() -> None:
    answered, lane, _ = both(request(b"authorization: Bearer ann", b"authorization: Bearer shop"), auth=lambda: OPEN)
    assert answered.split()[1] == b"202"
    assert lane.ordinary == 1
