"""Inventory's decisions, brought back from the topic `inventory`, and the catalogue, from the topic `products`."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from msgspec.structs import astuple

from common.errors import Fatal
from common.events import (
    INVENTORY,
    PRODUCTS,
    CustomerId,
    OrderId,
    ProductChanged,
    ProductData,
    ProductId,
    StockEvent,
    check_customer,
)
from common.postgres import Conn, columns
from inventory import store
from inventory.consumer import Batch
from inventory.decide import Decisions, Movement, Product, Reservation
from ops.log import Log
from ops.replay.published import Restored, cover_notes, events, lost, time_of

_STORED: Final = "SELECT order_id, state FROM reservations WHERE order_id = ANY(%s::uuid[])"
_RESTOCK: Final = """
    INSERT INTO movements (product_id, kind, quantity, recorded_at, idempotency_key)
    SELECT product_id, 'restock', quantity, now(), %s
    FROM unnest(%s::text[], %s::bigint[]) AS missing(product_id, quantity)
"""
# One version above what the log has: the relay publishes it once more, so that the newest entry is also the last one.
_CATALOGUE: Final = """
    INSERT INTO products (product_id, name, unit_price, currency, active, version)
    SELECT product_id, name, unit_price, currency, active, version + 1
    FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::boolean[], %s::bigint[])
      AS published(product_id, name, unit_price, currency, active, version)
    ON CONFLICT (product_id) DO UPDATE
      SET name = excluded.name, unit_price = excluded.unit_price, currency = excluded.currency,
        active = excluded.active, version = excluded.version, changed_at = now()
      WHERE products.version < excluded.version - 1
        OR (products.version = excluded.version - 1
          AND (products.name, products.unit_price, products.currency, products.active)
            IS DISTINCT FROM (excluded.name, excluded.unit_price, excluded.currency, excluded.active))
"""


class Shortfall(NamedTuple):
    """How many pieces of a product are missing."""

    product_id: ProductId
    quantity: int

    def __str__(self) -> str:
        return f"  product {self.product_id}: at least {self.quantity} pieces"


def restore(connection: Conn, log: Log, *, cover: str | None) -> Restored:
    """Within a transaction: write the catalogue's entries and the reservations that were published and are not in the
    database.

    `cover` is the idempotency key under which missing restocks are entered; without one they raise `Fatal`.
    """
    catalogue = newest(events(log, PRODUCTS))
    entries = connection.execute(_CATALOGUE, columns(map(astuple, catalogue.values()))).rowcount if catalogue else 0
    published = lost(connection, events(log, INVENTORY), _STORED)
    wanted = {line.product_id for event in published.values() for line in event.data.items}
    products, reservations = store.lock(connection, wanted, published.keys()).read()
    rebuilt, shortfalls = rebuild(published.values(), products, reservations)
    notes = cover_notes(shortfalls, "restocks", cover)
    if shortfalls:
        connection.execute(_RESTOCK, (cover, *columns(shortfalls)))
        for product_id, quantity in shortfalls:
            rebuilt.on_hand[product_id] += quantity
    batch = Batch(rebuilt, reservations, ())
    batch.store(connection)
    batch.update(connection)
    if entries:
        notes.insert(0, f"{entries} entries of the catalogue brought back")
    return Restored(len(published), notes)


def newest(published: Iterable[ProductChanged]) -> dict[str, ProductData]:
    """Each product as it was last published."""
    products: dict[str, ProductData] = {}
    for event in published:
        before = products.get(event.data.product_id)
        if before is None or before.version < event.data.version:
            products[event.data.product_id] = event.data
    return products


def rebuild(
    published: Iterable[StockEvent], products: Mapping[ProductId, Product], reservations: Mapping[OrderId, Reservation]
) -> tuple[Decisions, list[Shortfall]]:
    """What makes the database say what was published. A published decision stands: who got the last piece depended on
    how the partitions were interleaved, so a new decision could differ.

    Everything is added up before it is judged, so that a piece released and reserved again never counts twice.
    Raises `Fatal` for a product that is neither in the database nor in the catalogue.
    """
    changed: dict[OrderId, Reservation] = {}
    on_hand: dict[ProductId, int] = {}
    movements: list[Movement] = []
    for event in published:
        data, at = event.data, time_of(event)
        order_id = OrderId(data.order_id)
        before = reservations.get(order_id)
        if before is not None:
            check_customer(order_id, before.customer_id, data.customer_id)
        changed[order_id] = Reservation(
            order_id=order_id,
            customer_id=CustomerId(data.customer_id),
            state=event.state,
            reason=data.reason,
            lines=data.items,
            decided_at=before.decided_at if before else at,  # for one revoked since: when it was revoked
            revoked_at=at if event.state == "released" else None,
        )
        for line in data.items:
            product_id = ProductId(line.product_id)
            if product_id not in products:
                raise Fatal(f"replay: order {order_id} reserved {product_id}, which is not in the topic {PRODUCTS!r}")
            level = on_hand.get(product_id, products[product_id].on_hand)
            if before is None:
                level -= line.quantity
                movements.append(Movement("reserve", order_id, product_id, line.quantity, at))
            if event.state == "released":
                level += line.quantity
                movements.append(Movement("release", order_id, product_id, line.quantity, at))
            on_hand[product_id] = level
    shortfalls = [Shortfall(product_id, -level) for product_id, level in sorted(on_hand.items()) if level < 0]
    return Decisions(changed, on_hand, movements), shortfalls
