"""Attacks that are well framed: the fault is in the body."""

import json
import random
from typing import Any, Final
from urllib.parse import quote

from tests.fuzz.attack import Attack, framed, post
from tests.fuzz.mutate import IDENTIFIERS, NUMBERS, SPELLINGS, TEXTS, mutated, odd_json, spoiled
from tests.fuzz.requests import (
    API,
    CUSTOMERS,
    DOLLARS,
    INACTIVE,
    PRODUCTS,
    Request,
    deposit,
    many,
    order,
    posted,
    product,
)

KEYS: Final = (
    "a",
    "basket-17",
    "x" * 255,
    "x" * 256,
    "x" * 5_000,
    "",
    " ",
    "a b",
    "\t",
    "é",
    "\xff",
    "'",
    '"',
    "\\",
    "null",
    "a,b",
    "{}",
)
"""Idempotency keys, a few of which are valid."""


def odd_page(drawn: random.Random, path: str) -> str:
    names = ("customer_id", "status", "cursor", "limit", "page", "", "\xff", "customer_id")
    values = (
        CUSTOMERS[0], "confirmed", "null", "", "0", "1", "101", "-1", "1e1", "1.0", " 1", "+1", "0x1",
        "\u0661", "\u00b2",
        "9" * 30, "9" * 5_000, "A" * 22, "_" * 22, "=" * 22, "A" * 21 + "\n", "\xff", "%", "%00", "%ed%a0%80", "é",
        "true", "[]", "'", "x" * 64, "x" * 65,
    )  # fmt: skip
    parts = [
        f"{drawn.choice(names)}={quote(drawn.choice(values), safe=drawn.choice(('', '%')))}"
        for _ in range(drawn.choice((0, 1, 2, 3, 3, 40)))
    ]
    if drawn.random() < 0.7 and path == "/orders":
        parts.insert(0, f"customer_id={drawn.choice(CUSTOMERS)}")
    query = drawn.choice(("&", "&", "&", ";", "&&")).join(parts)
    return path + "?" + query.replace("\xff", "%FF")


def odd_identifier(drawn: random.Random, number: int) -> Attack:
    document = order(drawn)
    for name in drawn.choice((("customer_id",), ("product_id",), ("customer_id", "product_id"))):
        (document if name in document or "items" not in document else document["items"][0])[name] = drawn.choice(
            IDENTIFIERS
        )
    return post(document, number)


def odd_number(drawn: random.Random, number: int) -> Attack:
    name = drawn.choice(("quantity", "expected_amount"))
    document = {"customer_id": drawn.choice(CUSTOMERS), "product_id": PRODUCTS[0], "quantity": 1}
    if drawn.random() < 0.5:
        return post(document | {name: drawn.choice(NUMBERS)}, number)
    written = json.dumps(document | {name: "@@"}).encode()
    return post(written.replace(b'"@@"', drawn.choice(SPELLINGS)), number)


def not_for_sale(drawn: random.Random, number: int) -> Attack:
    names = (*PRODUCTS, INACTIVE, DOLLARS, "no-such-product", "x" * 64)
    lines = [{"product_id": drawn.choice(names), "quantity": 1} for _ in range(drawn.choice((1, 2, 3, 100)))]
    return post({"customer_id": drawn.choice(CUSTOMERS), "items": lines}, number)


def large(drawn: random.Random, number: int) -> Attack:
    size = drawn.choice((65_535, 65_536, 65_537, 70_000, 200_000))
    written = json.dumps(order(drawn)).encode()
    filled = drawn.choice(
        (
            written + b" " * (size - len(written)),
            b'{"customer_id":"' + b"x" * (size - 18) + b'"}',
            b"[" * size,
            b"\0" * size,
            json.dumps({"items": [{}] * (size // 4)}).encode(),
        )
    )
    return post(filled, number)


def with_many_lines(drawn: random.Random, number: int) -> Attack:
    def line() -> bytes:
        document = order(drawn)
        match drawn.randrange(9):
            case 0:
                return json.dumps(document | {"idempotency_key": drawn.choice(KEYS)}).encode()
            case 1:
                return json.dumps(spoiled(drawn, document)).encode()
            case 2:
                return odd_json(drawn, document).replace(b"\n", b"")
            case 3:
                return drawn.choice((b"", b" ", b"\t\r", b"\r", b"{", b"null", b"[]"))
            case 4:
                return drawn.choice(TEXTS)
            case 5:
                return mutated(drawn, json.dumps(document).encode()).replace(b"\n", b"")
            case 6 if drawn.random() < 0.05:
                return b"x" * 65_537
        return json.dumps(document).encode()

    lines = [line() for _ in range(drawn.choice((0, 1, 2, 5, 5, 20)))]
    if drawn.random() < 0.03:
        lines = [b"{}"] * drawn.choice((999, 1_000, 1_001, 1_002)) + [b""]
    request = many(lines)
    if drawn.random() < 0.1:
        request = request._replace(body=drawn.choice((b"\n" * 1_001, b"\r\n" * 10, b"\0", b"\xff\n\xfe", b"")))
    return framed(request, number, comparable=False)


def payment(drawn: random.Random, number: int) -> Attack:
    customer_id = drawn.choice((*CUSTOMERS, "fuzz-new", quote(str(drawn.choice(IDENTIFIERS)), safe="")))
    path = f"/accounts/{customer_id}"
    if drawn.random() < 0.4:
        return framed(Request("payment", "GET", API + path + odd_page(drawn, "/ledger")), number, comparable=False)
    return framed(_spoiled_post(drawn, "payment", path + "/deposits", deposit(drawn)), number, comparable=False)


def inventory(drawn: random.Random, number: int) -> Attack:
    product_id = drawn.choice(
        ("fuzzed-1", "fuzzed-2", "no-such-product", quote(str(drawn.choice(IDENTIFIERS)), safe=""))
    )
    match drawn.randrange(4):
        case 0:
            request = Request("inventory", "GET", API + drawn.choice(("/products", odd_page(drawn, "/products"))))
        case 1:
            request = Request("inventory", "GET", f"{API}/products/{product_id}")
        case 2:
            request = _spoiled_post(drawn, "inventory", f"/products/{product_id}", product(drawn))._replace(
                method="PUT"
            )
        case _:
            body = {"quantity": drawn.randint(1, 9)}
            request = _spoiled_post(drawn, "inventory", f"/products/{product_id}/restocks", body)
    return framed(request, number, comparable=False)


def _spoiled_post(drawn: random.Random, service: str, path: str, document: dict[str, Any]) -> Request:
    written = json.dumps(document).encode()
    body: Any = drawn.choice(
        (written, json.dumps(spoiled(drawn, document)).encode(), odd_json(drawn, document), mutated(drawn, written))
    )
    headers = (("idempotency-key", drawn.choice(KEYS)),) if drawn.random() < 0.3 else ()
    return posted(service, path, body, *headers)
