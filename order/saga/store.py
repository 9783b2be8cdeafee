"""The saga's side of the order database: all of its SQL. What HTTP reads is in `order.api.read.queries`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import psycopg

from common.events import Milliseconds, OrderId, PlacedData, rfc3339
from common.postgres import Conn, copy_in
from order.saga.decide import Order

_LOCK_ORDERS = """
    SELECT order_id, partition, customer_id, traceparent, status, reason, payment, inventory, payment_reason,
      inventory_reason, (extract(epoch FROM placed_at) * 1000)::bigint, (extract(epoch FROM decided_at) * 1000)::bigint,
      (extract(epoch FROM settled_at) * 1000)::bigint
    FROM orders WHERE order_id = ANY(%s::uuid[]) ORDER BY order_id FOR UPDATE
"""
_COLUMNS = (
    "order_id", "customer_id", "partition", "status", "reason", "payment", "inventory", "payment_reason",
    "inventory_reason", "amount", "currency", "items", "placed_at", "decided_at", "settled_at", "traceparent",
    "timeline",
)  # fmt: skip
# What was ordered is known from the placed event on, and never changes after it.
_UPDATE_ORDERS = """
    UPDATE orders SET
      partition = changed.partition, status = changed.status, reason = changed.reason,
      payment = changed.payment, inventory = changed.inventory,
      payment_reason = changed.payment_reason, inventory_reason = changed.inventory_reason,
      amount = coalesce(changed.amount, orders.amount), currency = coalesce(changed.currency, orders.currency),
      items = coalesce(changed.items, orders.items), placed_at = changed.placed_at, decided_at = changed.decided_at,
      settled_at = changed.settled_at, traceparent = changed.traceparent,
      timeline = orders.timeline || changed.timeline
    FROM unnest(%s::uuid[], %s::integer[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                %s::bigint[], %s::text[], %s::json[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[],
                %s::text[], %s::jsonb[])
      AS changed(order_id, partition, status, reason, payment, inventory, payment_reason, inventory_reason, amount,
                 currency, items, placed_at, decided_at, settled_at, traceparent, timeline)
    WHERE orders.order_id = changed.order_id
"""

_encode = msgspec.json.Encoder().encode


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A line of an order's timeline. `at` is the broker's time. Our own outcome is stored before it has an offset."""

    event: str
    at: Milliseconds
    partition: int
    offset: int | None


class Row(msgspec.Struct, gc=False):
    """An order with what a batch adds to it."""

    order: Order
    partition: int
    stored: bool
    placed: PlacedData | None = None
    timeline: list[Entry] = []


def lock(connection: Conn, orders: Collection[str]) -> "psycopg.Cursor[Any]":
    """Lock the orders in one order and read them: a pipeline's query, whose rows `locked` fetches."""
    return connection.execute(_LOCK_ORDERS, (sorted(orders),))


def locked(cursor: "psycopg.Cursor[Any]") -> dict[OrderId, Row]:
    return {
        row[0]: Row(
            Order(
                order_id=row[0],
                customer_id=row[2],
                traceparent=row[3],
                status=row[4],
                reason=row[5],
                payment=row[6],
                inventory=row[7],
                payment_reason=row[8],
                inventory_reason=row[9],
                placed_at=row[10],
                decided_at=row[11],
                settled_at=row[12],
            ),
            row[1],
            stored=True,
        )
        for row in cursor
    }


def insert_orders(connection: Conn, rows: Sequence[Row]) -> None:
    copy_in(
        connection,
        "orders",
        _COLUMNS,
        (
            (
                row.order.order_id,
                row.order.customer_id,
                row.partition,
                row.order.status,
                row.order.reason,
                row.order.payment,
                row.order.inventory,
                row.order.payment_reason,
                row.order.inventory_reason,
                row.placed.amount if row.placed else None,
                row.placed.currency if row.placed else None,
                _json(row.placed.items) if row.placed else "[]",
                _time(row.order.placed_at),
                _time(row.order.decided_at),
                _time(row.order.settled_at),
                row.order.traceparent,
                _json(row.timeline),
            )
            for row in rows
        ),
    )


def update_orders(connection: Conn, rows: Sequence[Row]) -> None:
    orders = [row.order for row in rows]
    connection.execute(
        _UPDATE_ORDERS,
        (
            [o.order_id for o in orders],
            [row.partition for row in rows],
            [o.status for o in orders],
            [o.reason for o in orders],
            [o.payment for o in orders],
            [o.inventory for o in orders],
            [o.payment_reason for o in orders],
            [o.inventory_reason for o in orders],
            [row.placed.amount if row.placed else None for row in rows],
            [row.placed.currency if row.placed else None for row in rows],
            [_json(row.placed.items) if row.placed else None for row in rows],
            [_time(o.placed_at) for o in orders],
            [_time(o.decided_at) for o in orders],
            [_time(o.settled_at) for o in orders],
            [o.traceparent for o in orders],
            [_json(row.timeline) for row in rows],
        ),
    )


def _json(value: object) -> str:
    return _encode(value).decode()


def _time(at: Milliseconds | None) -> str | None:
    return None if at is None else rfc3339(at)


# For the deadline timer.

_DEADLINES_LOCK = 7_309_453_221
"""Any number that nothing else in this database locks."""
_READINGS = """
    SELECT topic, partition, next_offset, (extract(epoch FROM record_time) * 1000)::bigint
    FROM positions WHERE topic = ANY(%s)
"""
_SLICE_END = """
    SELECT (extract(epoch FROM placed_at) * 1000)::bigint FROM orders
    WHERE placed_at > %s::timestamptz AND placed_at <= %s::timestamptz ORDER BY placed_at OFFSET %s LIMIT 1
"""
# Nobody's time is up who has events parked: the results may be among them, and were in time.
_PENDING = """
    SELECT order_id, customer_id, orders.partition, traceparent, (extract(epoch FROM placed_at) * 1000)::bigint,
      placed_at <= until AND NOT EXISTS (
        SELECT FROM parked_events
        WHERE substring(key FOR 64) = convert_to(customer_id, 'UTF8') AND state IN ('parked', 'redrive', 'discard'))
    FROM orders JOIN unnest(%s::integer[], %s::timestamptz[]) AS cutoffs(partition, until) USING (partition)
    WHERE status = 'pending'
      AND (placed_at > %s::timestamptz AND placed_at <= %s::timestamptz OR order_id = ANY(%s::uuid[]))
    ORDER BY placed_at
"""
SLICE_ORDERS = 20_000


class Pending(NamedTuple):
    """A pending order, and whether its time is up."""

    order_id: str
    customer_id: str
    partition: int
    traceparent: str
    placed_at: Milliseconds
    due: bool


def lead_deadlines(connection: Conn) -> bool:
    """Whether this session is the one that sweeps; it stays so until the session ends."""
    row = connection.execute(
        """SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
             OR pg_try_advisory_lock(%s)""",
        (_DEADLINES_LOCK,),
    ).fetchone()
    return bool(row and row[0])


def readings(connection: Conn, topics: Sequence[str]) -> list[tuple[str, int, int, Milliseconds | None]]:
    """Topic, partition, next offset and the time of the record before it."""
    return connection.execute(_READINGS, (list(topics),)).fetchall()


def slice_end(connection: Conn, after: Milliseconds, latest: Milliseconds) -> Milliseconds | None:
    """Up to when to look, from `after` on, at about `SLICE_ORDERS` orders; None if `latest` comes before that."""
    row = connection.execute(_SLICE_END, (rfc3339(after), rfc3339(latest), SLICE_ORDERS - 1)).fetchone()
    return None if row is None else Milliseconds(row[0])


def pending(
    connection: Conn,
    after: Milliseconds,
    upto: Milliseconds,
    due_until: Mapping[int, Milliseconds],
    watched: Collection[str] = (),
) -> list[Pending]:
    """What is pending of the orders placed after a time and up to another, and of those `watched`; oldest first. Due
    is what was placed no later than its partition's cutoff."""
    times = [rfc3339(at) for at in due_until.values()]
    found = connection.execute(_PENDING, (list(due_until), times, rfc3339(after), rfc3339(upto), list(watched)))
    return [Pending(*row) for row in found.fetchall()]
