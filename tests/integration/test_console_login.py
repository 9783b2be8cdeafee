"""The console of a stack that asks for credentials: sessions with real tokens and keys, and what they let do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest

from common.auth.principal import SCOPES
from dev.settings import HOST
from tests.console import RunningConsole
from tests.guarded import Guarded
from tests.guests import NOBODYS, Route, named, routes
from tests.integration.conftest import draw
from tests.stack import Stack
from tests.tokens import bad_tokens
from tests.waiting import eventually

GUARDED: Final = [route for route in routes("console") if route.accepts]


@pytest.fixture(scope="module")
def console(stack: Stack, guarded: Guarded) -> Iterator[RunningConsole]:
    running = RunningConsole(stack)
    settings = guarded.settings("order-api") | {"CONSOLE_ORDER_API": f"{HOST}:{guarded.ports['order-api']}"}
    running.variables |= {name: value for name, value in settings.items() if name != "HTTP_PORT"}
    running.start()
    yield running
    running.http.close()
    running.stop()


@contextmanager
def logged_in(console: RunningConsole, credentials: str) -> Iterator[httpx.Client]:
    """A browser that has logged in."""
    with httpx.Client(base_url=console.url, timeout=30, trust_env=False) as browser:
        answer = browser.post("/api/session", json={}, headers={"authorization": f"Bearer {credentials}"})
        assert answer.status_code == 201, answer.text
        assert "HttpOnly; SameSite=Strict" in answer.headers["set-cookie"]
        yield browser


def test_the_page_is_open_and_what_it_shows_is_not(console: RunningConsole) -> None:
    assert console.http.get("/").status_code == 200
    for path in ("/api/session", "/api/stream", "/api/orders", "/api/jobs", "/api/dead-letters"):
        answer = console.http.get(path)
        assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthenticated")


def ask(console: RunningConsole, route: Route, token: str | None) -> httpx.Response:
    """A request of this route, about things that do not exist."""
    path = route.path.format(order_id=NOBODYS, job_id="none", service="payment", record="orders/0@999999999")
    headers = {"content-type": route.media_type} if route.media_type else {}
    headers |= {"authorization": f"Bearer {token}"} if token is not None else {}
    content = json.dumps(route.body) if route.media_type else None
    return console.http.request(route.method, path, headers=headers, content=content)


@pytest.mark.parametrize("route", GUARDED, ids=named)
def test_bad_guests_are_not_let_in(console: RunningConsole, guarded: Guarded, route: Route) -> None:
    guests: dict[str, str | None] = {**bad_tokens(guarded.issuer), "nonsense": "nonsense", "none": None}
    for fault, token in guests.items():
        answer = ask(console, route, token)
        assert answer.status_code == 401, f"{fault}: {answer.text}"
        assert answer.headers["www-authenticate"].startswith('Bearer realm="tandem"')


@pytest.mark.parametrize("route", GUARDED, ids=named)
def test_a_scope_that_the_document_does_not_name_is_refused(
    console: RunningConsole, guarded: Guarded, route: Route
) -> None:
    for scope in {*SCOPES, "Operator", ""} - {*route.accepts}:
        answer = ask(console, route, guarded.issuer.token("ana", scope))
        assert answer.status_code == 403, f"{scope}: {answer.text}"
        assert answer.json()["type"] == "/problems/forbidden"


def test_an_order_goes_to_the_order_api_with_the_persons_own_credentials(
    console: RunningConsole, guarded: Guarded, product: str, customer: str
) -> None:
    order = {"customer_id": customer, "product_id": product, "quantity": 1}
    with logged_in(console, guarded.issuer.token("ana", "operator merchant")) as browser:
        answer = browser.post("/api/orders", json=order)
        assert answer.status_code == 202, answer.text
        order_id = answer.json()["order_id"]
        eventually(lambda: browser.get(f"/api/orders/{order_id}").status_code == 200, "the order is told")
    with logged_in(console, guarded.issuer.token("ana", "operator")) as browser:
        assert browser.post("/api/orders", json=order).status_code == 403


def test_an_auditor_reads_and_starts_nothing(console: RunningConsole, guarded: Guarded) -> None:
    with logged_in(console, guarded.issuer.token("audra", "auditor")) as browser:
        assert browser.get("/api/orders").status_code == 200
        act = {"act": "redrive", "dry_run": True, "filter": {}, "events": None}
        for path, body in (("/api/verify", {}), ("/api/break", {}), ("/api/load", {}), ("/api/dead-letters/acts", act)):
            assert browser.post(path, json=body).status_code == 403, path


@pytest.mark.parametrize("end", ["logs out", "key is revoked"])
def test_a_stream_ends_with_its_session(console: RunningConsole, guarded: Guarded, end: str) -> None:
    key = guarded.key(draw("ops"), "operator")
    eventually(lambda: is_known(console, key), "the console knows the key")
    with logged_in(console, key) as browser, browser.stream("GET", "/api/stream") as stream:
        lines = stream.iter_lines()
        assert "event: hello" in (next(lines) for _ in range(10))
        if end == "logs out":
            with httpx.Client(base_url=console.url, cookies=browser.cookies, trust_env=False) as other:
                assert other.delete("/api/session").status_code == 204
        else:
            guarded.revoke(key)
        for _ in lines:  # until the server ends it
            pass
        assert browser.get("/api/jobs").status_code == 401


def is_known(console: RunningConsole, key: str) -> bool:
    return console.http.get("/api/session", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_a_guest_of_another_site_gets_nothing_with_a_cookie(console: RunningConsole, guarded: Guarded) -> None:
    foreign: list[dict[str, Any]] = [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "empty"},
    ]
    with logged_in(console, guarded.issuer.token("ana", "operator")) as browser:
        for headers in foreign:
            assert browser.get("/api/jobs", headers=headers).status_code == 403
            assert browser.post("/api/verify", json={}, headers=headers).status_code == 403
        assert browser.post("/api/verify", content="{}", headers={"content-type": "text/plain"}).status_code == 415
