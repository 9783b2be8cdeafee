"""The saga's side of the order database: all of its SQL. What HTTP reads is in `order.api.read.queries`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from common.codec import encode
from common.events import Milliseconds, OrderId, PlacedData, rfc3339
from common.kafka.broker import Partition
from common.pipeline import Rows, Statements, Table
from common.postgres import Conn, columns, timestamp
from order.saga.decide import Order

# After the partition, the fields of `Order` in their order.
_LOCK_ORDERS = """
    SELECT order_id, partition, customer_id, traceparent, status, reason, payment, inventory, payment_reason,
      inventory_reason, (extract(epoch FROM placed_at) * 1000)::bigint, (extract(epoch FROM decided_at) * 1000)::bigint,
      (extract(epoch FROM settled_at) * 1000)::bigint
    FROM orders WHERE order_id = ANY(%s::uuid[]) ORDER BY order_id FOR UPDATE
"""
# `_UPDATE_ORDERS` takes the columns in this order too.
_ORDERS = Table(
    "orders", order_id="uuid", customer_id="text", partition="integer", status="text", reason="text", payment="text",
    inventory="text", payment_reason="text", inventory_reason="text", amount="bigint", currency="text", items="json",
    placed_at="timestamptz", decided_at="timestamptz", settled_at="timestamptz", traceparent="text", timeline="jsonb",
)  # fmt: skip
# The placed event brings what was ordered, and nothing changes it later.
_UPDATE_ORDERS = """
    UPDATE orders SET
      partition = changed.partition, status = changed.status, reason = changed.reason,
      payment = changed.payment, inventory = changed.inventory,
      payment_reason = changed.payment_reason, inventory_reason = changed.inventory_reason,
      amount = coalesce(changed.amount, orders.amount), currency = coalesce(changed.currency, orders.currency),
      items = CASE WHEN changed.amount IS NULL THEN orders.items ELSE changed.items END,
      placed_at = changed.placed_at, decided_at = changed.decided_at,
      settled_at = changed.settled_at, traceparent = changed.traceparent,
      timeline = orders.timeline || changed.timeline
    FROM unnest(%s::uuid[], %s::text[], %s::integer[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                %s::text[], %s::bigint[], %s::text[], %s::json[], %s::timestamptz[], %s::timestamptz[],
                %s::timestamptz[], %s::text[], %s::jsonb[])
      AS changed(order_id, customer_id, partition, status, reason, payment, inventory, payment_reason,
                 inventory_reason, amount, currency, items, placed_at, decided_at, settled_at, traceparent, timeline)
    WHERE orders.order_id = changed.order_id
"""


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


def lock(statements: Statements, orders: Collection[str]) -> Rows:
    """Lock the orders, by id, and read them. `locked` fetches the rows."""
    return statements.execute(_LOCK_ORDERS, (sorted(orders),))


def locked(rows: Rows) -> dict[OrderId, Row]:
    return {
        order_id: Row(Order(order_id, *fields), partition, stored=True)
        for order_id, partition, *fields in rows.fetchall()
    }


def insert_orders(statements: Statements, rows: Sequence[Row]) -> None:
    _ORDERS.insert(statements, map(_values, rows))


def update_orders(statements: Statements, rows: Sequence[Row]) -> None:
    statements.execute(_UPDATE_ORDERS, columns(map(_values, rows)))


def _values(row: Row) -> tuple[Any, ...]:
    """The values of `_ORDERS`."""
    order, placed = row.order, row.placed
    return (
        order.order_id, order.customer_id, row.partition, order.status, order.reason, order.payment, order.inventory,
        order.payment_reason, order.inventory_reason, placed.amount if placed else None,
        placed.currency if placed else None, encode(placed.items).decode() if placed else "[]",
        timestamp(order.placed_at), timestamp(order.decided_at), timestamp(order.settled_at), order.traceparent,
        encode(row.timeline).decode(),
    )  # fmt: skip


# For the deadline timer.

_READINGS = """
    SELECT topic, partition, next_offset, (extract(epoch FROM record_time) * 1000)::bigint
    FROM positions WHERE topic = ANY(%s)
"""
_SLICE_END = """
    SELECT (extract(epoch FROM placed_at) * 1000)::bigint FROM orders
    WHERE placed_at > %s::timestamptz AND placed_at <= %s::timestamptz ORDER BY placed_at OFFSET %s LIMIT 1
"""
# An order is not due while its customer has parked events: its results may be among them, and were in time.
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


def states(connection: Conn, order_ids: Sequence[str]) -> dict[str, str]:
    """The status of each of these orders."""
    rows = connection.execute("SELECT order_id, status FROM orders WHERE order_id = ANY(%s::uuid[])", (order_ids,))
    return dict(rows.fetchall())


class Reading(NamedTuple):
    """How far the saga has read a partition: the offset it reads next, and the time of the record before that."""

    next_offset: int
    record_time: Milliseconds | None


class Pending(NamedTuple):
    """A pending order, and whether its time is up."""

    order_id: str
    customer_id: str
    partition: int
    traceparent: str
    placed_at: Milliseconds
    due: bool


def readings(connection: Conn, topics: Sequence[str]) -> dict[Partition, Reading]:
    rows = connection.execute(_READINGS, (list(topics),)).fetchall()
    return {Partition(topic, number): Reading(offset, at) for topic, number, offset, at in rows}


def slice_end(connection: Conn, after: Milliseconds, latest: Milliseconds) -> Milliseconds | None:
    """The time that ends a slice of `SLICE_ORDERS` orders after `after`; None if `latest` comes before it."""
    row = connection.execute(_SLICE_END, (rfc3339(after), rfc3339(latest), SLICE_ORDERS - 1)).fetchone()
    return None if row is None else Milliseconds(row[0])


def pending(
    connection: Conn,
    after: Milliseconds,
    upto: Milliseconds,
    due_until: Mapping[int, Milliseconds],
    watched: Collection[str] = (),
) -> list[Pending]:
    """The pending orders among those placed after one time and up to another, and those `watched`; oldest first. An
    order is due if it was placed no later than its partition's cutoff."""
    times = [rfc3339(at) for at in due_until.values()]
    cursor = connection.execute(_PENDING, (list(due_until), times, rfc3339(after), rfc3339(upto), list(watched)))
    return [Pending(*row) for row in cursor.fetchall()]
