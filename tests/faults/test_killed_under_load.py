"""Three instances of each consumer run under load, and one of each is killed. No order is lost or decided twice."""

import time

import httpx
import pytest

from tests.audit import assert_consistent, await_rest
from tests.load import Clients, await_settled_from_now
from tests.stack import Stack

CONSUMERS = ("payment", "inventory", "order-saga")
INSTANCES = 3
CUSTOMERS = 48
"""Enough for orders in every partition."""


@pytest.fixture(scope="module")
def crowd(own_stack: Stack) -> Stack:
    """Three of each consumer, one api, customers who can pay and a product in stock."""
    own_stack.launch_all()
    for service in CONSUMERS:
        for number in range(2, INSTANCES + 1):
            own_stack.launch(service, number)
    own_stack.product("sku-a", price=1, pieces=10**7)
    own_stack.accounts((f"cust-{i}" for i in range(CUSTOMERS)), 10**7)
    own_stack.await_ready()
    own_stack.await_orderable("sku-a")
    return own_stack


class Load(Clients):
    """Places orders without a pause until told to stop, and keeps the ids of those accepted."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(self._order)
        self.accepted: list[str] = []
        self._url = stack.url("order-api", "/orders")

    def _order(self, client: httpx.Client, number: int) -> None:
        body = {"customer_id": f"cust-{number % CUSTOMERS}", "product_id": "sku-a", "quantity": 1}
        answer = client.post(self._url, json=body)
        assert answer.status_code == 202, answer.text
        self.accepted.append(answer.json()["order_id"])


def test_a_killed_consumer_loses_nothing_and_is_replaced(crowd: Stack) -> None:
    with Load(crowd) as load:
        await_settled_from_now(crowd, load.accepted, CUSTOMERS, "while nothing is killed")
        for service in CONSUMERS:
            crowd[f"{service}-2"].kill()
            started = time.monotonic()
            await_settled_from_now(crowd, load.accepted, CUSTOMERS, f"without {service}-2")
            print(f"{service}: taken over {time.monotonic() - started:.1f} s after the kill")
    await_rest(crowd, load.accepted)
    assert_consistent(crowd)
