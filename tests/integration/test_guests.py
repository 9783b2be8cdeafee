"""Guests, good and bad, at every route of every service. The routes are those of the OpenAPI documents.

Instances that ask for credentials run beside the shared stack (`tests/guarded.py`).
"""

import json
import re
import time
from typing import Any, Final

import httpx
import pytest

from common.auth.principal import AUDITOR, CUSTOMER, MERCHANT, OPERATOR, SCOPES
from tests.guarded import Guarded
from tests.guests import NOBODYS, Route, named, routes
from tests.integration.conftest import draw
from tests.tokens import Issuer, b64, bad_tokens
from tests.waiting import eventually

NAMES: Final = {"order": "order-api", "payment": "payment", "inventory": "inventory"}

ROUTES: Final = tuple(routes("order", "payment", "inventory"))
GUARDED: Final = [route for route in ROUTES if route.accepts]
OWN: Final = [
    route
    for route in GUARDED
    if CUSTOMER in route.accepts and MERCHANT in route.accepts and route.service != "inventory"
]


class Shop:
    """Two customers, of whom the first has ordered, and a product."""

    def __init__(self, guarded: Guarded, product: str) -> None:
        self.guarded = guarded
        self.product = product
        self.ann, self.bob = draw("cust-ann"), draw("cust-bob")
        for customer_id in (self.ann, self.bob):
            guarded.stack.account(customer_id, 10**6)
        order = {"customer_id": self.ann, "product_id": product, "quantity": 1}
        placed = guarded.ask("order-api", "POST", "/api/v1/orders", self.token(self.ann), body=order)
        assert placed.status_code == 202, placed.text
        self.order_id: str = placed.json()["order_id"]
        guarded.stack.await_settled(self.order_id)

    def token(self, subject: str, *scopes: str) -> str:
        return self.guarded.issuer.token(subject, " ".join(scopes or (CUSTOMER,)))

    def ask(
        self,
        route: Route,
        token: str | None,
        *,
        method: str = "",
        order_id: str = "",
        customer_id: str = "",
        **named: Any,
    ) -> httpx.Response:
        """A request that would be taken from Ann, or is for these."""
        customer_id = customer_id or self.ann
        path = route.path.format(
            order_id=order_id or self.order_id, customer_id=customer_id, product_id=self.product, code="forbidden"
        )
        if route.id == "listOrders":
            path += f"?customer_id={customer_id}"
        body = route.body
        if isinstance(body, dict) and "customer_id" in body:
            body = {"customer_id": customer_id, "product_id": self.product, "quantity": 1}
        headers = {"content-type": route.media_type} if route.media_type else {}
        return self.guarded.ask(
            NAMES[route.service],
            method or route.method,
            path,
            token,
            body=body,
            headers={**headers, **named.pop("headers", {})},
        )

    def state(self) -> list[Any]:
        """All that the guests could have changed."""
        query = self.guarded.stack.query
        return [
            query("order", "SELECT count(*) FROM orders WHERE customer_id = ANY(%s)", ([self.ann, self.bob],)),
            query("order", "SELECT count(*) FROM keyed_answers"),
            query("order", "SELECT status FROM orders WHERE order_id = %s", (self.order_id,)),
            query("payment", "SELECT customer_id, balance FROM accounts WHERE customer_id = ANY(%s) ORDER BY 1",
                  ([self.ann, self.bob],)),
            query("inventory", "SELECT on_hand, name, unit_price FROM products WHERE product_id = %s", (self.product,)),
        ]  # fmt: skip


@pytest.fixture(scope="module")
def shop(guarded: Guarded, product: str) -> Shop:
    return Shop(guarded, product)


def check_unauthenticated(answer: httpx.Response) -> None:
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith('Bearer realm="tandem"')
    assert answer.headers["cache-control"] == "no-store"
    if answer.request.method != "HEAD":
        assert answer.json()["type"] == "/problems/unauthenticated"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_the_documents_have_all_routes() -> None:
    assert len(GUARDED) >= 14
    assert len(OWN) == 8


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.accepts], ids=named)
def test_what_is_public_asks_nobody(shop: Shop, route: Route) -> None:
    for token in (None, "nonsense"):
        assert shop.ask(route, token).status_code == 200


@pytest.mark.parametrize("route", GUARDED, ids=named)
def test_bad_guests_are_not_let_in(shop: Shop, route: Route) -> None:
    before = shop.state()
    guests = bad_tokens(shop.guarded.issuer) | {
        "nonsense": "nonsense",
        "unknown API key": shop.guarded.key("x", "merchant"),
    }
    shop.guarded.revoke(guests["unknown API key"])
    good = shop.token(shop.ann, *SCOPES)
    for fault, token in guests.items():
        answer = shop.ask(route, token)
        assert answer.status_code == 401, f"{fault}: {answer.text}"
        check_unauthenticated(answer)
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    for header in ("", "Bearer", f"Basic {b64(b'ann:secret')}", f"Bearer {good} {good}", f"Digest {good}", good):
        check_unauthenticated(shop.ask(route, None, headers={"authorization": header}))
    check_unauthenticated(shop.ask(route, None))
    check_unauthenticated(shop.ask(route, None, headers={"cookie": f"access_token={good}"}))
    if route.method == "GET":
        check_unauthenticated(shop.ask(route, None, method="HEAD"))
    assert shop.state() == before


@pytest.mark.parametrize("route", GUARDED, ids=named)
def test_two_sets_of_credentials_are_none(shop: Shop, route: Route) -> None:
    good = ("authorization", f"Bearer {shop.token(shop.ann, *SCOPES)}")
    url = shop.guarded.url(
        NAMES[route.service], route.path.format(order_id=shop.order_id, customer_id=shop.ann, product_id="x")
    )
    for pair in ([good, good], [good, ("authorization", "Bearer other")]):
        check_unauthenticated(shop.guarded.http.request(route.method, url, headers=pair))


@pytest.mark.parametrize("route", GUARDED, ids=named)
def test_a_token_in_the_query_is_none(shop: Shop, route: Route) -> None:
    path = route.path.format(order_id=shop.order_id, customer_id=shop.ann, product_id=shop.product)
    query = f"?access_token={shop.token(shop.ann, *SCOPES)}"
    check_unauthenticated(shop.guarded.ask(NAMES[route.service], route.method, path + query))


@pytest.mark.parametrize("route", GUARDED, ids=named)
def test_each_scope_is_let_in_where_the_document_says_so(shop: Shop, route: Route) -> None:
    for scope in SCOPES:
        answer = shop.ask(route, shop.token(shop.ann, scope))
        if scope in route.accepts:
            assert answer.status_code not in (401, 403, 404), f"{scope}: {answer.text}"
        else:
            assert answer.status_code == 403, f"{scope}: {answer.text}"
            assert answer.json()["type"] == "/problems/forbidden"
            needed = f'error="insufficient_scope", scope="{" ".join(route.accepts)}"'
            assert answer.headers["www-authenticate"].endswith(needed)
    for scopes in ("", "openid profile", "Merchant", "merchants", "customer,merchant"):
        answer = shop.ask(route, shop.guarded.issuer.token(shop.ann, scopes))
        assert answer.status_code == 403, f"{scopes!r}: {answer.text}"


@pytest.mark.parametrize("route", OWN, ids=named)
def test_what_is_another_customers_is_as_if_it_were_not_there(shop: Shop, route: Route) -> None:
    before = shop.state()
    bob = shop.token(shop.bob)
    if route.id in ("placeOrder", "placeOrders"):
        for key in ({}, {"idempotency-key": "k"}):
            answer = shop.ask(route, bob, headers=key)
            if route.id == "placeOrder":
                assert answer.status_code == 403
            else:
                assert answer.status_code == 422
                assert [json.loads(line)["status"] for line in answer.text.splitlines()] == [403]
            assert shop.ann not in answer.text
        assert shop.state()[0] == before[0]
        return
    for method in (route.method, *(["HEAD"] if route.method == "GET" else [])):
        for headers in ({}, {"if-none-match": "*"}, {"idempotency-key": "k"}, {"last-event-id": "1"}):
            others = shop.ask(route, bob, method=method, headers=headers)
            nobodys = shop.ask(route, bob, method=method, headers=headers, order_id=NOBODYS, customer_id="cust-nobody")
            assert others.status_code == nobodys.status_code == 404
            assert alike(others, shop.order_id, shop.ann) == alike(nobodys, NOBODYS, "cust-nobody")
    assert shop.state() == before


def alike(answer: httpx.Response, order_id: str, customer_id: str) -> tuple[dict[str, str], str]:
    """An answer without what it was asked for, and without what is drawn for each."""
    headers = {
        name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id", "content-length")
    }
    text = answer.text.replace(order_id, "ORDER").replace(customer_id, "CUSTOMER")
    return headers, re.sub(r'"request_id":"[0-9a-f]+"', "", text)


def test_the_version_of_an_answer_is_the_owners_only(shop: Shop) -> None:
    routes = {route.id: route for route in OWN}
    for name in ("getOrder", "listOrders", "getAccount", "listLedger"):
        tag = shop.ask(routes[name], shop.token(shop.ann)).headers["etag"]
        assert shop.ask(routes[name], shop.token(shop.ann), headers={"if-none-match": tag}).status_code == 304
        assert shop.ask(routes[name], shop.token(shop.bob), headers={"if-none-match": tag}).status_code == 404


def test_keys_of_one_customer_are_none_of_anothers(shop: Shop) -> None:
    """With the same key, each gets an order of their own, and learns nothing of the other's."""
    routes, key = {route.id: route for route in OWN}, {"idempotency-key": draw("basket")}
    for route in (routes["placeOrder"], routes["placeOrders"]):
        placed = [shop.ask(route, shop.token(who), customer_id=who, headers=key) for who in (shop.ann, shop.bob)]
        ids = [json.loads(answer.text)["order_id"] for answer in placed]
        assert len(set(ids)) == 2
        assert not any("idempotency-replayed" in answer.headers for answer in placed)
        again = shop.ask(route, shop.token(shop.ann), headers=key)
        assert (json.loads(again.text)["order_id"], again.headers["idempotency-replayed"]) == (ids[0], "true")


def test_many_orders_are_judged_line_by_line(shop: Shop) -> None:
    lines = [{"customer_id": who, "product_id": shop.product, "quantity": 1} for who in (shop.bob, shop.ann, shop.bob)]
    body = "\n".join(map(json.dumps, lines))
    ndjson = {"content-type": "application/x-ndjson"}
    answer = shop.guarded.ask(
        "order-api", "POST", "/api/v1/orders/batch", shop.token(shop.bob), body=body, headers=ndjson
    )
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [result["status"] for result in results] == [202, 403, 202]
    assert results[1]["problem"]["type"] == "/problems/forbidden"


def test_the_lane_and_the_ordinary_way_judge_alike(shop: Shop) -> None:
    """The lane does not take a request with `Prefer`, nor one whose credentials are new."""
    route = next(route for route in OWN if route.id == "placeOrder")
    for who, status in ((shop.ann, 202), (shop.bob, 403)):
        token = shop.token(who)
        for headers in ({}, {}, {"prefer": "wait=0"}):
            assert shop.ask(route, token, headers=headers).status_code == status


def test_a_token_is_good_until_it_expires_and_not_again(shop: Shop) -> None:
    """Also where it is remembered."""
    route = next(route for route in OWN if route.id == "placeOrder")
    # The leeway of the instances is 30 s.
    token = shop.guarded.issuer.token(shop.ann, claims={"exp": time.time() - 28})
    assert shop.ask(route, token).status_code == 202
    eventually(lambda: shop.ask(route, token).status_code == 401, "the token has expired")
    assert shop.ask(route, token).json()["detail"] == "the token has expired"


def test_a_revoked_key_is_refused_at_every_service_without_a_restart(shop: Shop) -> None:
    key = shop.guarded.key("shop", MERCHANT)
    reading = [route for route in GUARDED if route.id in ("getOrder", "getAccount", "getProduct")]
    assert len(reading) == 3
    for route in reading:
        eventually(lambda r=route: shop.ask(r, key).status_code == 200, "the new key is known")  # type: ignore[misc]
    shop.guarded.revoke(key)
    for route in reading:
        eventually(lambda r=route: shop.ask(r, key).status_code == 401, "the key is revoked")  # type: ignore[misc]


def test_a_new_signing_key_is_good_at_once_and_the_old_one_while_it_is_published(shop: Shop) -> None:
    route = next(route for route in GUARDED if route.id == "getProduct")
    successor = Issuer(kid="key-2")
    old, new = shop.token(shop.ann), successor.token(shop.ann)
    published = shop.guarded.jwks.read_bytes()
    replacement = shop.guarded.jwks.with_suffix(".new")
    replacement.write_bytes(shop.guarded.issuer.jwks(successor))
    replacement.rename(shop.guarded.jwks)
    try:
        assert [shop.ask(route, token).status_code for token in (new, old)] == [200, 200]
    finally:
        replacement.write_bytes(published)
        replacement.rename(shop.guarded.jwks)
    eventually(lambda: shop.ask(route, new).status_code == 401, "the key is withdrawn")
    assert shop.ask(route, old).status_code == 200


def test_metrics_are_open_on_the_admin_port_and_need_a_scope_on_the_public_one(shop: Shop) -> None:
    for service in NAMES.values():
        assert shop.guarded.instance(service).get("/metrics").status_code == 200
        check_unauthenticated(shop.guarded.ask(service, "GET", "/metrics"))
        for scope in (OPERATOR, AUDITOR):
            assert shop.guarded.ask(service, "GET", "/metrics", shop.token("x", scope)).status_code == 200


def test_the_admin_port_asks_for_credentials_too(shop: Shop) -> None:
    for service, path in (
        ("payment", f"/api/v1/accounts/{shop.ann}"),
        ("order-api", f"/api/v1/orders/{shop.order_id}"),
    ):
        check_unauthenticated(shop.guarded.instance(service).get(path))


def test_what_was_refused_left_no_token_in_the_log(shop: Shop) -> None:
    token = Issuer(kid="stranger").token()
    for route in GUARDED:
        shop.ask(route, token)
    for service in NAMES.values():
        text = shop.guarded.instance(service).log.read_text()
        assert token.split(".")[2] not in text
        assert "tdm_" not in text
