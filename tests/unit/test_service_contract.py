"""What every service offers by its contract: its document and pages, conditional requests, other origins."""

import asyncio
import re
from datetime import date
from typing import Final

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.auth.access import PUBLIC
from common.http import problem
from common.http.app import Frame, application
from common.http.caching import NO_STORE, is_current, next_page
from common.http.contract.operation import LINK_NEXT, Answer, Deprecation, Operation
from common.http.contract.service import Contract
from common.http.heads import Hosts
from common.http.problem import Problem, ProblemError
from common.http.responses import json_response, send_problem
from tests.routes import public

SHOP: Final = "https://shop.example"

THINGS: Final = Operation(
    method="GET", path="/things", id="listThings", tag="things", access=PUBLIC, summary="List things", conditional=True,
    answers=(Answer(status=200, kind=list[str], description="things", headers=(LINK_NEXT,)),),
)  # fmt: skip
PENDING: Final = Operation(
    method="GET", path="/pending", id="getPending", tag="things", access=PUBLIC, conditional=True,
    summary="One that changes soon",
    answers=(Answer(status=200, kind=str, description="it"),),
)  # fmt: skip
MAKE: Final = Operation(
    method="POST", path="/things", id="makeThing", tag="things", access=PUBLIC, summary="Make one",
    answers=(Answer(status=201, kind=str, description="it"),),
)  # fmt: skip
OLD: Final = Operation(
    method="GET", path="/old", id="old", tag="things", access=PUBLIC, summary="What will go",
    answers=(Answer(status=200, kind=str, description="it"),),
    deprecation=Deprecation(since=date(2026, 11, 1), sunset=date(2027, 11, 1), page="/docs#/things/listThings"),
)  # fmt: skip
CONTRACT: Final = Contract("Things", "Things.", (THINGS, PENDING, MAKE, OLD))


async def things(request: Request) -> Response:
    return json_response(["a", "b"], headers=next_page(request, "b"))


async def pending(_: Request) -> Response:
    return json_response("soon", headers=NO_STORE)


async def make(request: Request) -> Response:
    if request.query_params:
        raise ProblemError(Problem(problem.NOT_FOUND, "it is gone"))
    return json_response("made", 201)


ENDPOINTS: Final = {THINGS: things, PENDING: pending, MAKE: make, OLD: make}


def app(*origins: bytes) -> Frame:
    frame = application(CONTRACT.routes(ENDPOINTS))
    frame.hosts = Hosts(origins=frozenset(origins))
    return frame


def answer(method: str, path: str, frame: Frame | None = None, **headers: str) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(frame or app())
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, path, headers=named)

    return asyncio.run(request())


# Routes


def test_an_operation_without_an_endpoint_and_an_endpoint_without_an_operation_are_refused() -> None:
    stranger = Operation(method="GET", path="/x", id="x", tag="x", access=PUBLIC, summary="x", answers=())
    with pytest.raises(AssertionError, match="makeThing"):
        CONTRACT.routes({THINGS: things, PENDING: pending, OLD: make})
    with pytest.raises(AssertionError, match="'x'"):
        CONTRACT.routes({**ENDPOINTS, stranger: make})
    with pytest.raises(AssertionError, match="'x'"):
        CONTRACT.routes(ENDPOINTS, elsewhere=(stranger,))


def test_bare_asgi_cannot_be_declared_conditional() -> None:
    with pytest.raises(AssertionError, match="listThings is bare ASGI"):
        CONTRACT.routes({**ENDPOINTS, THINGS: json_response([])})


class Bare:
    """An endpoint that sends its problems itself."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["query_string"]:
            await send_problem(send, Problem(problem.NOT_FOUND, "it is gone"), b"id")
        else:
            await json_response("made", 201)(scope, receive, send)


@pytest.mark.parametrize(
    "frame",
    [
        application(CONTRACT.routes(ENDPOINTS)),
        application(CONTRACT.routes({**ENDPOINTS, OLD: Bare()})),
        application(
            CONTRACT.routes({THINGS: things, PENDING: pending, MAKE: make}, elsewhere=(OLD,)),
            direct=CONTRACT.direct({OLD: Bare()}),
        ),
    ],
    ids=["function", "bare ASGI", "past the router"],
)
def test_an_operation_that_goes_says_so(frame: Frame) -> None:
    headers = answer("GET", "/old", frame).headers
    assert headers["deprecation"] == "@1793491200"
    assert headers["sunset"] == "Mon, 01 Nov 2027 00:00:00 GMT"
    assert headers["link"] == '</docs#/things/listThings>; rel="deprecation"; type="text/html"'
    described = CONTRACT.document()["paths"]["/old"]["get"]
    assert described["deprecated"] is True
    assert {"Deprecation", "Sunset", "Link"} <= set(described["responses"]["200"]["headers"])
    assert "deprecation" not in answer("GET", "/things", frame).headers
    assert "deprecation" not in answer("GET", "/old?problem", frame).headers


@pytest.mark.parametrize("path", ["/things", "/openapi.json", "/problems", "/docs", "/livez", "/readyz"])
def test_head_is_answered_as_get_without_a_body(path: str) -> None:
    head, get = answer("HEAD", path), answer("GET", path)
    assert head.status_code == get.status_code == 200
    for name in ("content-type", "cache-control", "etag"):
        assert head.headers.get(name) == get.headers.get(name)


# Conditional requests


def test_a_client_that_has_the_answer_already_does_not_get_it_again() -> None:
    first = answer("GET", "/things?limit=1")
    assert first.headers["cache-control"] == "private, no-cache"
    assert first.headers["link"] == '</things?limit=1&cursor=b>; rel="next"'
    again = answer("GET", "/things", if_none_match=first.headers["etag"])
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert again.headers["cache-control"] == "private, no-cache"
    assert answer("GET", "/things", if_none_match='"other"').json() == ["a", "b"]
    problems = answer("GET", "/problems").headers["etag"]
    assert answer("GET", "/problems", if_none_match=problems).headers["vary"] == "Accept"


def test_what_never_changes_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tag = answer("GET", "/docs/vendor/swagger-ui.css").headers["etag"]
    monkeypatch.setattr("common.http.caching.blake2b", None)
    assert answer("GET", "/docs/vendor/swagger-ui.css", if_none_match=tag).status_code == 304


def test_what_changes_soon_is_kept_by_no_cache() -> None:
    first = answer("GET", "/pending")
    assert first.headers["cache-control"] == "no-store"
    again = answer("GET", "/pending", if_none_match=first.headers["etag"])
    assert (again.status_code, again.headers["cache-control"]) == (304, "no-store")


@pytest.mark.parametrize(
    ("header", "current"),
    [(None, False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("a", False)],
)
def test_versions_are_compared_as_http_says(header: str | None, current: bool) -> None:
    assert is_current(header, '"a"') is current


# Other origins


def test_pages_of_other_origins_are_refused_unless_they_are_named() -> None:
    assert answer("GET", "/things", origin=SHOP).status_code == 403
    opened = app(SHOP.encode())
    served = answer("GET", "/things", opened, origin=SHOP)
    assert (served.status_code, served.headers["access-control-allow-origin"]) == (200, SHOP)
    assert "location" in served.headers["access-control-expose-headers"]
    assert served.headers["vary"] == "Origin"
    assert answer("GET", "/problems", opened, origin=SHOP).headers["vary"] == "Accept, Origin"
    refused = answer("DELETE", "/things", opened, origin=SHOP)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (405, SHOP)
    for other in ("https://evil.example", "http://shop.example", "https://shop.example:8443", "null"):
        assert answer("GET", "/things", opened, origin=other).status_code == 403
    assert "access-control-allow-origin" not in answer("GET", "/things", opened).headers


def test_a_page_of_a_named_origin_reads_the_answer_of_a_direct_endpoint() -> None:
    async def direct(scope: Scope, receive: Receive, send: Send) -> None:
        await json_response("made", 202)(scope, receive, send)

    frame = application([], direct={public("/things", "POST"): direct})
    frame.hosts = Hosts(origins=frozenset({SHOP.encode()}))
    assert answer("POST", "/things", frame, origin=SHOP).headers["access-control-allow-origin"] == SHOP


def test_a_preflight_request_is_told_what_a_page_may_send() -> None:
    told = answer("OPTIONS", "/things", app(SHOP.encode()), origin=SHOP, access_control_request_method="POST")
    assert told.status_code == 204
    assert told.headers["access-control-allow-origin"] == SHOP
    assert told.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS, POST"
    assert "idempotency-key" in told.headers["access-control-allow-headers"]
    assert int(told.headers["access-control-max-age"]) > 0
    assert answer("OPTIONS", "/things", origin=SHOP, access_control_request_method="POST").status_code == 403


# Problems


def test_the_type_of_every_problem_leads_to_its_page() -> None:
    listed = answer("GET", "/problems").json()["problems"]
    assert {page["type"] for page in listed} >= {kind.uri for kind in problem.OF_ANY_REQUEST}
    for page in listed:
        assert answer("GET", page["type"]).json() == page
        assert page["when"]
        assert page["remedy"]
        assert page["example"]["status"] == page["status"]
    refused = answer("POST", "/openapi.json").json()
    assert answer("GET", refused["type"]).json()["status"] == 405
    assert answer("GET", "/problems/price-changed").status_code == 404, "this service never answers so"


def test_a_problem_is_shown_to_people_in_html() -> None:
    shown = answer("GET", "/problems/foreign-origin", accept="text/html,*/*;q=0.8")
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert shown.headers["vary"] == "Accept"
    assert "<h1>403 Foreign origin</h1>" in shown.text
    assert "&quot;detail&quot;: &quot;origin &#x27;https://shop.example&#x27;" in shown.text
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    listed = answer("GET", "/problems", accept="text/html").text
    assert '<a href="/problems/foreign-origin">' in listed


# The pages


def test_the_document_and_its_page_are_served() -> None:
    document = answer("GET", "/openapi.json")
    assert document.json()["info"]["title"] == "Things"
    assert answer("GET", "/openapi.json", if_none_match=document.headers["etag"]).status_code == 304
    page = answer("GET", "/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    files = re.findall(r'(?:href|src)="(/docs/[^"]+)"', page.text)
    assert len(files) == 4
    for file in files:
        assert answer("GET", file).status_code == 200
    for path in ("/docs/nothing.js", "/docs/README.md", "/docs/..%2fpages.py"):
        assert answer("GET", path).status_code == 404
