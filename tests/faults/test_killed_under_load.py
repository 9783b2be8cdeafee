"""Three instances of each consumer run under load, and one of each is killed. No order is lost or decided twice."""

import itertools
import threading
import time

import httpx
import pytest

from tests.audit import assert_consistent, await_rest
from tests.stack import Stack
from tests.waiting import eventually

CONSUMERS = ("payment", "inventory", "order-saga")
INSTANCES = 3
CUSTOMERS = 200


@pytest.fixture(scope="module")
def crowd(own_stack: Stack) -> Stack:
    """Three of each consumer, one api, customers who can pay and a product in stock."""
    own_stack.launch_all()
    for service in CONSUMERS:
        for number in range(2, INSTANCES + 1):
            own_stack.launch(service, number)
    own_stack.product("sku-a", price=1, pieces=10**7)
    for i in range(CUSTOMERS):
        own_stack.account(f"cust-{i}", 10**7)
    own_stack.await_ready()
    own_stack.await_orderable("sku-a")
    return own_stack


class Load:
    """Places orders without a pause until told to stop, and keeps the ids of those accepted."""

    def __init__(self, stack: Stack) -> None:
        self.accepted: list[str] = []
        self._url = stack.url("order-api", "/orders")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=15) as client:
            for n in itertools.count():
                if self._stopping.is_set():
                    return
                body = {"customer_id": f"cust-{n % CUSTOMERS}", "product_id": "sku-a", "quantity": 1}
                answer = client.post(self._url, json=body)
                assert answer.status_code == 202, answer.text
                self.accepted.append(answer.json()["order_id"])


def settled_since(stack: Stack, first: int, accepted: list[str]) -> bool:
    """Whether the next `CUSTOMERS` orders after the first ones are accepted and settled: enough to be in all
    partitions."""
    following = accepted[first : first + CUSTOMERS]
    if len(following) < CUSTOMERS:
        return False
    [(count,)] = stack.query(
        "order", "SELECT count(*) FROM orders WHERE order_id = ANY(%s::uuid[]) AND settled_at IS NOT NULL", (following,)
    )
    return bool(count == CUSTOMERS)


def test_a_killed_consumer_loses_nothing_and_is_replaced(crowd: Stack) -> None:
    with Load(crowd) as load:
        eventually(lambda: settled_since(crowd, 0, load.accepted), "the load flows")
        for service in CONSUMERS:
            killed_at = len(load.accepted)
            crowd[f"{service}-2"].kill()
            started = time.monotonic()
            eventually(
                lambda k=killed_at: settled_since(crowd, k, load.accepted),  # type: ignore[misc]
                f"the partitions of {service}-2 are taken over",
            )
            print(f"{service}: taken over {time.monotonic() - started:.1f} s after the kill")
    await_rest(crowd, load.accepted)
    assert_consistent(crowd)
