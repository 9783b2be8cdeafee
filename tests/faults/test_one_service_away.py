"""The failure of one service stops no other: each part is taken away in turn and comes back."""

from collections.abc import Iterator

import httpx
import pytest

from tests.audit import assert_consistent, await_rest
from tests.stack import Stack, frozen
from tests.waiting import eventually

CUSTOMERS = 5
ORDERS = 40


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Iterator[Stack]:
    """One of each process, customers who can pay and a product in stock."""
    own_stack.launch_all()
    own_stack.product("sku-a", price=100, pieces=10**6)
    for i in range(CUSTOMERS):
        own_stack.account(f"cust-{i}", 10**6)
    own_stack.await_settled(own_stack.await_orderable("sku-a"))
    yield own_stack
    await_rest(own_stack, ())
    assert_consistent(own_stack)


def place_some(stack: Stack) -> list[str]:
    return [stack.place(f"cust-{i % CUSTOMERS}", ("sku-a", 1)) for i in range(ORDERS)]


def decided_by(stack: Stack, service: str, table: str, ids: list[str]) -> int:
    [(count,)] = stack.query(service, f"SELECT count(*) FROM {table} WHERE order_id = ANY(%s::uuid[])", (ids,))
    return int(count)


def await_confirmed(stack: Stack, ids: list[str]) -> None:
    for order_id in ids:
        assert stack.await_settled(order_id)["status"] == "confirmed"


@pytest.mark.parametrize(
    ("away", "other", "table"), [("payment-1", "inventory", "reservations"), ("inventory-1", "payment", "payments")]
)
def test_orders_are_accepted_and_the_other_side_goes_on(shop: Stack, away: str, other: str, table: str) -> None:
    shop[away].kill()
    ids = place_some(shop)
    eventually(lambda: decided_by(shop, other, table, ids) == ORDERS, f"{other} has decided all")
    assert {shop.order(order_id)["status"] for order_id in ids} == {"pending"}
    shop[away].launch()
    await_confirmed(shop, ids)


def test_with_the_saga_away_both_sides_go_on(shop: Stack) -> None:
    shop["order-saga-1"].kill()
    ids = place_some(shop)
    eventually(lambda: decided_by(shop, "payment", "payments", ids) == ORDERS, "payment has decided all")
    eventually(lambda: decided_by(shop, "inventory", "reservations", ids) == ORDERS, "inventory has decided all")
    shop["order-saga-1"].launch()
    await_confirmed(shop, ids)


@pytest.mark.parametrize("database", ["payment", "inventory", "order"])
def test_with_a_database_out_of_reach_orders_are_accepted_and_settle_later(shop: Stack, database: str) -> None:
    service = {"payment": "payment-1", "inventory": "inventory-1", "order": "order-saga-1"}[database]
    shop.proxies[database].cut()
    ids = place_some(shop)
    eventually(lambda: shop[service].unready() is not None, f"{service} says that its database is away")
    assert (
        database in str(shop[service].get("/readyz").json()["missing"])
        or "PostgreSQL" in shop[service].get("/readyz").text
    )
    shop.proxies[database].restore()
    await_confirmed(shop, ids)
    shop.await_ready(service)


def test_with_the_order_database_out_of_reach_only_keyed_orders_are_put_off(shop: Stack) -> None:
    url = shop.url("order-api", "/orders")
    body = {"customer_id": "cust-0", "product_id": "sku-a", "quantity": 1}

    def keyed(status: int) -> httpx.Response | None:
        answer = shop.http.post(url, json=body, headers={"idempotency-key": "away"})
        return answer if answer.status_code == status else None

    shop.proxies["order"].cut()
    refused = eventually(lambda: keyed(503), "keyed orders are put off")
    assert int(refused.headers["retry-after"]) >= 1
    unkeyed = shop.post(body)
    assert unkeyed.status_code == 202
    shop.proxies["order"].restore()
    accepted = eventually(lambda: keyed(202), "keyed orders are accepted again")
    again = keyed(202)
    assert again is not None
    assert again.json() == accepted.json()
    await_confirmed(shop, [unkeyed.json()["order_id"], accepted.json()["order_id"]])


def test_with_the_broker_away_orders_are_refused_at_once_and_accepted_when_it_returns(shop: Stack) -> None:
    before = shop.query("order", "SELECT count(*) FROM orders")
    shop.kafka.kill()
    body = {"customer_id": "cust-0", "product_id": "sku-a", "quantity": 1}

    def refused_at_once() -> bool:
        """A 503 that names no order was answered before anything was sent to Kafka, so it has not waited."""
        answer = shop.post(body)
        return answer.status_code == 503 and "order_id" not in answer.json() and int(answer.headers["retry-after"]) >= 1

    eventually(refused_at_once, "orders are refused with 503 and Retry-After")
    assert all(refused_at_once() for _ in range(5)), "as long as the broker is known to be away"
    shop.kafka.start()
    eventually(lambda: shop.post(body).status_code == 202, "orders are accepted again")
    await_confirmed(shop, place_some(shop))
    shop.await_ready()
    assert shop.query("order", "SELECT count(*) FROM orders") > before


def test_with_a_frozen_consumer_another_takes_over_and_the_zombie_does_no_harm(shop: Stack) -> None:
    shop.launch("payment", 2)
    shop.await_ready("payment-2")
    with frozen(shop["payment-1"]):
        ids = place_some(shop)
        await_confirmed(shop, ids)
    shop.await_ready("payment-1")
    await_confirmed(shop, place_some(shop))
    shop["payment-2"].stop()
