"""What the order api promises, against the real log, saga and database."""

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest

from dev.settings import HOST
from tests.integration.conftest import draw
from tests.stack import API, Instance, Stack
from tests.waiting import eventually

NOBODYS = "01997c00-5a5a-7000-8000-00000000beef"
"""An order id that was never issued."""


PAUSE_S = 0.005
"""A client's pause between two orders: eight of them are far from an overload."""
SERVED = re.compile(r'tandem_http_requests_total{method="GET",route="/api/v1/[^"]*_id}",status="200"} [1-9]')


@pytest.fixture(scope="module")
def second(stack: Stack) -> Iterator[Instance]:
    """Another api process, reached by its admin port."""
    instance = stack.launch("order-api", 2)
    stack.await_ready(instance.name)
    yield instance
    instance.stop()
    del stack.instances[instance.name]


def at(instance: Instance, path: str) -> str:
    return f"http://{HOST}:{instance.admin_port}{API}{path}"


def body(customer_id: str, product_id: str, **fields: Any) -> dict[str, Any]:
    return {"customer_id": customer_id, "product_id": product_id, "quantity": 1, **fields}


def test_an_accepted_order_is_found_at_once_by_any_process(
    stack: Stack, second: Instance, product: str, customer: str
) -> None:
    for _ in range(30):
        placed = stack.http.post(at(stack["order-api-1"], "/orders"), json=body(customer, product))
        assert placed.status_code == 202, placed.text
        for instance in (second, stack["order-api-1"]):
            url = at(instance, placed.headers["location"].removeprefix(API))
            answer = eventually(lambda url=url: lookup_answer(stack.http.get(url)), "it is found")  # type: ignore[misc]
            assert answer.json()["order_id"] == placed.json()["order_id"]


def lookup_answer(answer: httpx.Response) -> httpx.Response | None:
    """The answer with the order. None while the saga is too far behind the log to say anything, which is never 404."""
    if answer.status_code == 503:
        assert "behind the log" in answer.text
        return None
    assert answer.status_code == 200, answer.text
    return answer


def test_a_settled_order_tells_its_whole_story(stack: Stack, product: str, customer: str) -> None:
    order = stack.await_settled(stack.place(customer, (product, 2), (product, 1)))
    assert {name: order[name] for name in ("customer_id", "status", "reason", "amount", "currency")} == {
        "customer_id": customer,
        "status": "confirmed",
        "reason": None,
        "amount": 300,
        "currency": "EUR",
    }
    assert (order["payment"], order["inventory"], order["settled"]) == ("completed", "reserved", True)
    assert [item["quantity"] for item in order["items"]] == [2, 1]
    assert {entry["event"] for entry in order["timeline"]} >= {
        "order.placed",
        "payment.completed",
        "inventory.reserved",
        "order.confirmed",
    }
    placed = next(entry for entry in order["timeline"] if entry["event"] == "order.placed")
    assert (placed["at"], placed["after_ms"]) == (order["placed_at"], 0)
    assert order["placed_at"] <= order["decided_at"] <= order["settled_at"]


@pytest.mark.parametrize("order_id", [NOBODYS, "x", "%00", "..%2f..", NOBODYS.upper()])
def test_an_unknown_order_is_not_found(stack: Stack, order_id: str) -> None:
    for method, path in (("GET", f"/orders/{order_id}"), ("POST", f"/orders/{order_id}/cancel")):
        answer = stack.http.request(method, stack.url("order-api", path))
        assert answer.status_code == 404, answer.text
        assert answer.json()["status"] == 404


def test_pages_hold_every_order_once_newest_first(stack: Stack, product: str, customer: str) -> None:
    placed = [stack.place(customer, (product, 1)) for _ in range(7)]
    for order_id in placed:
        stack.await_settled(order_id)
    listed: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        query = {"customer_id": customer, "limit": "3", **cursor}
        page = stack.http.get(stack.url("order-api", "/orders"), params=query).json()
        listed += [order["order_id"] for order in page["orders"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert listed == sorted(placed, reverse=True)
    for status, count in (("confirmed", 7), ("rejected", 0)):
        query = {"customer_id": customer, "status": status}
        assert len(stack.http.get(stack.url("order-api", "/orders"), params=query).json()["orders"]) == count


def test_a_wrong_query_is_answered_with_every_parameter_at_fault(stack: Stack) -> None:
    answer = stack.http.get(stack.url("order-api", "/orders"), params={"status": "x", "limit": "0", "page": "1"})
    assert answer.status_code == 422
    assert {fault["pointer"] for fault in answer.json()["errors"]} == {"?customer_id", "?status", "?limit", "?page"}


def test_an_order_is_cancelled_once(stack: Stack, product: str, customer: str) -> None:
    order_id = stack.place(customer, (product, 1))
    path = stack.url("order-api", f"/orders/{order_id}/cancel")
    answer = stack.http.post(path)
    assert answer.status_code == 202
    assert (answer.json()["order_id"], answer.json()["cancel"]) == (order_id, "requested")
    cancelled = eventually(
        lambda: (order := stack.order(order_id))["status"] == "cancelled" and order["settled"] and order,
        f"order {order_id} is cancelled and settled",
    )
    assert cancelled["reason"] == "customer"
    assert stack.http.post(path).status_code == 409
    assert stack.balance(customer) == 10**6


def test_the_price_is_the_one_at_acceptance(stack: Stack, customer: str) -> None:
    product_id = draw("api")
    stack.product(product_id, price=100, pieces=10)
    stack.await_orderable(product_id)
    assert stack.post(body(customer, product_id, expected_amount=100)).status_code == 202
    stack.product(product_id, price=120)

    def refused() -> dict[str, Any] | None:
        answer = stack.post(body(customer, product_id, expected_amount=100))
        return answer.json() if answer.status_code == 409 else None

    problem = eventually(refused, "the new price is known")
    assert problem["type"] == "/problems/price-changed"
    assert "120" in problem["detail"]


def test_a_product_that_is_not_for_sale_is_named(stack: Stack, product: str, customer: str) -> None:
    lines = [{"product_id": product, "quantity": 1}, {"product_id": "no-such-product", "quantity": 1}]
    answer = stack.post({"customer_id": customer, "items": lines})
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["#/items/1/product_id"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"customer_id":"\xff"}', "application/json", 400),
        (b'{"customer_id":' + b"[" * 60_000, "application/json", 400),
        (b" " * 65_537, "application/json", 413),
        (b"{}", "text/plain", 415),
        (b"{}", "application/json", 422),
    ],
)
def test_every_refusal_is_a_problem_document(stack: Stack, content: bytes, kind: str, status: int) -> None:
    answer = stack.http.post(
        stack.url("order-api", "/orders"), content=content, headers={"content-type": kind, "x-request-id": "mine"}
    )
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine"


def test_orders_in_flight_are_acknowledged_before_the_process_ends(stack: Stack, product: str, customer: str) -> None:
    leaving = stack.launch("order-api", 3)
    stack.await_ready(leaving.name)
    accepted: list[str] = []
    stopping = threading.Event()

    def order_until_it_is_gone() -> None:
        with httpx.Client(timeout=15) as client:
            while True:
                try:
                    answer = client.post(at(leaving, "/orders"), json=body(customer, product))
                except httpx.HTTPError:
                    # Between two requests the connection may close; within one it must not, so the process is gone.
                    assert stopping.is_set()
                    return
                assert answer.status_code == 202, answer.text
                accepted.append(answer.json()["order_id"])

    with ThreadPoolExecutor() as clients:
        waiting = [clients.submit(order_until_it_is_gone) for _ in range(8)]
        eventually(lambda: len(accepted) >= 5 * len(waiting), "orders are being accepted", ended=leaving.ended)
        stopping.set()
        leaving.stop(timeout_s=20)
        for client in waiting:
            client.result()
    del stack.instances[leaving.name]
    assert accepted
    for order_id in accepted:
        assert stack.order(order_id)["order_id"] == order_id


def test_instances_come_and_go_and_no_request_fails(stack: Stack, product: str, customer: str) -> None:
    """Requests of each kind, over connections that are kept and over new ones."""
    enough = threading.Event()
    placed = stack.place(customer, (product, 1))
    orders = stack.url("order-api", "/orders")
    reads = [
        f"{orders}/{placed}",
        f"{orders}?customer_id={customer}&limit=1",
        stack.url("payment", f"/accounts/{customer}"),
        stack.url("inventory", f"/products/{product}"),
    ]

    def requests(number: int) -> Iterator[httpx.Request]:
        while True:
            yield from (httpx.Request("GET", url) for url in reads)
            yield httpx.Request("POST", orders, json=body(customer, product))
            keyed = {"idempotency-key": draw(f"scale-{number}")}
            yield httpx.Request("POST", orders, json=body(customer, product), headers=keyed)

    def keep_asking(number: int) -> int:
        limits = httpx.Limits(max_keepalive_connections=3 * (number % 2))
        answered = 0
        with httpx.Client(timeout=15, limits=limits) as client:
            for request in requests(number):
                if enough.wait(PAUSE_S):
                    break
                answer = client.send(request)
                assert answer.status_code in (200, 202), f"{request.method} {request.url}: {answer.text}"
                answered += 1
        return answered

    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(keep_asking, number) for number in range(8)]

        def is_asked(instance: Instance) -> bool:
            for client in asking:
                if client.done():
                    client.result()  # raises the error of this client
            return SERVED.search(instance.get("/metrics").text) is not None

        names = ("order-api", "payment", "inventory")
        try:
            for _ in range(2):
                leaving = [stack.launch(name, 5) for name in names]
                for instance in leaving:
                    instance.await_ready()
                    instance.await_answer(partial(is_asked, instance), "is asked")
                for instance in leaving:
                    instance.stop(timeout_s=20)
        finally:
            enough.set()
            for name in names:
                stack.instances.pop(f"{name}-5").kill()
        assert all(client.result() for client in asking)


def test_while_lists_are_slow_the_database_is_busy_and_not_away(
    stack: Stack, second: Instance, product: str, customer: str
) -> None:
    order_id = stack.place(customer, (product, 1))
    stack.await_settled(order_id)

    def list_orders(_: int) -> httpx.Response:
        return httpx.get(at(second, "/orders"), params={"customer_id": customer}, timeout=30)

    with (
        psycopg.connect(stack.variables["ORDER_ADMIN_URL"], dbname="order") as owner,
        psycopg.connect(stack.variables["ORDER_ADMIN_URL"], dbname="order", autocommit=True) as observer,
        ThreadPoolExecutor(8) as clients,
    ):
        owner.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        lists = [clients.submit(list_orders, number) for number in range(8)]
        slow = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
        eventually(lambda: observer.execute(slow, (second.name,)).fetchone() == (2,), "lists use half of the pool")
        keyed = [
            httpx.post(at(second, "/orders"), json=body(customer, product), headers={"idempotency-key": draw("slow")})
            for _ in range(5)
        ]
        listed = [answer.result() for answer in lists]
        ready = second.get("/readyz").json()
        owner.rollback()
    assert ready["degraded"] == []
    assert [answer.status_code for answer in keyed] == [202] * 5, keyed[0].text
    assert [answer.status_code for answer in listed] == [503] * 8
    assert all("busy" in answer.json()["detail"] for answer in listed), listed[0].text


def test_metrics_are_exposed(stack: Stack, product: str, customer: str) -> None:
    stack.await_settled(stack.place(customer, (product, 1)))
    text = stack["order-api-1"].get("/metrics").text
    for name in ("tandem_http_requests_total", "tandem_order_accept_seconds_bucket", "tandem_pool_in_use"):
        assert name in text
    saga = stack["order-saga-1"].get("/metrics").text
    assert re.search(r"^tandem_order_settle_seconds_count [1-9]", saga, re.MULTILINE)
    assert "\ntandem_ready 1.0\n" in saga


def test_no_client_can_make_a_label_of_the_metrics(stack: Stack) -> None:
    """Each would be a series for ever."""
    with socket.create_connection((HOST, stack.ports["order-api"])) as connection:
        connection.sendall(b"TEAPOT /invented HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.1 400 ")
    stack.http.get(stack.url("order-api", "/invented"))
    text = stack["order-api-1"].get("/metrics").text
    assert "TEAPOT" not in text
    assert "invented" not in text
