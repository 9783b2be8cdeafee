"""The shops' clients place, wait, stream, cancel and page, and never order twice."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from dev.environment import child
from dev.settings import HOST, ROOT, free_ports
from examples.shop import shop as module
from examples.shop.shop import Refused, Shop, Unanswered
from tests.integration.conftest import PRICE, draw
from tests.stack import Instance, Stack
from tests.waiting import PATIENCE_S, eventually

SHOP: Final = Path(module.__file__).parent
CLIENTS: Final = 3
KILLS: Final = 5
ORDERS_A_KILL: Final = 20


@pytest.fixture
def shop(api: str) -> Iterator[Shop]:
    shop = Shop(api)
    yield shop
    shop.close()


def test_a_basket_that_is_sent_twice_is_one_order(shop: Shop, customer: str, product: str) -> None:
    basket = {"customer_id": customer, "product_id": product, "quantity": 2}
    placed = shop.place(basket, key="basket-1")
    assert placed["amount"] == 2 * PRICE
    assert shop.place(basket, key="basket-1") == placed
    assert shop.wait(placed["order_id"])["status"] == "confirmed"
    assert [order["order_id"] for order in shop.orders(customer)] == [placed["order_id"]]


def test_a_wait_of_hours_does_not_end_in_an_overflow() -> None:
    assert module._doubled_s(module.POLL_S, 20_000, module.POLL_MAX_S) == module.POLL_MAX_S
    assert [module._doubled_s(0.1, attempt, 5.0) for attempt in (0, 1, 5, 6)] == [0.1, 0.2, 3.2, 5.0]
    assert 0 <= module._jitter_s(20_000) <= module.PAUSE_MAX_S


def test_the_stream_tells_the_story_and_ends_with_the_order(shop: Shop, customer: str, product: str) -> None:
    placed = shop.place({"customer_id": customer, "product_id": product, "quantity": 1}, key="basket-2")
    names, entries = zip(*shop.stream(placed["order_id"]), strict=True)
    assert names[0] == "order.placed"
    assert set(names[1:-2]) == {"payment.completed", "inventory.reserved"}
    assert names[-2:] == ("order.confirmed", "settled")
    assert entries[-1] == shop.order(placed["order_id"])


def test_a_cancelled_order_is_settled_again(shop: Shop, customer: str, product: str) -> None:
    placed = shop.place({"customer_id": customer, "product_id": product, "quantity": 1}, key="basket-3")
    assert shop.cancel(placed["order_id"], key="cancel-3")
    order = shop.wait(placed["order_id"], undone=True)
    assert (order["status"], order["settled"]) == ("cancelled", True)
    assert shop.cancel(placed["order_id"], key="cancel-3"), "a repeat gets the first answer"
    assert not shop.cancel(placed["order_id"], key="cancel-4")


def test_all_pages_of_a_customer(shop: Shop, customer: str, product: str) -> None:
    basket = {"customer_id": customer, "product_id": product, "quantity": 1}
    placed = [shop.place(basket, key=f"basket-{number}")["order_id"] for number in range(5)]
    shop.wait(placed[-1])
    assert sorted(order["order_id"] for order in shop.orders(customer, page=2)) == sorted(placed)


def test_a_refusal_is_not_repeated(shop: Shop, customer: str) -> None:
    with pytest.raises(Refused, match="422") as refused:
        shop.place({"customer_id": customer, "product_id": "sku-no-such", "quantity": 1}, key="basket-5")
    assert refused.value.problem["errors"][0]["pointer"] == "#/product_id"
    with pytest.raises(Refused, match="404"):
        shop.order("01a20698-5702-759d-bf21-11993ae5d7ab")


def test_what_another_attempt_may_not_get_is_repeated_with_its_key() -> None:
    statuses, keys = iter([408, 429, 503, 202]), list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        return httpx.Response(next(statuses), json={"order_id": "x"})

    shop = Shop("http://shop")
    shop._http = httpx.Client(base_url="http://shop", transport=httpx.MockTransport(answer))
    assert shop.place({}, key="basket-6") == {"order_id": "x"}
    assert keys == ["basket-6"] * 4


def test_a_shop_gives_up_when_its_patience_ends() -> None:
    [nothing_listens] = free_ports(1)
    shop = Shop(f"http://{HOST}:{nothing_listens}", patience_s=0.3)
    with pytest.raises(Unanswered, match=r"POST /orders: \d+ attempts"):
        shop.place({}, key="basket-6")
    with pytest.raises(Unanswered, match="does not go on"):
        list(shop.stream("x"))
    shop.close()


def told(*command: str, token: str = "") -> list[str]:
    """The lines that a client prints, with a token if there is one."""
    variables = child({"TOKEN": token} if token else None)
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_python_client_as_a_program(api: str, customer: str, product: str) -> None:
    lines = told(sys.executable, str(SHOP / "shop.py"), api, customer, product)
    assert lines[0].startswith("placed ")
    assert "  settled confirmed" in lines
    assert "after the cancellation: cancelled" in lines
    assert lines[-1].startswith(f"orders of {customer} [")


def test_the_shell_client(api: str, customer: str, product: str) -> None:
    lines = told(str(SHOP / "shop.sh"), api, customer, product)
    order_id = lines[0].removeprefix("placed ")
    assert lines[1] == "  order.placed"
    assert lines[-4:] == ["  settled", "settled confirmed", "cancel 202", order_id]


def test_the_shell_client_does_not_repeat_a_refusal(api: str, customer: str) -> None:
    command = [str(SHOP / "shop.sh"), api, customer, "sku-no-such"]
    done = subprocess.run(command, env=child(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 4
    assert "sku-no-such" in done.stderr


def test_the_typescript_client(node: Path, api: str, customer: str, product: str) -> None:
    lines = told(str(node), str(SHOP / "shop.ts"), api, customer, product)
    order_id = lines[0].removeprefix("placed ")
    assert lines[1] == "  order.placed"
    assert "settled confirmed" in lines
    assert "after the cancellation: cancelled" in lines
    assert lines[-1] == order_id


class Baskets(threading.Thread):
    """Places one basket after the other until told to stop. Notes each order under its key."""

    def __init__(self, url: str, customer_id: str, product_id: str) -> None:
        super().__init__()
        self.orders: dict[str, str] = {}
        self.stopping = threading.Event()
        self._shop = Shop(url, patience_s=PATIENCE_S)
        self._basket = {"customer_id": customer_id, "product_id": product_id, "quantity": 1}

    def run(self) -> None:
        for number in itertools.count():
            if self.stopping.is_set():
                break
            key = f"basket-{number}"
            self.orders[key] = self._shop.place(self._basket, key)["order_id"]
        self._shop.close()


@pytest.fixture
def doomed(stack: Stack) -> Iterator[Instance]:
    """An order api of its own port, beside the one that others use."""
    [port] = free_ports(1)
    instance = stack.launch("order-api", 2, {"HTTP_PORT": str(port)})
    instance.await_ready()
    yield instance
    instance.stop()
    del stack.instances[instance.name]


def test_nothing_is_ordered_twice_or_lost_while_the_api_is_killed(stack: Stack, doomed: Instance, product: str) -> None:
    customers = [draw("cust-killed") for _ in range(CLIENTS)]
    for customer_id in customers:
        stack.account(customer_id, 10**9)
    clients = [Baskets(f"http://{HOST}:{doomed.variables['HTTP_PORT']}", c, product) for c in customers]

    def placed() -> int:
        return sum(len(client.orders) for client in clients)

    for client in clients:
        client.start()
    try:
        for _ in range(KILLS):
            before = placed()
            eventually(lambda b=before: placed() >= b + ORDERS_A_KILL, "orders are placed between two kills")  # type: ignore[misc]
            doomed.kill()
            doomed.launch()
    finally:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join()
    named = [order_id for client in clients for order_id in client.orders.values()]
    assert len(named) == len(set(named)), "two keys are one order"
    await_settled = "SELECT count(*) FROM orders WHERE order_id = ANY(%s::uuid[]) AND settled_at IS NOT NULL"
    eventually(lambda: stack.query("order", await_settled, (named,)) == [(len(named),)], "all orders are settled")
    query = "SELECT order_id::text, status FROM orders WHERE customer_id = ANY(%s)"
    assert dict(stack.query("order", query, (customers,))) == dict.fromkeys(named, "confirmed")
