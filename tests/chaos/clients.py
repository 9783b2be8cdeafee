"""The customers of a chaos run: those of `tests.clients`, at a rate, drawn from a seed, and more patient than a fault.

Clients without a key do more: when they are told that an order may still be placed, they ask for it later.
"""

import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Final

from tests import clients
from tests.chaos.arena import CUSTOMERS, PRODUCTS, SCARCE_PRODUCTS
from tests.clients import Body, Book, MakeClient
from tests.stack import Stack
from tests.waiting import eventually

ASK_AFTER_S: Final = 11.0  # the order api says: ask for it after 10 s
AGAIN_SHARE: Final = 0.05
SINGLES_PER_S: Final = 24
MANY_PER_S: Final = 4
OF_EACH: Final = 4


class Customer(clients.Buyer):
    """Orders for one customer after another, at a rate. It does not catch up on orders it was too slow for."""

    patience_s = 300.0
    look_up_every = 20
    cancel_every = 20

    def __init__(self, stack: Stack, book: Book, seed: int, number: int = 0, per_s: float = 1.0) -> None:
        self.random = random.Random(f"{seed}/{type(self).__name__}/{number}")
        super().__init__(stack, book)
        self._every_s = 1 / per_s
        self._due = time.monotonic()

    def rest(self) -> None:
        now = time.monotonic()
        self._due = max(self._due + self._every_s, now - 1)
        self.stopping.wait(max(0.0, self._due - now))

    def draw(self) -> Iterator[Body]:
        """Most orders can be filled; some are declined, out of stock, or from nobody."""
        draw = self.random
        while True:
            chance = draw.random()
            product = (
                f"scarce-{draw.randrange(SCARCE_PRODUCTS)}" if chance < 0.05 else f"sku-{draw.randrange(PRODUCTS)}"
            )
            customer = f"{self.sort}-{'nobody' if 0.05 <= chance < 0.07 else draw.randrange(CUSTOMERS)}"
            if chance < 0.8:
                yield {"customer_id": customer, "product_id": product, "quantity": draw.randint(1, 3)}
            else:
                skus = [f"sku-{draw.randrange(PRODUCTS)}" for _ in range(3)]
                items = [{"product_id": sku, "quantity": draw.randint(1, 3)} for sku in skus]
                yield {"customer_id": customer, "items": items}


class Keyed(Customer, clients.Keyed):
    """Now and then an order comes twice, as when a button is pressed again."""

    def place(self, body: Body, key: str) -> str | None:
        placed = super().place(body, key)
        return super().place(body, key) if placed and self.random.random() < AGAIN_SHARE else placed


class Plain(Customer, clients.Plain):
    def __init__(self, stack: Stack, book: Book, seed: int, number: int, per_s: float) -> None:
        super().__init__(stack, book, seed, number, per_s)
        self._doubted: list[tuple[float, str]] = []

    def doubt(self, body: Body, order_id: str) -> None:
        self._doubted.append((time.monotonic() + ASK_AFTER_S, order_id))

    def step(self, n: int) -> None:
        self._resolve()
        super().step(n)

    def finish(self) -> None:
        eventually(self._resolve, "it is known which orders were placed", self.patience_s)

    def _resolve(self) -> bool:
        """Ask for the orders that might still be placed, once their time is over. Returns whether all are known."""
        while self._doubted and self._doubted[0][0] <= time.monotonic():
            _, order_id = self._doubted.pop(0)
            url = self.stack.url("order-api", f"/orders/{order_id}")
            if self.expect(self.until_answered(lambda: self.http.get(url)), 200, 404).status_code == 200:  # noqa: B023
                self.book.accept(order_id)
            else:
                self.book.denied.add(order_id)
        return not self._doubted


class ManyOrders(Customer, clients.ManyOrders):
    sort = "keyed"

    def __init__(
        self, stack: Stack, book: Book, seed: int, number: int = 0, per_s: float = 1.0, lines: int = 1
    ) -> None:
        super().__init__(stack, book, seed, number, per_s)
        self.lines = lines


def crowd(seed: int, orders_per_s: int) -> Iterator[MakeClient]:
    """All clients, which offer this rate together: single orders at a steady rate, many in one request for the rest."""
    lines = max(1, round((orders_per_s - SINGLES_PER_S) / MANY_PER_S))
    singles_per_s, many_per_s = SINGLES_PER_S / 2 / OF_EACH, MANY_PER_S / OF_EACH
    for number in range(OF_EACH):
        yield partial(Keyed, seed=seed, number=number, per_s=singles_per_s)
        yield partial(Plain, seed=seed, number=number, per_s=singles_per_s)
        yield partial(ManyOrders, seed=seed, number=number, per_s=many_per_s, lines=lines)
