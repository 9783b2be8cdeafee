"""All SQL of `card_payments`."""

from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

from psycopg.rows import class_row

from common.events import OrderId, PlacedData
from common.pipeline import Statements
from common.postgres import AsyncConn, columns

Wanted = Literal["hold", "capture", "release"]

_HOLD = """
    INSERT INTO card_payments (order_id, customer_id, amount, currency, wanted)
    SELECT *, 'hold' FROM unnest(%s::uuid[], %s::text[], %s::bigint[], %s::text[])
    ON CONFLICT (order_id) DO UPDATE SET next_at = now() WHERE card_payments.next_at = 'infinity'
"""
_CAPTURE = """
    UPDATE card_payments SET wanted = 'capture', next_at = now(), attempts = 0
    WHERE order_id = ANY(%s::uuid[]) AND wanted = 'hold'
"""
# A restored database may read a confirmation before its order: the row waits for `_HOLD`. Before the first replay, a
# payment without a row was paid from the account alone.
_CONFIRMED_FIRST = """
    INSERT INTO card_payments (order_id, customer_id, amount, currency, wanted, next_at)
    SELECT order_id, customer_id, amount, currency, 'capture', 'infinity' FROM payments
    WHERE order_id = ANY(%s::uuid[]) AND amount > 0 AND EXISTS (SELECT FROM replays)
    ON CONFLICT DO NOTHING
"""
# It is final: the order is not paid, or not any more.
_RELEASE = """
    UPDATE card_payments SET wanted = 'release', next_at = now(), attempts = 0
    WHERE order_id = ANY(%s::uuid[]) AND wanted <> 'release'
"""
# Whoever takes a row has it for a while; then another instance takes it. All acts may be repeated.
_TAKE = """
    UPDATE card_payments SET next_at = now() + make_interval(secs => %s), attempts = attempts + 1
    WHERE order_id IN (
      SELECT order_id FROM card_payments WHERE wanted <> done AND next_at <= now()
      ORDER BY next_at LIMIT %s FOR UPDATE SKIP LOCKED)
    RETURNING order_id::text, customer_id, wanted, attempts
"""
_DONE = "UPDATE card_payments SET done = %s, problem = NULL, next_at = now(), attempts = 0 WHERE order_id = %s"
_LATER = "UPDATE card_payments SET problem = %s, next_at = now() + make_interval(secs => %s) WHERE order_id = %s"


class Task(NamedTuple):
    """An order whose card payment has to be captured or released."""

    order_id: str
    customer_id: str
    wanted: Wanted
    attempts: int


def hold(statements: Statements, orders: Iterable[PlacedData]) -> None:
    """Note that these amounts may be on hold."""
    rows = ((order.order_id, order.customer_id, order.amount, order.currency) for order in orders)
    statements.execute(_HOLD, columns(rows))


def capture(statements: Statements, orders: Collection[OrderId]) -> None:
    """Have these captured: now, or when their amounts are on hold."""
    statements.execute(_CAPTURE, (list(orders),))
    statements.execute(_CONFIRMED_FIRST, (list(orders),))


def release(statements: Statements, orders: Collection[OrderId]) -> None:
    """Have these released. Those without a row have nothing on hold."""
    statements.execute(_RELEASE, (list(orders),))


async def take(connection: AsyncConn, count: int, lease_s: float) -> list[Task]:
    """Tasks that are due, for `lease_s`."""
    cursor = await connection.cursor(row_factory=class_row(Task)).execute(_TAKE, (lease_s, count))
    return await cursor.fetchall()


async def done(connection: AsyncConn, task: Task) -> None:
    await connection.execute(_DONE, (task.wanted, task.order_id))


async def later(connection: AsyncConn, task: Task, problem: str, delay_s: float) -> None:
    await connection.execute(_LATER, (problem, delay_s, task.order_id))
