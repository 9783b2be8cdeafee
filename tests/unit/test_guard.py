"""Every route is behind its rule, and what is answered to whoever is not let in."""

import asyncio
import re
from collections.abc import Sequence
from typing import Final

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import inventory.operations
import ops.console.operations
import order.api.operations
import payment.operations
from common.auth.access import PUBLIC, Access, own, scopes
from common.auth.authenticator import OPEN, Closed, KeysAway
from common.auth.guard import confined_to, principal_of
from common.auth.principal import AUDITOR, CUSTOMER, MERCHANT, OPERATOR, SCOPES, Principal, Unauthenticated
from common.http.app import UNTOLD, Frame, application
from common.http.contract.operation import Operation
from common.http.contract.service import Contract, OperationRoute
from common.http.responses import json_response

FAR: Final = 2e9
PEOPLE: Final = {
    b"Bearer ann": Principal("ann", frozenset({CUSTOMER}), FAR, "token"),
    b"Bearer shop": Principal("shop", frozenset({MERCHANT}), FAR, "key"),
    b"Bearer both": Principal("ann", frozenset({CUSTOMER, MERCHANT}), FAR, "token"),
    b"Bearer nothing": Principal("ann", frozenset(), FAR, "token"),
    b"Bearer auditor": Principal("aud", frozenset({AUDITOR}), FAR, "token"),
}


class Named(Closed):
    """Knows these, and nobody else."""

    async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
        if not authorizations:
            raise Unauthenticated("send credentials", presented=False)
        if authorizations[0] == b"Bearer later":
            raise KeysAway
        if authorizations[0] not in PEOPLE:
            raise Unauthenticated("the token has expired")
        return PEOPLE[authorizations[0]]


async def who(request: Request) -> Response:
    return json_response([principal_of(request.scope).subject, confined_to(request.scope)])


class Bare:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await json_response([principal_of(scope).subject, confined_to(scope)])(scope, receive, send)


def operation(path: str, access: Access) -> Operation:
    return Operation(method="GET", path=path, id=path, summary="", tag="test", access=access, answers=())


FRAME: Final = application(
    [
        OperationRoute(operation("/own", own(MERCHANT)), who),
        OperationRoute(operation("/merchants", scopes(MERCHANT)), who),
        OperationRoute(operation("/bare/{order_id}", own(MERCHANT)), Bare()),
    ],
    direct={operation("/direct", own(MERCHANT)): Bare()},
    auth=Named(),
)


@pytest.mark.parametrize(
    "header",
    [
        {"cookie": "tandem-console-8080=" + "x" * 43},
        {"cookie": "authorization=Bearer ann"},
        {"authorization": "Basic YW5uOg=="},
        {"proxy-authorization": "Bearer ann"},
    ],
)
def test_nothing_that_a_browser_sends_by_itself_lets_anybody_in(header: dict[str, str]) -> None:
    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(FRAME), base_url="http://localhost:8081") as client:
            return await client.get("/own", headers=header)

    assert asyncio.run(request()).status_code == 401


def get(path: str, name: str | None = None, frame: Frame = FRAME, method: str = "GET") -> httpx.Response:
    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(frame), base_url="http://localhost:8081") as client:
            headers = {} if name is None else {"authorization": f"Bearer {name}"}
            return await client.request(method, path, headers=headers)

    return asyncio.run(request())


@pytest.mark.parametrize("path", ["/own", "/bare/7", "/direct"])
def test_a_customer_is_confined_to_their_own_and_a_merchant_to_nobodys(path: str) -> None:
    assert get(path, "ann").json() == ["ann", "ann"]
    assert get(path, "shop").json() == ["shop", None]
    assert get(path, "both").json() == ["ann", None]


@pytest.mark.parametrize("path", ["/own", "/merchants", "/bare/7", "/direct", "/metrics"])
def test_whoever_is_not_known_is_told_how_to_be(path: str) -> None:
    bearer = 'Bearer realm="tandem"'
    expired = f'{bearer}, error="invalid_token", error_description="the token has expired"'
    for name, said in ((None, bearer), ("old", expired)):
        refused = get(path, name)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, said)
        assert refused.json()["type"] == "/problems/unauthenticated"
        assert refused.json()["request_id"] == refused.headers["x-request-id"]
        assert refused.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "name", "needed"),
    [
        ("/merchants", "ann", "merchant"),
        ("/own", "auditor", "customer merchant"),
        ("/own", "nothing", "customer merchant"),
        ("/direct", "auditor", "customer merchant"),
        ("/metrics", "shop", "operator auditor"),
    ],
)
def test_whoever_may_not_is_told_the_scopes(path: str, name: str, needed: str) -> None:
    refused = get(path, name)
    assert refused.status_code == 403
    assert refused.headers["www-authenticate"] == f'Bearer realm="tandem", error="insufficient_scope", scope="{needed}"'
    assert refused.json()["type"] == "/problems/forbidden"


def test_while_no_token_can_be_verified_the_answer_is_503() -> None:
    for path in ("/own", "/direct"):
        refused = get(path, "later")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_health_and_documents_ask_nobody() -> None:
    for path in ("/livez", "/readyz"):
        assert get(path).status_code == 200
    assert get("/own", method="OPTIONS").status_code == 204
    assert get("/nowhere").status_code == 404
    assert get("/own", method="DELETE").status_code == 405


def test_a_stranger_learns_whether_a_process_is_ready_and_not_what_it_lacks() -> None:
    frame = application([], lambda: ["kafka at 10.0.0.1: away"], degraded=lambda: ["a file"], auth=Named())
    whole = {"ready": False, "missing": ["kafka at 10.0.0.1: away"], "degraded": ["a file"]}
    for who in (None, "nobody", "ann"):
        told = get("/readyz", who, frame=frame)
        assert (told.status_code, told.json()) == (503, {"ready": False, "missing": [UNTOLD], "degraded": []})
    assert get("/readyz", "auditor", frame=frame).json() == whole
    frame.admin_port = 8081
    assert get("/readyz", frame=frame).json() == whole
    frame.auth = OPEN
    frame.admin_port = None
    assert get("/readyz", frame=frame).json() == whole


def test_head_is_guarded_as_get_is() -> None:
    assert get("/own", method="HEAD").status_code == 401
    assert get("/own", "ann", method="HEAD").status_code == 200


def test_metrics_are_open_on_the_admin_port_only() -> None:
    frame = application([], auth=Named())
    frame.admin_port = 8081
    assert get("/metrics", frame=frame).status_code == 200
    frame.admin_port = 8082
    assert get("/metrics", frame=frame).status_code == 401
    assert get("/metrics", "auditor", frame=frame).status_code == 200


def test_a_process_that_was_told_of_no_keys_lets_nobody_in() -> None:
    frame = application([OperationRoute(operation("/own", own(*SCOPES)), who)])
    assert get("/own", "shop", frame).status_code == 401


# Every route has a rule


def test_an_operation_without_a_rule_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="access"):
        Operation(method="GET", path="/x", id="x", summary="x", tag="x", answers=())  # type: ignore[call-arg]


def test_a_route_without_an_operation_is_not_served() -> None:
    with pytest.raises(AssertionError, match="a route without an operation has no rule"):
        application([Route("/x", who)])  # type: ignore[list-item]


def test_an_endpoint_that_looks_whose_it_is_cannot_be_public() -> None:
    for look in (principal_of, confined_to):
        with pytest.raises(KeyError):
            look({"state": {}})


READ: Final = "customer, of their own; merchant operator auditor"
PLACE: Final = "customer, of their own; merchant"
EVERYBODY: Final = "customer merchant operator auditor"
RULES: Final = {
    "order": {
        "placeOrder": PLACE, "placeOrders": PLACE, "cancelOrder": PLACE,
        "listOrders": READ, "getOrder": READ, "streamOrder": READ,
        "asyncapi": "", "asyncapiPage": "", "asyncapiViewer": "",
    },
    "payment": {"getAccount": READ, "listLedger": READ, "deposit": "merchant"},
    "inventory": {
        "listProducts": EVERYBODY, "getProduct": EVERYBODY, "putProduct": "merchant", "restock": "merchant",
    },
}  # fmt: skip
PROCESS: Final = {
    "livez": "", "readyz": "", "metrics": "operator auditor", "openapi": "", "listProblems": "", "getProblem": "",
    "docs": "", "docsFile": "",
}  # fmt: skip
CONTRACTS: Final = {
    "order": order.api.operations.CONTRACT,
    "payment": payment.operations.CONTRACT,
    "inventory": inventory.operations.CONTRACT,
}


def rule(access: Access) -> str:
    named = " ".join(access.scopes)
    return f"customer, of their own; {named}" if access.own else named


@pytest.mark.parametrize("service", CONTRACTS)
def test_every_operation_has_the_rule_that_was_decided(service: str) -> None:
    rules = {operation.id: rule(operation.access) for operation in CONTRACTS[service].operations}
    assert rules == RULES[service] | PROCESS


@pytest.mark.parametrize(
    "contract", [*CONTRACTS.values(), ops.console.operations.CONTRACT], ids=lambda each: each.title
)
def test_public_is_only_what_says_nothing_of_anybody(contract: Contract) -> None:
    """A rule that is public, or asks for no scope at all, would let everybody in."""
    for each in contract.operations:
        assert each.access == PUBLIC or each.access.scopes, each.id
        if each.access.public:
            assert each.method == "GET"
            assert re.match(r"/(livez|readyz|docs|problems|openapi|asyncapi|static|$)", each.path), each.id


@pytest.mark.parametrize("service", CONTRACTS)
def test_the_document_says_who_may_what(service: str) -> None:
    document = CONTRACTS[service].document()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for operation in CONTRACTS[service].operations:
        if not operation.documented:
            continue
        described = document["paths"][re.sub(r":\w+(?=\})", "", operation.path)][operation.method.lower()]
        if operation.access.public:
            assert described["security"] == []
            assert "401" not in described["responses"]
        else:
            assert described["security"] == [{"bearer": list(operation.access.accepted)}]
            assert "www-authenticate" in map(str.lower, described["responses"]["401"]["headers"])
            assert described["responses"]["401"]["headers"]["WWW-Authenticate"]["required"] is True
            assert operation.access.sentence() in described["description"]


def test_the_scopes_are_those_that_were_decided() -> None:
    assert SCOPES == (CUSTOMER, MERCHANT, OPERATOR, AUDITOR)
