"""Clients that keep the rules of the api, and a book of the answers they got, to compare with the databases.

A request with an idempotency key is sent again until it is answered. One without a key is never sent again: if it got
no answer, its order may have been placed, and it is counted so. Payment declines some of the orders, stock cannot serve
some, and some are cancelled.
"""

import itertools
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final

import httpx
import orjson

from tests.stack import Stack
from tests.waiting import PATIENCE_S, eventually

CUSTOMERS: Final = 12
"""Customers of each client: enough for orders in every partition."""
BALANCE: Final = 10**9
PIECES: Final = 10**7
PLENTY: Final = ("clients-plenty-a", "clients-plenty-b")
SCARCE: Final = "clients-scarce"
SAVER: Final = "clients-saver"
PAUSE_S: Final = 0.08
AGAIN_S: Final = 0.1
TIMEOUT_S: Final = 15.0
"""Longer than the api waits for the log before it answers that an order may still be placed."""
MANY_EVERY_S: Final = 3.0
MANY_LINES: Final = 110
"""More than the api sends to the log at once."""
SHOPKEEPER_EVERY_S: Final = 0.4

NDJSON: Final = {"content-type": "application/x-ndjson"}

Body = dict[str, Any]


class Book:
    """The answers that clients got, over any number of runs. Each entry is one step, so threads can share the book.

    The accepted orders go to a file at once, which outlives this process.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines = file.open("wb", buffering=0)
        self.accepted: set[str] = set()
        """Orders answered with 202."""
        self.keyed: dict[str, str] = {}
        """By idempotency key: the order that every answer named."""
        self.unknown: list[Body] = []
        """Orders without a key that were sent and not answered, or with "it may still be placed"."""
        self.denied: set[str] = set()
        """Orders that might still be placed, and were later answered with 404."""
        self.cancelled: set[str] = set()
        """Orders whose cancellation was answered with 202."""
        self.deposits = 0
        self.restocks = 0
        self.prices: dict[str, int] = {}
        """Prices of new products that are not yet known to be orderable."""
        self.faults: list[str] = []
        """Answers that must never be given."""

    def accept(self, order_id: str, key: str | None = None) -> None:
        if key is not None:
            self.name(key, order_id)
        if order_id not in self.accepted:
            self.accepted.add(order_id)
            self._lines.write(f"{order_id}\n".encode())

    def name(self, key: str, order_id: str) -> None:
        """Note that an answer to a request with this key named this order."""
        if self.keyed.setdefault(key, order_id) != order_id:
            self.faults.append(f"key {key} is order {self.keyed[key]} and also {order_id}")

    def close(self) -> None:
        self._lines.close()

    def broken(self, stack: Stack) -> dict[str, list[str]]:
        """The orders that break a promise, by promise. The stack must be at rest and have no other clients."""
        keyed, plain = _orders_of(stack, "keyed-%"), _orders_of(stack, "plain-%")
        by_key = set(self.keyed.values())
        return {
            "lost": sorted(self.accepted - keyed.keys() - plain.keys()),
            "placed twice": sorted(keyed.keys() - by_key)
            + sorted(plain.keys() - self.accepted - self.denied)[len(self.unknown) :],
            "answered with 404 and stored": sorted(self.denied & plain.keys()),
            "confirmed although a cancel was accepted": [
                o for o, status in (keyed | plain).items() if o in self.cancelled and status == "confirmed"
            ],
        }

    def check(self, stack: Stack) -> None:
        """Fails unless every promise was kept."""
        assert not self.faults, self.faults[:5]
        for promise, order_ids in self.broken(stack).items():
            assert not order_ids, f"{promise}: {len(order_ids)} orders, as {order_ids[:5]}"
        assert _entered(stack, "payment", "ledger", "deposit", "customer_id", SAVER) == self.deposits
        assert _entered(stack, "inventory", "movements", "restock", "product_id", SCARCE) == self.restocks

    def order_new_products(self, stack: Stack) -> None:
        """Order each new product at its price, and wait until the api knows them all."""
        if not self.prices:
            return
        lines = [
            {"customer_id": "plain-poor", "product_id": product_id, "quantity": 1, "expected_amount": price}
            for product_id, price in self.prices.items()
        ]
        content = b"\n".join(map(orjson.dumps, lines))
        url = stack.url("order-api", "/orders/batch")

        def all_known() -> bool:
            answer = stack.http.post(url, content=content, headers=NDJSON)
            results = [orjson.loads(line) for line in answer.content.splitlines()]
            for result in results:
                if result["status"] == 202:
                    self.accept(result["order_id"])
            return all(result["status"] == 202 for result in results)

        eventually(all_known, f"{len(lines)} new products are orderable at their prices")
        self.prices.clear()


def _orders_of(stack: Stack, customers: str) -> dict[str, str]:
    return dict(
        stack.query("order", "SELECT order_id::text, status FROM orders WHERE customer_id LIKE %s", (customers,))
    )


def _entered(stack: Stack, service: str, table: str, kind: str, column: str, value: str) -> int:
    """The number of entries made under an idempotency key of these clients."""
    counted = f"""SELECT count(*) FROM {table}
      WHERE kind = %s AND {column} = %s AND idempotency_key LIKE 'clients-%%'"""
    return int(stack.query(service, counted, (kind, value))[0][0])


class Client(threading.Thread):
    """Runs until told to stop, then finishes what it has begun."""

    pause_s = PAUSE_S
    patience_s = PATIENCE_S
    """How long it retries a request."""
    look_up_every = 3
    cancel_every = 5

    def __init__(self, stack: Stack, book: Book) -> None:
        super().__init__(daemon=True)
        self.stack = stack
        self.book = book
        self.http = httpx.Client(timeout=TIMEOUT_S)
        self.stopping = threading.Event()

    def run(self) -> None:
        try:
            for n in itertools.count():
                if self.stopping.is_set():
                    break
                self.step(n)
                self.rest()
            self.finish()
        except Exception:
            self.book.faults.append(traceback.format_exc())
        finally:
            self.http.close()

    def rest(self) -> None:
        """Pause before the next step."""
        self.stopping.wait(self.pause_s)

    def step(self, n: int) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Ask about orders that are still open, at the end."""

    def until_answered(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Send a request that may be repeated until it is answered by something other than 503."""

        def answered() -> httpx.Response | None:
            try:
                answer = send()
            except httpx.TransportError:
                return None
            return None if answer.status_code == 503 else answer

        return eventually(answered, "a request is answered", self.patience_s, AGAIN_S)

    def expect(self, answer: httpx.Response, *statuses: int) -> httpx.Response:
        if answer.status_code not in statuses:
            self.book.faults.append(f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}")
        return answer

    def follow_up(self, n: int, order_id: str) -> None:
        """Look some orders up, and cancel some. An accepted order is never "not found"."""
        url = self.stack.url("order-api", f"/orders/{order_id}")
        if n % self.look_up_every == 0:
            self.expect(self.until_answered(lambda: self.http.get(url)), 200)
        if n % self.cancel_every == 0:
            answer = self.until_answered(lambda: self.http.post(f"{url}/cancel"))
            if self.expect(answer, 202, 409).status_code == 202:
                self.book.cancelled.add(order_id)


def orders(sort: str) -> Iterator[Body]:
    """The orders of a client, in turn. Some have two lines, some a customer who cannot pay, some a scarce product."""
    one_piece = [{"product_id": PLENTY[0], "quantity": 1}]
    two_pieces = [{"product_id": product, "quantity": 2} for product in PLENTY]
    for n in itertools.count():
        customer = f"{sort}-{n % CUSTOMERS}"
        match n % 13:
            case 4:
                yield {"customer_id": customer, "items": two_pieces}
            case 7:
                yield {"customer_id": f"{sort}-poor", "items": one_piece}
            case 11:
                yield {"customer_id": customer, "items": [*one_piece, {"product_id": SCARCE, "quantity": 3}]}
            case _:
                yield {"customer_id": customer, "items": one_piece}


class Buyer(Client):
    """A client that orders."""

    sort: ClassVar[str]
    """The prefix of its customers. It tells orders with keys from those without."""

    def __init__(self, stack: Stack, book: Book) -> None:
        super().__init__(stack, book)
        self.bodies = self.draw()

    def draw(self) -> Iterator[Body]:
        return orders(self.sort)


class Keyed(Buyer):
    """Sends each order under a key, until it is answered."""

    sort = "keyed"

    def step(self, n: int) -> None:
        if order_id := self.place(next(self.bodies), f"clients-{uuid.uuid4()}"):
            self.follow_up(n, order_id)

    def place(self, body: Body, key: str) -> str | None:
        def send() -> httpx.Response:
            answer = self.http.post(self.stack.url("order-api", "/orders"), json=body, headers={"idempotency-key": key})
            if order_id := answer.json().get("order_id"):
                self.book.name(key, order_id)
            return answer

        answer = self.until_answered(send)
        if self.expect(answer, 202).status_code != 202:
            return None
        order_id: str = answer.json()["order_id"]
        self.book.accept(order_id, key)
        return order_id


class Plain(Buyer):
    """Sends each order once: it cannot know what became of one that is not answered."""

    sort = "plain"

    def step(self, n: int) -> None:
        body = next(self.bodies)
        try:
            answer = self.http.post(self.stack.url("order-api", "/orders"), json=body)
        except httpx.ConnectError:
            return  # nothing was sent
        except httpx.TransportError:
            self.book.unknown.append(body)
            return
        if answer.status_code == 503:
            if order_id := answer.json().get("order_id"):
                self.doubt(body, order_id)
        elif self.expect(answer, 202).status_code == 202:
            order_id = answer.json()["order_id"]
            self.book.accept(order_id)
            self.follow_up(n, order_id)

    def doubt(self, body: Body, order_id: str) -> None:
        """Note an order that may still be placed."""
        self.book.unknown.append(body)


class ManyOrders(Buyer):
    """Sends many orders at once, each line under a key, until all are answered."""

    sort = "keyed-many"
    pause_s = MANY_EVERY_S
    lines = MANY_LINES

    def step(self, n: int) -> None:
        self.place(itertools.islice(self.bodies, self.lines))

    def place(self, bodies: Iterable[Body]) -> list[str]:
        """The orders that were placed."""
        lines = [body | {"idempotency_key": f"clients-{uuid.uuid4()}"} for body in bodies]
        url = self.stack.url("order-api", "/orders/batch")
        content = b"\n".join(map(orjson.dumps, lines))

        def placed() -> list[str] | None:
            answer = self.until_answered(lambda: self.http.post(url, content=content, headers=NDJSON))
            if self.expect(answer, 200).status_code != 200:
                return []
            results = [orjson.loads(line) for line in answer.content.splitlines()]
            for line, result in zip(lines, results, strict=True):
                if result["status"] == 202:
                    self.book.accept(result["order_id"], line["idempotency_key"])
                elif result["status"] != 503:
                    self.book.faults.append(f"a line of many: {result}")
            if any(result["status"] == 503 for result in results):
                return None
            return [result["order_id"] for result in results if result["status"] == 202]

        return eventually(placed, f"{len(lines)} lines are answered", self.patience_s, AGAIN_S)


class Shopkeeper(Client):
    """Brings in a product, and makes a deposit and a restock, each under a key, until each is answered."""

    pause_s = SHOPKEEPER_EVERY_S

    def step(self, n: int) -> None:
        product_id, price = f"clients-{uuid.uuid4()}", n + 1
        put = {"name": product_id, "unit_price": price, "currency": "EUR", "active": True}
        url = self.stack.url("inventory", f"/products/{product_id}")
        if self.expect(self.until_answered(lambda: self.http.put(url, json=put)), 200, 201).is_success:
            self.book.prices[product_id] = price
        key = {"idempotency-key": f"clients-{uuid.uuid4()}"}
        deposit = self.stack.url("payment", f"/accounts/{SAVER}/deposits")
        self.book.deposits += self._happened(deposit, {"amount": 1, "currency": "EUR"}, key)
        restock = self.stack.url("inventory", f"/products/{SCARCE}/restocks")
        self.book.restocks += self._happened(restock, {"quantity": 1}, key)

    def _happened(self, url: str, body: Body, key: dict[str, str]) -> bool:
        return self.expect(
            self.until_answered(lambda: self.http.post(url, json=body, headers=key)), 200, 201
        ).is_success


MakeClient = Callable[[Stack, Book], Client]
ALL: Final[Sequence[MakeClient]] = (Keyed, Plain, ManyOrders, Shopkeeper)


class Clients:
    """Clients of several sorts, running within a `with`. Their answers are added to the book."""

    def __init__(self, stack: Stack, book: Book, sorts: Iterable[MakeClient] = ALL) -> None:
        self._threads = [sort(stack, book) for sort in sorts]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait until they have finished. After a failure they may never finish, so nothing waits for them."""
        for thread in self._threads:
            thread.stopping.set()
        for thread in self._threads:
            thread.join(None if error is None else 0)


def furnish(stack: Stack) -> None:
    """The customers and products that these clients need; waits until the products can be ordered."""
    for product_id in PLENTY:
        stack.product(product_id, pieces=PIECES)
    stack.product(SCARCE)
    for sort in ("keyed", "plain", "keyed-many"):
        stack.accounts((f"{sort}-{number}" for number in range(CUSTOMERS)), BALANCE)
        stack.account(f"{sort}-poor", 1)
    for product_id in (*PLENTY, SCARCE):
        stack.await_orderable(product_id)
