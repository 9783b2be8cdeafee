"""Valid requests to every endpoint, as documents and as bytes: what the attacks start from."""

import json
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

PRODUCTS: Final = ("fuzz-apple", "fuzz-pear")
"""With a price and stock."""
INACTIVE: Final = "fuzz-old"
DOLLARS: Final = "fuzz-dollar"
CUSTOMERS: Final = tuple(f"fuzz-{number:02}" for number in range(50))
"""With an account."""
ORDER_ID: Final = "0fffffff-ffff-7fff-8fff-fffffffff0dd"
"""Stands for an order that exists: replaced by one when it is sent."""
API: Final = "/api/v1"
JSON: Final = ("content-type", "application/json")

Headers = tuple[tuple[str, str], ...]


class Request(NamedTuple):
    """A request, well framed."""

    service: str
    method: str
    target: str
    body: bytes | None = None
    headers: Headers = ()

    def rendered(self, *headers: tuple[str, str], version: str = "1.1") -> bytes:
        """As bytes. Values may hold any character up to U+00FF."""
        lines = [
            f"{self.method} {self.target} HTTP/{version}",
            "host: localhost",
            *(f"{n}: {v}" for n, v in self.headers),
        ]
        lines += [f"{name}: {value}" for name, value in headers]
        if self.body is not None:
            lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (self.body or b"")


def posted(service: str, path: str, document: Any, *headers: tuple[str, str], method: str = "POST") -> Request:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Request(service, method, API + path, body, (JSON, *headers))


def nobody_elses(number: int) -> str:
    """The customer of an attack whose answer may be lost: its order is recognised by this customer."""
    return f"cut-{number}"


def order(drawn: random.Random, customer_id: str | None = None) -> dict[str, Any]:
    """An order that is accepted."""
    body: dict[str, Any] = {"customer_id": customer_id or drawn.choice(CUSTOMERS)}
    if drawn.random() < 0.5:
        return body | {"product_id": drawn.choice(PRODUCTS), "quantity": drawn.randint(1, 3)}
    lines = [{"product_id": drawn.choice(PRODUCTS), "quantity": 1} for _ in range(drawn.choice((1, 2, 5)))]
    return body | {"items": lines}


def placed(drawn: random.Random, customer_id: str | None = None) -> Request:
    return posted("order-api", "/orders", order(drawn, customer_id))


def many(lines: list[bytes], *headers: tuple[str, str]) -> Request:
    kind = ("content-type", "application/x-ndjson")
    return Request("order-api", "POST", f"{API}/orders/batch", b"\n".join(lines), (kind, *headers))


def deposit(drawn: random.Random) -> dict[str, Any]:
    return {"amount": drawn.randint(1, 100), "currency": "EUR"}


def product(drawn: random.Random) -> dict[str, Any]:
    return {"name": "a thing", "unit_price": drawn.randint(0, 999), "currency": "EUR", "active": drawn.random() < 0.5}


VALID: Final[tuple[Callable[[random.Random], Request], ...]] = (
    placed,
    placed,
    placed,
    lambda d: placed(d)._replace(headers=(JSON, ("idempotency-key", f"key-{d.randrange(10**9)}"))),
    lambda d: many([json.dumps(order(d)).encode() for _ in range(d.choice((1, 3)))]),
    lambda d: Request("order-api", "GET", f"{API}/orders?customer_id={d.choice(CUSTOMERS)}&limit=2"),
    lambda d: Request("order-api", "GET", f"{API}/orders/{ORDER_ID}"),
    lambda d: Request("order-api", "POST", f"{API}/orders/{ORDER_ID}/cancel", b""),
    lambda d: Request("order-api", "GET", f"{API}/orders/{ORDER_ID}/events"),
    lambda d: Request("order-api", "GET", d.choice(("/livez", "/readyz", "/metrics", "/openapi.json"))),
    lambda d: Request("payment", "GET", f"{API}/accounts/{d.choice(CUSTOMERS)}"),
    lambda d: Request("payment", "GET", f"{API}/accounts/{d.choice(CUSTOMERS)}/ledger?limit=2"),
    lambda d: posted("payment", f"/accounts/{d.choice(CUSTOMERS)}/deposits", deposit(d)),
    lambda d: Request("inventory", "GET", f"{API}/products?limit=2"),
    lambda d: Request("inventory", "GET", f"{API}/products/{d.choice(PRODUCTS)}"),
    lambda d: posted("inventory", f"/products/fuzzed-{d.randrange(20)}", product(d), method="PUT"),
    lambda d: posted("inventory", f"/products/{d.choice(PRODUCTS)}/restocks", {"quantity": d.randint(1, 9)}),
)
"""One of each sort."""
