"""HTTP/1.1 as the generator speaks it: requests prepared as bytes beforehand, answers read with a few searches.

A general HTTP client costs more CPU than the service it would measure. An answer without content-length (a chunked
body, for example) raises `NotUnderstood`.
"""

import random
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec import Struct

ORDERS_PATH: Final = "/api/v1/orders"
MANY_PATH: Final = "/api/v1/orders/batch"
ACCEPTED: Final = re.compile(rb'"order_id":"([0-9a-f-]{36})"')
"""The id in a 202."""
ACCEPTED_LINE: Final = re.compile(rb'"status":202,"order_id":"([0-9a-f-]{36})"')
"""That of an accepted line among many. A line whose fate is not known yet has an id too, in its problem."""
QUANTITIES: Final = (1, 2)

_CUSTOMER: Final = slice(len(b'{"customer_id":"cust-'), len(b'{"customer_id":"cust-000000'))
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength:[ \t]*(\d+)")
_STATUS: Final = slice(len(b"HTTP/1.1 "), len(b"HTTP/1.1 200"))


class Population(Struct, frozen=True, kw_only=True):
    """Which customers order which products, by the demo data's names. The same seed gives the same orders."""

    customers: int = 100_000
    products: int = 1_000
    first: int = 0
    """The number of the first of these products."""
    bodies: int = 50_000
    """How many different bodies are prepared; they are sent in turn."""
    seed: int = 1


class Parts(NamedTuple):
    """A request in two parts. An idempotency key, which differs each time, goes between them."""

    before: bytes
    after: bytes


class NotUnderstood(Exception):
    """The server's answer is not one that this client can read."""


def bodies(population: Population) -> list[bytes]:
    """Bodies of single orders. Each customer is drawn once before any is drawn again, so that the load is even."""
    draw = random.Random(population.seed)
    customers = list(range(population.customers))
    draw.shuffle(customers)
    return [
        b'{"customer_id":"cust-%06d","product_id":"sku-%04d","quantity":%d}'
        % (
            customers[number % len(customers)],
            population.first + draw.randrange(population.products),
            draw.choice(QUANTITIES),
        )
        for number in range(population.bodies)
    ]


def requests(
    bodies: list[bytes], host: str, path: str, *, lines: int = 0, keyed: bool = False, tokens: Sequence[bytes] = ()
) -> list[Parts]:
    """Requests of one order each, or of `lines` orders as NDJSON. Bodies that do not fill a request are left out.

    With `tokens`, each order brings the token of its customer, by number. Many orders bring the last one, a merchant's;
    if it is the only one, so does each order.
    """
    kind = "x-ndjson" if lines else "json"
    start = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/{kind}\r\n".encode()
    parts, merchant = [], lines or len(tokens) == 1
    for first in range(0, len(bodies) - max(0, lines - 1), lines or 1):
        body = b"".join(line + b"\n" for line in bodies[first : first + lines]) if lines else bodies[first]
        rest = b"content-length: %d\r\n\r\n%b" % (len(body), body)
        if tokens:
            rest = b"authorization: Bearer %b\r\n%b" % (tokens[-1 if merchant else int(body[_CUSTOMER])], rest)
        parts.append(Parts(start + b"idempotency-key: ", b"\r\n" + rest) if keyed else Parts(start + rest, b""))
    return parts


def length_of(answer: bytes) -> int:
    """The length of the whole answer that begins with these bytes; 0 until its head is complete.

    Raises `NotUnderstood`.
    """
    head = answer.find(_HEAD_END)
    if head < 0:
        return 0
    length = _LENGTH.search(answer, 0, head)
    if length is None:
        raise NotUnderstood(f"an answer without content-length: {answer[:head].decode('latin-1')!r}")
    return head + len(_HEAD_END) + int(length[1])


def status_of(answer: bytes) -> int:
    """The status code of an answer."""
    return int(answer[_STATUS])
