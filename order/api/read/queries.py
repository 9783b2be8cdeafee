"""What HTTP reads from the order database: all of its SQL. It writes nothing.

Orders that are still `awaiting_placed` (a result came before its order) are hidden everywhere.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, get_args

import msgspec
from psycopg.rows import TupleRow

from common.codec import decoded, decoder_for
from common.database import DatabasePool, turn
from common.events import ORDERS, Item, Milliseconds, OrderId, OrderPlaced, rfc3339
from common.kafka.produce.batch import Acknowledged
from common.postgres import READS_SIZE, AsyncConn
from order.api.requests import PageRequest, cursor_after, order_before
from order.api.responses import OrderPage, OrderView, Status, TimelineEntry

PAGES_AT_ONCE: Final = READS_SIZE // 2
"""Lists may be slow. They leave connections to those who look single orders up."""
VISIBLE: Final = list(get_args(Status))
BEYOND_ALL_ORDERS: Final = OrderId("ffffffff-ffff-ffff-ffff-ffffffffffff")

_SELECT: Final = """
    SELECT order_id, customer_id, status, reason, amount, currency, items::text, payment, inventory,
      (extract(epoch FROM placed_at) * 1000)::bigint, (extract(epoch FROM decided_at) * 1000)::bigint,
      (extract(epoch FROM settled_at) * 1000)::bigint, timeline::text, partition, traceparent
    FROM orders
"""
_BY_ID: Final = _SELECT + "WHERE order_id = %s AND status = ANY(%s)"
_PAGE: Final = _SELECT + "WHERE customer_id = %s AND order_id < %s AND status = ANY(%s) ORDER BY order_id DESC LIMIT %s"
# A pending order is news when it is decided, or when its timeline has grown past what was seen.
_NEWS: Final = (
    _SELECT
    + """
    JOIN unnest(%s::uuid[], %s::integer[]) AS watched(order_id, seen) USING (order_id)
    WHERE status = ANY(%s)
      AND CASE WHEN seen IS NULL THEN decided_at IS NOT NULL ELSE jsonb_array_length(timeline) > seen END
    """
)
# By its index, which takes the order's id out of the event's bytes.
_PARKED: Final = """
    SELECT partition, "offset", (extract(epoch FROM record_time) * 1000)::bigint, value
    FROM parked_events
    WHERE topic = 'orders' AND state IN ('parked', 'redrive', 'discard')
      AND substring(encode(value, 'escape') FROM '"subject":"([0-9a-f-]{36})"') = %s
    ORDER BY "offset"
"""
_POSITIONS: Final = "SELECT topic_id, partition, next_offset FROM positions WHERE topic = %s"


class _Entry(msgspec.Struct):
    """A timeline entry as the saga stores it."""

    event: str
    at: Milliseconds
    partition: int
    offset: int | None


_items: Final = msgspec.json.Decoder(tuple[Item, ...])
_timeline: Final = msgspec.json.Decoder(list[_Entry])


class Stored(msgspec.Struct, frozen=True):
    """An order as the saga has stored it, and what an event about it needs: its partition and its trace."""

    view: OrderView
    partition: int
    traceparent: str


ANYTHING: Final = -1
"""As the length of timeline past which a stored order is news: it is news as it stands."""


class Watched(NamedTuple):
    """An order, and the length of timeline past which it is news; None: it is news when it is decided."""

    order_id: OrderId
    seen: int | None


class OrderQueries:
    """The order database as HTTP reads it. Every read raises `DatabaseUnavailable`, at once while it is away."""

    def __init__(self, pool: DatabasePool) -> None:
        """Call it in the event loop."""
        self._pool = pool
        self._pages = asyncio.Semaphore(PAGES_AT_ONCE)

    async def by_id(self, order_id: OrderId) -> Stored | None:
        rows = await self._rows(_BY_ID, order_id, VISIBLE)
        return _stored(rows[0]) if rows else None

    async def parked(self, order_id: OrderId) -> Stored | None:
        """The order as it was placed, if that event is parked by the saga."""
        for partition, offset, at, value in await self._rows(_PARKED, order_id):
            event = decoded(decoder_for[ORDERS].decode, value)
            if isinstance(event, OrderPlaced):
                return as_accepted(event, Acknowledged(partition, offset, at))
        return None

    async def news(self, watched: Sequence[Watched]) -> list[Stored]:
        """The watched orders of which there is news."""
        rows = await self._rows(_NEWS, [w.order_id for w in watched], [w.seen for w in watched], VISIBLE)
        return [_stored(row) for row in rows]

    async def page(self, request: PageRequest) -> OrderPage:
        """A page of a customer's orders, newest first (ids rise with time). Raises `ValueError` for a wrong cursor."""
        before = BEYOND_ALL_ORDERS if request.cursor is None else order_before(request.cursor)
        statuses = VISIBLE if request.status is None else [request.status]
        self._pool.check_reachable()
        async with turn(self._pages, f"the api is busy: {PAGES_AT_ONCE} lists are being read, and none has ended"):
            # One row more than asked for shows whether there is a next page.
            rows = await self._rows(_PAGE, request.customer_id, before, statuses, request.limit + 1)
        orders = [_stored(row).view for row in rows[: request.limit]]
        return OrderPage(orders, cursor_after(orders[-1].order_id) if len(rows) > request.limit else None)

    async def positions(self) -> dict[tuple[str, int], int]:
        """How far the saga has read each partition of `orders`, by the topic's id and number: the offset of its next
        record."""
        return {(topic_id, number): offset for topic_id, number, offset in await self._rows(_POSITIONS, ORDERS)}

    async def _rows(self, query: str, *parameters: object) -> list[TupleRow]:
        async def fetch(connection: AsyncConn) -> list[TupleRow]:
            rows: list[TupleRow] = await (await connection.execute(query, parameters)).fetchall()
            return rows

        return await self._pool.read(fetch)


def as_accepted(placed: OrderPlaced, acknowledged: Acknowledged) -> Stored:
    """An order that the log has and the saga has not stored."""
    at = rfc3339(acknowledged.at)
    view = OrderView(
        order_id=placed.data.order_id,
        customer_id=placed.data.customer_id,
        status="pending",
        reason=None,
        amount=placed.data.amount,
        currency=placed.data.currency,
        items=placed.data.items,
        payment="pending",
        inventory="pending",
        settled=False,
        placed_at=at,
        decided_at=None,
        settled_at=None,
        timeline=[TimelineEntry("order.placed", at, 0, acknowledged.partition, acknowledged.offset)],
    )
    return Stored(view, acknowledged.partition, placed.traceparent)


def _stored(row: TupleRow) -> Stored:
    (order_id, customer_id, status, reason, amount, currency, items, payment, inventory, placed_at, decided_at,
     settled_at, timeline, partition, traceparent) = row  # fmt: skip
    view = OrderView(
        order_id=order_id,
        customer_id=customer_id,
        status=status,
        reason=reason,
        amount=amount,
        currency=currency,
        items=_items.decode(items),
        payment=payment or "pending",
        inventory=inventory or "pending",
        settled=settled_at is not None,
        placed_at=rfc3339(placed_at),
        decided_at=None if decided_at is None else rfc3339(decided_at),
        settled_at=None if settled_at is None else rfc3339(settled_at),
        timeline=[
            TimelineEntry(entry.event, rfc3339(entry.at), entry.at - placed_at, entry.partition, entry.offset)
            for entry in _timeline.decode(timeline)
        ],
    )
    return Stored(view, partition, traceparent)
