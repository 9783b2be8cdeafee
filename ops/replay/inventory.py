"""Inventory's decisions, brought back from the topic `inventory`, and the catalogue, from the topic `products`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import astuple

from common.errors import Fatal
from common.events import (
    INVENTORY,
    PRODUCTS,
    CustomerId,
    OrderId,
    ProductId,
    StockEvent,
    check_customer,
)
from common.postgres import Conn, columns
from inventory import catalogue, relay_store, store
from inventory.consumer import Batch
from inventory.decide import Decisions, Movement, Product, Reservation
from ops.log import Log
from ops.replay.entered import shortened
from ops.replay.published import Restored, cover_notes, events, lost, time_of
from ops.tool import statements

SQL: Final = statements(__file__)


class Shortfall(NamedTuple):
    """How many pieces of a product are missing."""

    product_id: ProductId
    quantity: int

    def __str__(self) -> str:
        return f"  product {self.product_id}: at least {self.quantity} pieces"


def restore_catalogue(connection: Conn, log: Log) -> list[str]:
    """Within a transaction: write the catalogue's entries that were published and are not in the database, and have the
    relay publish again what the topic lacks. Returns what was done, line by line."""
    published = catalogue.Published()
    for records in catalogue.read(log.brokers, "replay", log.topics([PRODUCTS])[PRODUCTS]):
        for key, product in records:
            published.apply(key, product)
    difference = catalogue.compare(published, relay_store.entries(connection))
    return [*_bring_back(connection, difference), *_publish_again(connection, difference.unpublished)]


def _bring_back(connection: Conn, difference: catalogue.Difference) -> list[str]:
    if not difference.behind:
        return []
    newest = [astuple(published) for published, _ in difference.behind.values()]
    connection.execute(SQL["catalogue"], columns(newest))
    lines = [
        f"  product {published.product_id}: version {published.version}, {published.unit_price} {published.currency}; "
        + ("the database had no row" if product is None else f"the database had {product.unit_price}")
        for published, product in difference.behind.values()
    ]
    return [f"{len(lines)} entries of the catalogue brought back from topic {PRODUCTS!r}:", *shortened(lines)]


def _publish_again(connection: Conn, unpublished: Sequence[str]) -> list[str]:
    if not unpublished:
        return []
    relay_store.publish_again(connection, unpublished)
    lines = [f"  product {product_id}" for product_id in unpublished]
    return [f"topic {PRODUCTS!r} lacks {len(lines)} products; inventory publishes them again:", *shortened(lines)]


def restore(connection: Conn, log: Log, *, cover: str | None) -> Restored:
    """Within a transaction: write the reservations that were published and are not in the database. The catalogue comes
    before.

    `cover` is the idempotency key under which missing restocks are entered; without one they raise `Fatal`.
    """
    published = lost(connection, events(log, INVENTORY), SQL["stored"])
    product_ids = {line.product_id for event in published.values() for line in event.data.items}
    locked = store.lock(connection, product_ids, published.keys())
    products, reservations = locked.read()
    rebuilt, shortfalls = rebuild(published.values(), locked.read_whole(products), reservations)
    notes = cover_notes(shortfalls, "restocks", cover)
    if shortfalls:
        connection.execute(SQL["restock"], (cover, *columns(shortfalls)))
        for product_id, quantity in shortfalls:
            rebuilt.on_hand[product_id] += quantity
    batch = Batch(rebuilt, locked, reservations, ())
    batch.store(connection)
    batch.update(connection)
    return Restored(len(published), notes)


def rebuild(
    published: Iterable[StockEvent], products: Mapping[ProductId, Product], reservations: Mapping[OrderId, Reservation]
) -> tuple[Decisions, list[Shortfall]]:
    """The changes that make the database agree with what was published. A published decision stands: who got the last
    piece depended on how the partitions were interleaved, so a new decision could differ.

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
