"""Orders of every sort at once, over HTTP. Each ends as its input implies, and all balances add up.

At a larger size: `TANDEM_TEST_ORDERS=20000 just test tests/e2e/test_outcomes.py`.
"""

import os
import random
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from tests.audit import assert_consistent, await_rest
from tests.stack import Stack
from tests.waiting import PATIENCE_S

ORDERS = int(os.environ.get("TANDEM_TEST_ORDERS", "2000"))
SEED = 20261123
CUSTOMERS = 50
CLIENTS = 8
PRICE = 250
RICH = 10**12
PLENTY = 10**8


@dataclass
class Expected:
    """What a customer orders, one after the other, and how each order ends."""

    customer_id: str
    orders: list[list[tuple[str, int]]] = field(default_factory=list)
    outcomes: list[set[tuple[str, str | None]]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def add(self, items: Iterable[tuple[str, int]], *outcomes: tuple[str, str | None]) -> None:
        self.orders.append(list(items))
        self.outcomes.append(set(outcomes))


CONFIRMED = ("confirmed", None)
NO_FUNDS = ("rejected", "insufficient_funds")
NO_STOCK = ("rejected", "out_of_stock")


def test_each_order_ends_as_its_input_implies_and_all_adds_up(stack: Stack) -> None:
    draw = random.Random(SEED)
    run = f"e2e{draw.randrange(10**6)}"
    products = [f"{run}-p{i}" for i in range(20)]
    scarce, empty = f"{run}-scarce", f"{run}-empty"
    scarce_pieces = ORDERS // 40
    for product_id in products:
        stack.product(product_id, price=PRICE, pieces=PLENTY)
    stack.product(scarce, price=PRICE, pieces=scarce_pieces)
    stack.product(empty, price=PRICE)
    sold: Counter[str] = Counter()
    customers, spent = [], {}
    affordable = ORDERS // CUSTOMERS // 4
    for i in range(CUSTOMERS):
        # One customer in five can pay for a few orders only. They come first, and each has the same amount.
        limited = i % 5 == 0
        customer = Expected(f"{run}-c{i}")
        balance = affordable * PRICE if limited else RICH
        stack.account(customer.customer_id, balance)
        spent[customer.customer_id] = 0
        for n in range(ORDERS // CUSTOMERS):
            product_id = draw.choice(products)
            sort = "limited" if limited else draw.choice(["single", "multi", "twice", "scarce", "empty"])
            if limited and n >= affordable:
                # Over the balance, and now and then out of stock too: then either side may refuse first.
                if n % 3:
                    customer.add([(product_id, 1)], NO_FUNDS)
                else:
                    customer.add([(product_id, 1), (empty, 1)], NO_FUNDS, NO_STOCK)
                continue
            match sort:
                case "limited" | "single":
                    items = [(product_id, 1)]
                case "multi":
                    items = [(p, draw.randint(1, 5)) for p in draw.sample(products, 3)]
                case "twice":
                    items = [(product_id, 2), (product_id, 3)]
                case "scarce":
                    # Any customer may get one of the last pieces; the number sold is known.
                    customer.add([(scarce, 1)], CONFIRMED, NO_STOCK)
                    continue
                case _:
                    customer.add([(product_id, 2), (empty, 1)], NO_STOCK)
                    continue
            customer.add(items, CONFIRMED)
            for p, quantity in items:
                sold[p] += quantity
                spent[customer.customer_id] += quantity * PRICE
        customers.append(customer)
    for product_id in (*products, scarce, empty):
        stack.await_orderable(product_id)

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda customer: _place_all(stack, customer), customers))

    ids = [order_id for customer in customers for order_id in customer.ids]
    await_rest(stack, ids, max(PATIENCE_S, len(ids) / 50))
    outcomes = {
        str(order_id): (status, reason)
        for order_id, status, reason in stack.query("order", "SELECT order_id, status, reason FROM orders")
    }
    scarce_sold = 0
    for customer in customers:
        for order_id, items, allowed in zip(customer.ids, customer.orders, customer.outcomes, strict=True):
            assert outcomes[order_id] in allowed, f"{order_id} {items}: {outcomes[order_id]}, expected {allowed}"
            if items == [(scarce, 1)] and outcomes[order_id] == CONFIRMED:
                scarce_sold += 1
                spent[customer.customer_id] += PRICE
    for customer in customers:
        opened = affordable * PRICE if customers.index(customer) % 5 == 0 else RICH
        assert stack.balance(customer.customer_id) == opened - spent[customer.customer_id], customer.customer_id
    for product_id in products:
        assert stack.on_hand(product_id) == PLENTY - sold[product_id], product_id
    assert (stack.on_hand(scarce), scarce_sold) == (0, scarce_pieces)
    assert_consistent(stack)


def _place_all(stack: Stack, customer: Expected) -> None:
    with httpx.Client(timeout=30) as client:
        for items in customer.orders:
            lines = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in items]
            body = {"customer_id": customer.customer_id, "items": lines}
            answer = client.post(stack.url("order-api", "/orders"), json=body)
            assert answer.status_code == 202, answer.text
            customer.ids.append(answer.json()["order_id"])
