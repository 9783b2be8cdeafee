"""HTTP/1.1 as the generator speaks it: requests prepared as bytes beforehand, answers cut by a few searches.

No parser and no objects: a general client costs more than the service it would measure. What is not understood (no
content-length, a chunked body) is refused aloud, not guessed.
"""

import random
import re
from typing import Final, NamedTuple

from msgspec import Struct

ORDERS_PATH: Final = "/api/v1/orders"
BATCH_PATH: Final = "/api/v1/orders/batch"
ORDER_ID_CHARS: Final = 36
QUANTITIES: Final = (1, 2)

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "
_ANY_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_ORDER_ID: Final = b'"order_id":"'
_STATUS_AT: Final = len(b"HTTP/1.1 ")
LINE_ID: Final = re.compile(rb'"order_id":"([0-9a-f-]{36})"')


class Population(Struct, frozen=True, kw_only=True):
    """Who orders what. The demo data's names; the same seed gives the same orders."""

    customers: int = 100_000
    products: int = 1_000
    bodies: int = 50_000
    """How many different bodies are prepared; they are sent in turn."""
    seed: int = 1
    customer: str = "cust-{:06}"
    product: str = "sku-{:04}"


class Parts(NamedTuple):
    """A request in two parts; what differs each time, an idempotency key, goes between them."""

    before: bytes
    after: bytes


class NotUnderstood(Exception):
    """The server's answer is not one that this client can cut."""


def bodies(population: Population) -> list[bytes]:
    """Bodies of single orders. Customers are drawn without repeats as far as they go, so that load is even."""
    draw = random.Random(population.seed)
    customers = list(range(population.customers))
    draw.shuffle(customers)
    return [
        b'{"customer_id":"%b","product_id":"%b","quantity":%d}'
        % (
            population.customer.format(customers[number % len(customers)]).encode(),
            population.product.format(draw.randrange(population.products)).encode(),
            draw.choice(QUANTITIES),
        )
        for number in range(population.bodies)
    ]


def single_orders(bodies: list[bytes], host: str, path: str, *, keyed: bool) -> list[Parts]:
    """A request for each body."""
    start = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n".encode()
    parts = []
    for body in bodies:
        rest = b"content-length: %d\r\n\r\n%b" % (len(body), body)
        parts.append(Parts(start + b"idempotency-key: ", b"\r\n" + rest) if keyed else Parts(start + rest, b""))
    return parts


def batches(bodies: list[bytes], host: str, path: str, lines: int) -> list[Parts]:
    """Requests of `lines` orders each, as NDJSON. What does not fill a request is left out."""
    start = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/x-ndjson\r\n".encode()
    parts = []
    for at in range(0, len(bodies) - lines + 1, lines):
        body = b"\n".join(bodies[at : at + lines]) + b"\n"
        parts.append(Parts(start + b"content-length: %d\r\n\r\n%b" % (len(body), body), b""))
    return parts


def length_of(answer: bytes) -> int:
    """The length of the whole answer whose beginning this is, 0 as long as its head is not there.

    Raises `NotUnderstood`.
    """
    head = answer.find(_HEAD_END)
    if head < 0:
        return 0
    at = answer.find(_LENGTH, 0, head)
    if at >= 0:
        end = answer.find(b"\r", at)
        return head + 4 + int(answer[at + len(_LENGTH) : end])
    found = _ANY_LENGTH.search(answer, 0, head)
    if found is None:
        raise NotUnderstood(f"an answer without content-length: {answer[:head].decode('latin-1')!r}")
    return head + 4 + int(found[1])


def status_of(answer: bytes) -> int:
    """The status code of an answer."""
    return int(answer[_STATUS_AT : _STATUS_AT + 3])


def order_id_of(answer: bytes) -> bytes | None:
    """The first order id in an answer."""
    at = answer.find(_ORDER_ID)
    return None if at < 0 else answer[at + len(_ORDER_ID) : at + len(_ORDER_ID) + ORDER_ID_CHARS]
