"""Requests that change something, sent again under their key: they happen once and get the first answer."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import httpx
import pytest

from dev.settings import HOST
from tests.integration.conftest import BALANCE, draw
from tests.stack import API, Instance, Stack
from tests.waiting import eventually

NDJSON: Final = [(b"content-type", b"application/x-ndjson")]
CUP: Final = {"name": "Cup", "unit_price": 100, "currency": "EUR", "active": True}


@pytest.fixture(scope="module", params=["payment", "inventory"])
def pair(request: pytest.FixtureRequest, stack: Stack) -> Iterator[tuple[Instance, Instance]]:
    """Two processes of a service."""
    second = stack.launch(request.param, 7)
    stack.await_ready(second.name)
    yield stack[f"{request.param}-1"], second
    second.stop()
    del stack.instances[second.name]


class Change(NamedTuple):
    """A request that changes something: its service, method and path, its body and another one, the path of what it
    changes, and a request that changes the same."""

    service: str
    method: str
    path: str
    body: dict[str, Any]
    other: dict[str, Any]
    thing: str
    meanwhile: tuple[str, str, dict[str, Any]]


def changes(customer: str, product: str) -> dict[str, Change]:
    account, entry = f"/accounts/{customer}", f"/products/{product}"
    deposits, restocks = f"{account}/deposits", f"{entry}/restocks"
    euro: dict[str, Any] = {"amount": 5, "currency": "EUR"}
    renamed = ("PUT", entry, {**CUP, "name": "Mug"})
    return {
        "deposit": Change(
            "payment", "POST", deposits, euro, {**euro, "amount": 6}, account, ("POST", deposits, {**euro, "amount": 7})
        ),
        "restock": Change("inventory", "POST", restocks, {"quantity": 5}, {"quantity": 6}, entry, renamed),
        "product": Change("inventory", "PUT", entry, CUP, {**CUP, "unit_price": 1}, entry, renamed),
    }


@pytest.mark.parametrize("kind", ["deposit", "restock", "product"])
def test_a_repeat_gets_the_first_answer_whatever_has_happened_since(stack: Stack, customer: str, kind: str) -> None:
    product = draw("sku")
    stack.product(product)
    change = changes(customer, product)[kind]

    def send(body: dict[str, Any]) -> httpx.Response:
        url = stack.url(change.service, change.path)
        return stack.http.request(change.method, url, json=body, headers={"idempotency-key": "k-1"})

    first = send(change.body)
    assert first.is_success
    assert "idempotency-replayed" not in first.headers
    method, path, body = change.meanwhile
    stack.http.request(method, stack.url(change.service, path), json=body).raise_for_status()
    before = stack.http.get(stack.url(change.service, change.thing))
    again = send(dict(reversed(change.body.items())))
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    other = send(change.other)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert stack.http.get(before.request.url).content == before.content


def test_a_repeat_at_two_processes_at_once_happens_once(stack: Stack, pair: tuple[Instance, Instance]) -> None:
    service = pair[0].service.name
    customer, product = draw("cust"), draw("sku")
    stack.product(product)
    change = changes(customer, product)["deposit" if service == "payment" else "restock"]

    def send(number: int) -> httpx.Response:
        url = f"http://{HOST}:{pair[number % 2].admin_port}{API}{change.path}"
        with httpx.Client(timeout=15) as client:
            while (answer := client.post(url, json=change.body, headers={"idempotency-key": "k"})).status_code == 503:
                assert "busy" in answer.json()["detail"]
            return answer

    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(send, range(24)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert (stack.balance(customer) if service == "payment" else stack.on_hand(product)) == 5


@pytest.mark.parametrize("kind", ["deposit", "restock", "product", "order", "batch", "cancel"])
def test_a_key_that_is_not_one_is_refused_on_every_route(stack: Stack, product: str, customer: str, kind: str) -> None:
    order = {"customer_id": customer, "product_id": product, "quantity": 1}
    match kind:
        case "order":
            method, url, content = "POST", stack.url("order-api", "/orders"), json.dumps(order)
        case "batch":
            method, url, content = "POST", stack.url("order-api", "/orders/batch"), json.dumps(order)
        case "cancel":
            order_id = stack.place(customer, (product, 1))
            method, url, content = "POST", stack.url("order-api", f"/orders/{order_id}/cancel"), "{}"
        case _:
            change = changes(customer, product)[kind]
            method, url, content = change.method, stack.url(change.service, change.path), json.dumps(change.body)
    content_type = NDJSON if kind == "batch" else [(b"content-type", b"application/json")]
    for keys in [("a", "b"), ("a", "a"), ("",), ("a b",), ("ä",), ("k" * 256,)]:
        headers = [*content_type, *((b"idempotency-key", key.encode("latin-1")) for key in keys)]
        answer = stack.http.request(method, url, content=content, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/idempotency-key"), keys


def test_a_batch_that_comes_twice_under_its_key_charges_once(stack: Stack, product: str, customer: str) -> None:
    lines = [json.dumps({"customer_id": customer, "product_id": product, "quantity": 1}) for _ in range(150)]
    url = stack.url("order-api", "/orders/batch")
    headers = [*NDJSON, (b"idempotency-key", draw("batch").encode())]

    def send(content: str) -> httpx.Response:
        return stack.http.post(url, content=content, headers=headers)

    with ThreadPoolExecutor(2) as clients:
        answers = [*clients.map(send, ["\n".join(lines)] * 2), send("\n\n".join(lines))]
    orders = [[json.loads(line)["order_id"] for line in answer.text.splitlines()] for answer in answers]
    assert orders[0] == orders[1] == orders[2]
    assert answers[2].headers["idempotency-replayed"] == "true"
    assert send("\n".join(lines[1:])).status_code == 422
    for order_id in set(orders[0]):
        stack.await_settled(order_id)
    assert stack.balance(customer) == BALANCE - 150 * 100


def test_a_cancellation_that_comes_twice_under_its_key_gets_the_first_answer(
    stack: Stack, product: str, customer: str
) -> None:
    order_id = stack.place(customer, (product, 1))
    stack.await_settled(order_id)

    def cancel(named: str, key: str) -> httpx.Response:
        return stack.http.post(stack.url("order-api", f"/orders/{named}/cancel"), headers={"idempotency-key": key})

    first = cancel(order_id, "c")
    assert (first.status_code, first.json()["status"]) == (202, "confirmed")
    eventually(lambda: stack.order(order_id)["status"] == "cancelled", f"order {order_id} is cancelled")
    again = cancel(order_id.upper(), "c")
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert cancel(order_id, "another").status_code == 409


def test_an_order_is_found_by_its_id_in_upper_case(stack: Stack, product: str, customer: str) -> None:
    order_id = stack.place(customer, (product, 1))
    stack.await_settled(order_id)
    url = stack.url("order-api", f"/orders/{order_id.upper()}")
    assert stack.http.get(url).json() == stack.order(order_id)
    assert "event: settled" in stack.http.get(f"{url}/events").text


def test_the_last_page_has_no_next_one(stack: Stack, customer: str) -> None:
    for _ in range(3):
        stack.account(customer, 1)
    products = [f"zzzz-{number}" for number in range(4)]
    for name in products:
        stack.product(name)

    def pages(service: str, path: str, **query: Any) -> list[int]:
        """The lengths of all pages, from this one to that without a next one."""
        lengths = []
        while query.get("cursor", "") is not None:
            page = stack.http.get(stack.url(service, path), params=query).json()
            lengths.append(len(page.get("entries") or page.get("products")))
            query["cursor"] = page["next_cursor"]
        return lengths

    assert pages("payment", f"/accounts/{customer}/ledger", limit=4) == [4]
    assert pages("payment", f"/accounts/{customer}/ledger", limit=2) == [2, 2]
    assert pages("inventory", "/products", limit=4, cursor="zzzz") == [4]
    assert pages("inventory", "/products", limit=2, cursor="zzzz") == [2, 2]
