"""Who uses the console: sessions begin with credentials, end with them, and are nothing that another page could use."""

import asyncio
import math
import re
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from common.auth.authenticator import OPEN
from common.auth.principal import AUDITOR, CUSTOMER, MERCHANT, OPERATOR, Principal
from common.http.app import Frame, application
from common.http.contract.operation import Operation
from common.http.contract.service import OperationRoute
from common.http.responses import json_response
from ops.console import operations as api
from ops.console.session.cookie import Cookie
from ops.console.session.logins import Logins
from ops.console.session.sessions import IDLE_S, LIFE_S, SESSIONS_MAX, SESSIONS_OF_ONE_MAX, Sessions
from tests.unit.principals import ByName, principal

NOW = 1_795_910_400.0
PORT = 8080
OPS = principal("ana", OPERATOR)


def begun(sessions: Sessions, who: Principal = OPS, now: float = NOW) -> str:
    return sessions.begin(who, f"Bearer {who.subject}".encode(), now)[0]


# The sessions themselves


def test_a_session_ends_when_it_is_idle_or_old_whatever_comes_first() -> None:
    sessions = Sessions()
    idle, used = begun(sessions), begun(sessions)
    for at in range(0, LIFE_S, IDLE_S // 2):
        assert sessions.find(used, NOW + at) is not None
    assert sessions.find(used, NOW + LIFE_S) is None
    assert sessions.find(idle, NOW + IDLE_S) is None
    assert sessions.find(idle, NOW) is None, "what has ended does not come back"
    assert len(sessions) == 0


def test_a_session_ends_with_its_credentials() -> None:
    sessions = Sessions()
    id_ = begun(sessions, principal("ana", OPERATOR, expires_at=NOW + 60))
    assert sessions.find(id_, NOW + 59) is not None
    assert sessions.find(id_, NOW + 60) is None


def test_ids_are_256_random_bits_and_are_not_kept() -> None:
    sessions = Sessions()
    ids = {begun(sessions, principal(f"op-{n}", OPERATOR)) for n in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", id_) for id_ in ids)
    assert not any(id_ in repr(vars(sessions)) for id_ in ids)


def test_one_principal_ends_only_its_own_sessions_by_logging_in() -> None:
    sessions = Sessions()
    other = begun(sessions, principal("ben", OPERATOR))
    own = [begun(sessions, now=NOW + n) for n in range(SESSIONS_OF_ONE_MAX + 3)]
    alive = [sessions.find(id_, NOW + 100) is not None for id_ in own]
    assert alive == [False] * 3 + [True] * SESSIONS_OF_ONE_MAX
    assert sessions.find(other, NOW + 100) is not None


def test_the_number_of_sessions_is_bounded_and_the_least_used_gives_way() -> None:
    sessions = Sessions()
    first, second = begun(sessions, principal("a", OPERATOR)), begun(sessions, principal("b", OPERATOR), NOW + 1)
    sessions.find(first, NOW + 2)
    for n in range(SESSIONS_MAX - 1):
        begun(sessions, principal(f"op-{n}", OPERATOR), NOW + 3)
    assert len(sessions) == SESSIONS_MAX
    assert (sessions.find(first, NOW + 4) is None, sessions.find(second, NOW + 4) is None) == (False, True)


# The cookie


@pytest.mark.parametrize("secure", [False, True])
def test_the_cookie_is_for_this_host_and_no_script_or_other_site(secure: bool) -> None:
    cookie, id_ = Cookie(PORT), "x" * 43
    by_scheme: dict[str, Any] = {"scheme": "https" if secure else "http", "headers": []}
    by_origin: dict[str, Any] = {
        "scheme": "http",
        "headers": [(b"origin", b"https://console.example")] if secure else [],
    }
    name = "__Host-tandem-console-8080" if secure else "tandem-console-8080"
    for scope in (by_scheme, by_origin):
        text = cookie.set_(scope, id_, 60)
        assert text.split("; ") == [
            f"{name}={id_}", "Path=/", "Max-Age=60", "HttpOnly", "SameSite=Strict", *(["Secure"] if secure else []),
        ]  # fmt: skip
        asking = {**scope, "headers": [*scope["headers"], (b"cookie", b"a=b; " + text.split(";")[0].encode())]}
        assert cookie.read(asking) == id_
        assert cookie.forget(scope).startswith(f"{name}=; Path=/; Max-Age=0")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"tandem-console-8081=" + b"x" * 43,
        b"tandem-console-8080=short",
        b"tandem-console-8080=" + b"\xff" * 43,
    ],
)
def test_another_cookie_is_none(header: bytes) -> None:
    assert Cookie(PORT).read({"headers": [(b"cookie", header)]}) is None


def test_over_tls_no_other_host_can_set_the_cookie() -> None:
    plain = {"headers": [(b"cookie", b"tandem-console-8080=" + b"x" * 43)]}
    assert Cookie(PORT).read({**plain, "scheme": "https"}) is None
    assert Cookie(PORT).read({**plain, "scheme": "http"}) == "x" * 43


# Over HTTP


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


class Console:
    """The operations of a session, and two others: one that reads, and one that acts and says what it was given."""

    def __init__(self, *principals: Principal, open_to_all: bool = False) -> None:
        self.clock = Clock()
        self.auth = ByName(*principals)
        self.logins = Logins(Cookie(PORT), "root (console)", self.clock)

        async def shown(request: Request) -> Response:
            author = self.logins.author(request)
            return json_response([author.principal, author.kind, request.headers.get("authorization")])

        endpoints: dict[Operation, Any] = {
            api.WHO: self.logins.shown,
            api.LOG_IN: self.logins.log_in,
            api.LOG_OUT: self.logins.log_out,
            api.LIST_JOBS: shown,
            api.VERIFY: shown,
        }
        self.frame: Frame = application(
            [OperationRoute(operation, endpoint) for operation, endpoint in endpoints.items()],
            auth=OPEN if open_to_all else self.auth,
        )
        self.frame.authorizations_of = self.logins.authorizations_of

    def browser(self) -> "Browser":
        return Browser(self)


class Browser:
    """Keeps the cookies of the console, as a browser does; its requests are made by the console's page."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.cookies = httpx.Cookies()

    def send(self, method: str, path: str, **headers: str) -> httpx.Response:
        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(self.console.frame)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost:8080", cookies=self.cookies
            ) as client:
                body: dict[str, str] | None = {} if method == "POST" else None
                sent = {name.replace("_", "-"): value for name, value in headers.items()}
                response = await client.request(method, path, headers=sent, json=body)
                self.cookies = client.cookies
                return response

        return asyncio.run(main())

    def log_in(self, name: str) -> httpx.Response:
        return self.send("POST", "/api/session", authorization=f"Bearer {name}")


@pytest.fixture
def console() -> Console:
    return Console(principal("ana", OPERATOR, MERCHANT), principal("audra", AUDITOR), principal("cust-1", CUSTOMER))


def test_a_session_stands_for_the_credentials_that_began_it(console: Console) -> None:
    ana = console.browser()
    assert ana.send("GET", "/api/session").status_code == 401
    begun = ana.log_in("ana")
    assert begun.status_code == 201
    assert begun.json() == {
        "actor": "ana",
        "by": "token",
        "may": ["act", "place"],
        "ends_at": int((NOW + LIFE_S) * 1000),
    }
    assert "ana" not in begun.headers["set-cookie"]
    assert ana.send("GET", "/api/session").json() == begun.json()
    assert ana.send("POST", "/api/verify").json() == ["ana", "token", "Bearer ana"]


def test_an_auditor_reads_and_is_refused_to_act(console: Console) -> None:
    audra = console.browser()
    assert audra.log_in("audra").json()["may"] == []
    assert audra.send("GET", "/api/jobs").status_code == 200
    refused = audra.send("POST", "/api/verify")
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/forbidden")


@pytest.mark.parametrize(("name", "status"), [("cust-1", 403), ("eve", 401)])
def test_others_get_no_session(console: Console, name: str, status: int) -> None:
    guest = console.browser()
    response = guest.log_in(name)
    assert response.status_code == status
    assert "set-cookie" not in response.headers
    assert guest.send("GET", "/api/jobs").status_code == 401


def test_logging_out_ends_the_session_for_whoever_has_its_cookie(console: Console) -> None:
    ana, thief = console.browser(), console.browser()
    ana.log_in("ana")
    thief.cookies = httpx.Cookies(ana.cookies)
    assert thief.send("GET", "/api/jobs").status_code == 200
    assert ana.send("DELETE", "/api/session").status_code == 204
    assert len(ana.cookies) == 0
    assert thief.send("GET", "/api/jobs").status_code == 401


def test_a_new_login_ends_the_session_before_it(console: Console) -> None:
    ana, old = console.browser(), console.browser()
    ana.log_in("ana")
    old.cookies = httpx.Cookies(ana.cookies)
    ana.log_in("audra")
    assert old.send("GET", "/api/jobs").status_code == 401
    assert ana.send("GET", "/api/session").json()["actor"] == "audra"


def test_a_session_ends_when_its_token_is_no_longer_good(console: Console) -> None:
    ana = console.browser()
    ana.log_in("ana")
    console.auth.verified.clear()
    del console.auth.principals[b"Bearer ana"]
    assert ana.send("GET", "/api/jobs").status_code == 401


def test_an_idle_session_ends_over_http_too(console: Console) -> None:
    ana = console.browser()
    ana.log_in("ana")
    console.clock.now += IDLE_S
    assert ana.send("GET", "/api/jobs").status_code == 401


def test_credentials_of_a_request_count_more_than_its_session(console: Console) -> None:
    ana = console.browser()
    ana.log_in("ana")
    assert ana.send("POST", "/api/verify", authorization="Bearer audra").status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"host": "evil.example"}, 421),
        ({"origin": "http://localhost:8080", "sec_fetch_site": "same-origin"}, 201),
    ],
)
def test_a_page_of_another_origin_cannot_use_a_session_or_begin_one(
    console: Console, headers: dict[str, str], status: int
) -> None:
    ana = console.browser()
    ana.log_in("ana")
    assert ana.send("POST", "/api/session", authorization="Bearer ana", **headers).status_code == status


def test_with_auth_off_there_is_no_session_and_all_is_open() -> None:
    guest = Console(open_to_all=True).browser()
    for response in (guest.send("GET", "/api/session"), guest.send("POST", "/api/session")):
        assert response.status_code == 200
        assert response.json() == {
            "actor": "root (console)", "by": "anonymous", "may": ["act", "place"], "ends_at": None,
        }  # fmt: skip
    assert guest.send("POST", "/api/verify").json() == ["root (console)", "user", None]


def test_a_stream_is_let_in_no_longer_when_its_session_or_token_has_ended(console: Console) -> None:
    ana = console.browser()
    ana.log_in("ana")
    [value] = ana.cookies.values()
    scope: dict[str, Any] = {"headers": [(b"cookie", f"tandem-console-8080={value}".encode())], "state": {}}
    console.logins.authorizations_of(scope)

    def is_admitted() -> bool:
        return asyncio.run(console.logins.is_admitted(console.auth, scope))

    for _ in range(3):
        console.clock.now += IDLE_S - 1  # an open stream uses the session
        assert is_admitted()
    kept = console.auth.principals.pop(b"Bearer ana")
    assert not is_admitted()
    console.auth.principals[b"Bearer ana"] = kept
    ana.send("DELETE", "/api/session")
    assert not is_admitted()


def test_an_api_key_that_does_not_expire_gets_a_session_that_does() -> None:
    assert math.isinf(OPS.expires_at)
    _, session = Sessions().begin(OPS, b"", NOW)
    assert session.ends_at == NOW + LIFE_S
