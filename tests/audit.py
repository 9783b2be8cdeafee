"""What must hold when Tandem is at rest, judged from its databases alone. Each query returns the offenders."""

from collections.abc import Collection
from typing import Any, Final

from tests.stack import Stack
from tests.waiting import PATIENCE_S, eventually

_PAYMENT: Final = {
    "a balance is what its ledger says": """
        SELECT customer_id, balance, entered FROM accounts FULL JOIN (
          SELECT customer_id, sum(CASE credit WHEN 'customer' THEN amount ELSE -amount END) AS entered
          FROM ledger GROUP BY customer_id) AS entries USING (customer_id)
        WHERE balance IS DISTINCT FROM coalesce(entered, 0)""",
    "a payment is what its ledger says": """
        SELECT order_id, state, captures, refunds FROM payments FULL JOIN (
          SELECT order_id, sum(amount) FILTER (WHERE kind = 'capture') AS captured,
            count(*) FILTER (WHERE kind = 'capture') AS captures, count(*) FILTER (WHERE kind = 'refund') AS refunds,
            sum(amount) FILTER (WHERE kind = 'refund') AS refunded
          FROM ledger WHERE order_id IS NOT NULL GROUP BY order_id) AS entries USING (order_id)
        WHERE state IS NULL
          OR coalesce(captures, 0) <> (state IN ('completed', 'refunded') AND amount > 0)::int
          OR coalesce(refunds, 0) <> (state = 'refunded' AND amount > 0)::int
          OR captured <> amount OR refunded <> amount""",
}
_INVENTORY: Final = {
    "what is on hand is what the movements say": """
        SELECT product_id, on_hand, moved FROM (
          SELECT product_id, products.on_hand + coalesce(sum(stock_buckets.on_hand), 0) AS on_hand
          FROM products LEFT JOIN stock_buckets USING (product_id) GROUP BY product_id) AS stock FULL JOIN (
          SELECT product_id, sum(CASE kind WHEN 'reserve' THEN -quantity ELSE quantity END) AS moved
          FROM movements GROUP BY product_id) AS entries USING (product_id)
        WHERE on_hand IS DISTINCT FROM coalesce(moved, 0) OR on_hand < 0""",
    "a reservation is moved once, a release once": """
        SELECT order_id, state FROM reservations FULL JOIN (
          SELECT order_id, count(*) FILTER (WHERE kind = 'reserve') AS reserves,
            count(DISTINCT product_id) AS products, count(*) FILTER (WHERE kind = 'release') AS releases,
            sum(CASE kind WHEN 'reserve' THEN -quantity ELSE quantity END) AS net
          FROM movements WHERE order_id IS NOT NULL GROUP BY order_id) AS entries USING (order_id)
        WHERE state IS NULL
          OR (state IN ('reserved', 'released')) <> (coalesce(reserves, 0) > 0)
          OR reserves <> products
          OR (state = 'released') <> (coalesce(releases, 0) > 0)
          OR (state = 'released' AND net <> 0)""",
}
_GOOD: Final = {("confirmed", "completed", "reserved")}
_REVOKED: Final = {
    (status, payment, inventory)
    for status in ("rejected", "cancelled")
    for payment in ("declined", "refunded", "void")
    for inventory in ("rejected", "released", "void")
}


def await_rest(stack: Stack, accepted: Collection[str], within_s: float = PATIENCE_S) -> None:
    """Wait until all accepted orders are stored and every stored order is settled."""

    def at_rest() -> bool:
        rows = stack.query(
            "order",
            """SELECT count(*) FILTER (WHERE order_id = ANY(%s::uuid[]) AND settled_at IS NOT NULL),
                 count(*) FILTER (WHERE settled_at IS NULL)
               FROM orders""",
            (list(accepted),),
        )
        return rows == [(len(accepted), 0)]

    eventually(at_rest, f"{len(accepted)} orders are settled", within_s)


def assert_consistent(stack: Stack) -> None:
    """Fails with the offenders unless the three databases agree, to the order and to the minor unit."""
    for service, statements in (("payment", _PAYMENT), ("inventory", _INVENTORY)):
        for statement, query in statements.items():
            assert stack.query(service, query) == [], f"{service}: {statement}"
    orders = _by_order(stack, "order", "SELECT order_id, status, payment, inventory FROM orders")
    payments = _by_order(stack, "payment", "SELECT order_id, state FROM payments")
    reservations = _by_order(stack, "inventory", "SELECT order_id, state FROM reservations")
    assert orders.keys() == payments.keys() == reservations.keys(), "an order is missing on a side"
    for order_id, (status, payment, inventory) in orders.items():
        assert (payment, inventory) == (*payments[order_id], *reservations[order_id]), f"the sides of {order_id} differ"
        assert (status, payment, inventory) in _GOOD | _REVOKED, f"{order_id} is not settled"


def _by_order(stack: Stack, service: str, query: str) -> dict[Any, tuple[Any, ...]]:
    return {row[0]: tuple(row[1:]) for row in stack.query(service, query)}
