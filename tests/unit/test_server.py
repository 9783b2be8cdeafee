"""The answers that every service gives, whatever its routes."""

import asyncio

import httpx
import pytest
from loguru import logger
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from common.auth.authenticator import OPEN
from common.database import DatabaseUnavailable
from common.http.app import UNKNOWN, Frame, application
from common.http.contract.operation import Method
from common.http.repeats import REPORT_EVERY_S, Repeats
from common.http.responses import json_response
from tests.routes import public, public_route


async def things(_: Request) -> Response:
    return json_response([])


async def fail(_: Request) -> Response:
    raise LookupError("nobody foresaw this")


async def make(scope: Scope, receive: Receive, send: Send) -> None:
    await json_response({}, 201)(scope, receive, send)


APP = application(
    [
        public_route("/things", things),
        public_route("/things", things, "PUT"),
        public_route("/things/{thing_id}", things),
        public_route("/fails", fail),
    ],
    direct={public("/things", "POST"): make},
    auth=OPEN,
)


def answer(method: str, path: str, app: Frame = APP) -> httpx.Response:
    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.request(method, path)

    return asyncio.run(request())


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/things", "GET, HEAD, OPTIONS, POST, PUT"),
        ("POST", "/things/7", "GET, HEAD, OPTIONS"),
        ("POST", "/livez", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_refused_method_is_answered_with_the_allowed_ones(method: str, path: str, allow: str) -> None:
    response = answer(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert response.json()["type"] == "/problems/method-not-allowed"


def test_an_error_that_nobody_foresaw_is_logged_once_and_leaves_the_connection_open() -> None:
    """An error that leaves the application is logged by uvicorn, too, which then closes the connection."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="ERROR", format="{message} {exception}")
    try:
        response = answer("GET", "/fails")
    finally:
        logger.remove(sink)
    assert (response.status_code, response.json()["type"]) == (500, "/problems/internal")
    assert "connection" not in response.headers
    [line] = lines
    assert "unhandled error" in line
    assert "nobody foresaw this" in line


def test_a_first_error_is_an_increase() -> None:
    counted = answer("GET", "/metrics").text
    for method in ("GET", "PUT", "POST"):
        assert f'tandem_http_requests_total{{method="{method}",route="/things",status="500"}} 0.0' in counted


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [
        ("/things", 204, "GET, HEAD, OPTIONS, POST, PUT"),
        ("/things/7", 204, "GET, HEAD, OPTIONS"),
        ("/nowhere", 404, None),
    ],
)
def test_options_says_which_methods_a_path_takes(path: str, status: int, allow: str | None) -> None:
    given = answer("OPTIONS", path)
    assert (given.status_code, given.headers.get("allow")) == (status, allow)


@pytest.mark.parametrize("path", ["/things/", "/things//", "//things", "/livez/", "/nowhere"])
def test_another_spelling_of_a_path_is_not_found_and_not_sent_elsewhere(path: str) -> None:
    response = answer("GET", path)
    assert response.status_code == 404
    assert "location" not in response.headers


@pytest.mark.parametrize(
    ("method", "unchanged", "outcome"),
    [
        ("GET", False, ""),
        ("POST", True, "; nothing was changed"),
        ("POST", False, f"; {UNKNOWN}"),
        ("PUT", False, f"; {UNKNOWN}"),
    ],
)
def test_a_write_whose_commit_got_no_answer_may_have_changed_something(
    method: Method, unchanged: bool, outcome: str
) -> None:
    async def fail(_: Request) -> Response:
        raise DatabaseUnavailable("the payment database failed: lost", unchanged=unchanged)

    app = application([public_route("/deposits", fail, method)])
    response = answer(method, "/deposits", app)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["detail"] == f"the payment database failed: lost{outcome}"


@pytest.mark.parametrize("hosts", [[], [(b"host", b"localhost"), (b"host", b"localhost")]], ids=["none", "two"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_without_exactly_one_host_is_refused_under_its_own_id(
    method: str, hosts: list[tuple[bytes, bytes]]
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("the body is not read")

    headers = [*hosts, (b"x-request-id", b"mine")]
    scope = {"type": "http", "http_version": "1.1", "method": method, "path": "/things", "headers": headers}
    asyncio.run(APP(scope, receive, send))
    assert sent[0]["status"] == 400
    assert (b"x-request-id", b"mine") in sent[0]["headers"]


def test_requests_that_are_not_served_are_logged_now_and_then_with_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repeats = Repeats()
    assert [repeats.count(now) for now in (1.0, 1.1, 1.2, 1.0 + REPORT_EVERY_S, 2.0 + REPORT_EVERY_S)] == [
        1,
        0,
        0,
        3,
        0,
    ]

    async def away(_: Request) -> Response:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr("common.http.repeats.REPORT_EVERY_S", 1e9)
    monkeypatch.setattr("common.http.app._not_served", Repeats())
    app = application([public_route("/away", away)])
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    try:
        assert {answer("GET", "/away", app).status_code for _ in range(50)} == {503}
    finally:
        logger.remove(sink)
    assert len(lines) == 1
