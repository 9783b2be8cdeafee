"""Nothing is stored that should not be: checks each row that the databases and the log hold after a campaign."""

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from common.events import AMOUNT_MAX, IDENTIFIER_PATTERN, ITEMS_MAX, QUANTITY_MAX, UNIT_PRICE_MAX
from tests.stack import Stack

NOBODY = "cust-nobody"
"""The customer whose orders show whether a product is known: see `Stack.await_orderable`."""
_IDENTIFIER = re.compile(IDENTIFIER_PATTERN)
_KEY = re.compile(r"[\x21-\x7e]{1,255}( [0-9]{1,4})?")
"""A client's key, or that of a line by the key of its request."""
_CURRENCY = re.compile("[A-Z]{3}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,200}")
_TRACE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def wrongs(stack: Stack, accepted: Collection[str], cut: Sequence[bytes]) -> Iterator[str]:
    """What is stored and should not be, or is not and should be.

    `accepted` are the orders whose 202 was seen, `cut` what was sent on connections that broke off before it was
    answered.
    """
    products = stack.query("inventory", "SELECT product_id, name, unit_price, currency, on_hand FROM products")
    product_ids = {row[0] for row in products}
    sent = b"\0".join(cut)
    rows = stack.query(
        "order",
        "SELECT order_id::text, customer_id, status, items::text, amount, currency, traceparent, settled_at IS NOT NULL"
        " FROM orders",
    )
    for order_id in set(accepted) - {row[0] for row in rows}:
        yield f"order {order_id} was accepted and is not stored"
    for order_id, customer_id, status, items, amount, currency, traceparent, settled in rows:
        if not _IDENTIFIER.match(customer_id) or not _TRACE.fullmatch(traceparent) or not settled:
            yield f"order {order_id}: customer {customer_id!r}, {status}, settled {settled}, trace {traceparent!r}"
        lines = json.loads(items)
        good = (
            1 <= len(lines) <= ITEMS_MAX
            and all(
                line["product_id"] in product_ids
                and 1 <= line["quantity"] <= QUANTITY_MAX
                and 0 <= line["unit_price"] <= UNIT_PRICE_MAX
                for line in lines
            )
            and amount == sum(line["quantity"] * line["unit_price"] for line in lines) <= AMOUNT_MAX
            and _CURRENCY.fullmatch(currency)
        )
        if not good:
            yield f"order {order_id}: {amount} {currency} for {items}"
        if order_id not in accepted and customer_id != NOBODY and f'"{customer_id}"'.encode() not in sent:
            yield f"order {order_id} of {customer_id!r} is stored, but no client was told so or cut off"
    for customer_id, key in stack.query("order", "SELECT customer_id, idempotency_key FROM requests"):
        if not _IDENTIFIER.match(customer_id) or not _KEY.fullmatch(key):
            yield f"a request of {customer_id!r} under key {key!r}"
    for customer_id, balance, currency in stack.query("payment", "SELECT customer_id, balance, currency FROM accounts"):
        if not _IDENTIFIER.match(customer_id) or not 0 <= balance <= 2**53 or not _CURRENCY.fullmatch(currency):
            yield f"account {customer_id!r}: {balance} {currency}"
    for product_id, name, price, currency, on_hand in products:
        fit = _IDENTIFIER.match(product_id) and _NAME.fullmatch(name)
        if not fit or not 0 <= price <= UNIT_PRICE_MAX or not _CURRENCY.fullmatch(currency) or on_hand < 0:
            yield f"product {product_id!r} {name!r}: {price} {currency}, {on_hand}"
    for service in ("order", "payment", "inventory"):
        for topic, partition, offset, error in stack.query(
            service, 'SELECT topic, partition, "offset", error FROM parked_events'
        ):
            yield f"{topic}/{partition}@{offset} is parked in {service}: {error}"


def prove(stack: Stack, accepted: Collection[str]) -> str:
    """Run `ops.verify` with the list of what clients were told; returns its report. Fails unless all is proved."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("\n".join(sorted(accepted)) + "\n")
    try:
        return stack.run_tool("ops.verify", "--accepted", file.name)
    finally:
        Path(file.name).unlink()
