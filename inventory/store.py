"""The SQL of the inventory database: for the consumer's batches, for HTTP, and for the demo. The relay's is in
`inventory.relay_store`.

A statement that locks several products locks them in the order of product_id. Otherwise it could deadlock with a batch.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from psycopg.rows import class_row

from common.audit import table as audit
from common.audit.entry import Entry as AuditEntry
from common.audit.entry import user_author
from common.codec import encode
from common.consume.published import EnteredRows
from common.events import Line, OrderId, ProductId, rfc3339
from common.keyed_answers import KeyReused
from common.pipeline import Statements, Table
from common.postgres import AsyncConn, Conn, columns, timestamp
from inventory import buckets
from inventory.buckets import Buckets
from inventory.decide import Movement, Product, Reservation

ON_HAND_MAX: Final = 2**53
"""Pieces. Restocks stop here: exact in JSON, and so far below a bigint that no release overflows it."""

# Runs before the reservations are read: an instance that waited for this lock then reads what the other one decided.
# A revocation gives back the products of its order's reservation. No other instance changes that reservation while this
# transaction has the position of the order's partition locked. An array, not a join: it uses the index on product_id.
_LOCK_PRODUCTS = """
    SELECT product_id, on_hand, active FROM products
    WHERE buckets = 0 AND product_id = ANY(ARRAY(
      SELECT unnest(%s::text[])
      UNION
      SELECT item ->> 'product_id' FROM reservations, json_array_elements(items) AS item
      WHERE order_id = ANY(%s::uuid[]) AND state = 'reserved'
    ))
    ORDER BY product_id FOR UPDATE
"""
_READ_RESERVATIONS = """
    SELECT order_id, customer_id, state, reason, items::text,
      (extract(epoch FROM decided_at) * 1000)::bigint AS decided_at,
      (extract(epoch FROM revoked_at) * 1000)::bigint AS revoked_at
    FROM reservations WHERE order_id = ANY(%s::uuid[])
"""
_UPDATE_RESERVATIONS = """
    UPDATE reservations SET state = changed.state, reason = changed.reason, revoked_at = changed.revoked_at
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::timestamptz[]) AS changed(order_id, state, reason, revoked_at)
    WHERE reservations.order_id = changed.order_id
"""
_UPDATE_STOCK = """
    UPDATE products SET on_hand = changed.on_hand
    FROM unnest(%s::text[], %s::bigint[]) AS changed(product_id, on_hand)
    WHERE products.product_id = changed.product_id
"""
_RESERVATIONS = Table(
    "reservations", order_id="uuid", customer_id="text", state="text", reason="text", items="json",
    decided_at="timestamptz", revoked_at="timestamptz",
)  # fmt: skip
_MOVEMENTS = Table(
    "movements", kind="text", order_id="uuid", product_id="text", quantity="bigint", recorded_at="timestamptz"
)

_lines = msgspec.json.Decoder(tuple[Line, ...])


class Locked:
    """The rows of a batch, some of which are locked when they are read.

    The statements of `lock` are in a pipeline; their rows can be read when it has ended.
    """

    def __init__(
        self, statements: Statements, product_ids: Collection[str], orders: Sequence[str], partition: int
    ) -> None:
        self._product_ids = product_ids
        self._partition = partition
        self._locked = statements.execute(_LOCK_PRODUCTS, (list(product_ids), orders))
        self._reservations = statements.execute(_READ_RESERVATIONS, (orders,))
        self._buckets = Buckets(statements.connection)

    def read(self) -> tuple[dict[ProductId, Product], dict[OrderId, Reservation]]:
        """The products, and the reservations of the orders. Locks a bucket of products that are split."""
        products = {product_id: Product(on_hand, active) for product_id, on_hand, active in self._locked.fetchall()}
        reservations = [
            Reservation(
                order_id=order_id,
                customer_id=customer_id,
                state=state,
                reason=reason,
                lines=_lines.decode(items),
                decided_at=decided_at,
                revoked_at=revoked_at,
            )
            for order_id, customer_id, state, reason, items, decided_at, revoked_at in self._reservations.fetchall()
        ]
        reserved = {line.product_id for r in reservations if r.state == "reserved" for line in r.lines}
        if missing := {*self._product_ids, *reserved} - products.keys():
            products |= self._buckets.lock_one(missing, self._partition)
        return products, {reservation.order_id: reservation for reservation in reservations}

    def read_whole(self, products: Mapping[ProductId, Product]) -> dict[ProductId, Product]:
        """The products as `read` gave them, with the whole stock of those that are split."""
        is_whole = all(product.whole for product in products.values())
        return dict(products) if is_whole else {**products, **self._buckets.lock_all()}

    def update_stock(self, statements: Statements, on_hand: Mapping[ProductId, int]) -> None:
        """Store new levels, in pieces."""
        self._buckets.update(statements, on_hand)
        if unsplit := {product_id: level for product_id, level in on_hand.items() if product_id not in self._buckets}:
            statements.execute(_UPDATE_STOCK, (list(unsplit), list(unsplit.values())))


def lock(statements: Statements, products: Collection[str], orders: Collection[str], partition: int = 0) -> Locked:
    """Lock these products and those reserved for the orders, then read the reservations. The number of a partition
    chooses among the buckets of products that are split."""
    return Locked(statements, products, list(orders), partition)


def insert_reservations(statements: Statements, reservations: Iterable[Reservation]) -> None:
    rows = (
        (r.order_id, r.customer_id, r.state, r.reason, encode(r.lines).decode(), rfc3339(r.decided_at),
         timestamp(r.revoked_at))
        for r in reservations
    )  # fmt: skip
    _RESERVATIONS.insert(statements, rows)


def insert_movements(statements: Statements, movements: Iterable[Movement]) -> None:
    _MOVEMENTS.insert(statements, ((*m[:-1], rfc3339(m.at)) for m in movements))


def update_reservations(statements: Statements, reservations: Sequence[Reservation]) -> None:
    rows = ((r.order_id, r.state, r.reason, timestamp(r.revoked_at)) for r in reservations)
    statements.execute(_UPDATE_RESERVATIONS, columns(rows))


def states(connection: Conn, order_ids: Sequence[str]) -> dict[str, str]:
    """The state of each of these orders' reservations."""
    rows = connection.execute("SELECT order_id, state FROM reservations WHERE order_id = ANY(%s::uuid[])", (order_ids,))
    return dict(rows.fetchall())


RESTOCKED: Final = EnteredRows("movements", "product_id")


# For HTTP, on a connection of a pool. Reads are single statements in autocommit.


class ProductView(Struct, frozen=True):
    """A product for clients. `unit_price` is in minor units, `on_hand` in pieces."""

    product_id: str
    name: str
    unit_price: int
    currency: str
    active: bool
    on_hand: int


_VIEW = """
    SELECT product_id, name, unit_price, currency, active, CASE WHEN buckets = 0 THEN on_hand ELSE (
      SELECT sum(on_hand)::bigint FROM stock_buckets WHERE stock_buckets.product_id = products.product_id
    ) END AS on_hand
    FROM products
"""


async def product(connection: AsyncConn, product_id: str) -> ProductView | None:
    query = f"{_VIEW} WHERE product_id = %s"
    cursor = await connection.cursor(row_factory=class_row(ProductView)).execute(query, (product_id,))
    return await cursor.fetchone()


async def products(connection: AsyncConn, *, after: str, limit: int) -> list[ProductView]:
    """The products with an id after `after`, in the order of their ids."""
    query = f"{_VIEW} WHERE product_id > %s ORDER BY product_id LIMIT %s"
    cursor = await connection.cursor(row_factory=class_row(ProductView)).execute(query, (after, limit))
    return await cursor.fetchall()


# If nothing differs, no row is written or returned: the catalogue has no new version to publish.
_PUT = """
    INSERT INTO products (product_id, name, unit_price, currency, active) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (product_id) DO UPDATE
      SET name = excluded.name, unit_price = excluded.unit_price, currency = excluded.currency,
        active = excluded.active, version = products.version + 1, changed_at = now()
      WHERE (products.name, products.unit_price, products.currency, products.active)
        IS DISTINCT FROM (excluded.name, excluded.unit_price, excluded.currency, excluded.active)
    RETURNING old.unit_price AS price, old.currency
"""


_IS_PUBLISHED = "SELECT version = published_version FROM products WHERE product_id = %s"


async def is_published(connection: AsyncConn, product_id: str) -> bool:
    """Whether the log has the product as it is."""
    return await (await connection.execute(_IS_PUBLISHED, (product_id,))).fetchone() != (False,)


class Put(NamedTuple):
    """A product that was created, or changed: its price before that."""

    price: int | None
    currency: str | None


CREATED: Final = Put(None, None)


async def put_product(
    connection: AsyncConn, product_id: str, name: str, unit_price: int, currency: str, active: bool
) -> Put | None:
    """Create the product or change its catalogue entry. None if it was as wanted."""
    cursor = connection.cursor(row_factory=class_row(Put))
    await cursor.execute(_PUT, (product_id, name, unit_price, currency, active))
    return await cursor.fetchone()


_LOCK_PRODUCT = "SELECT buckets FROM products WHERE product_id = %s FOR UPDATE"
_ENTER_RESTOCK = """
    INSERT INTO movements (product_id, kind, quantity, recorded_at, idempotency_key)
    VALUES (%s, 'restock', %s, now(), %s)
    ON CONFLICT (product_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING movement_id
"""
_RESTOCK = "SELECT quantity FROM movements WHERE product_id = %s AND idempotency_key = %s"
_ADD_STOCK = "UPDATE products SET on_hand = on_hand + %s WHERE product_id = %s"


class UnknownProduct(Exception):
    """There is no such product."""


class StockTooHigh(Exception):
    """The restock would take the stock above `ON_HAND_MAX`."""


async def restock(connection: AsyncConn, product_id: str, quantity: int, key: str) -> ProductView | None:
    """Add pieces to the stock. None, with nothing changed, if the movements have this restock under this key. Call it
    in a transaction.

    Raises `UnknownProduct`, `KeyReused` and `StockTooHigh`.
    """
    cursor = await connection.execute(_LOCK_PRODUCT, (product_id,))
    row = await cursor.fetchone()
    if row is None:
        raise UnknownProduct
    cursor = await connection.execute(_ENTER_RESTOCK, (product_id, quantity, key))
    if await cursor.fetchone() is None:
        cursor = await connection.execute(_RESTOCK, (product_id, key))
        if await cursor.fetchone() != (quantity,):
            raise KeyReused
        return None
    if row[0] > 0:
        await buckets.restock(connection, product_id, quantity)
    else:
        await connection.execute(_ADD_STOCK, (quantity, product_id))
    stocked = await product(connection, product_id)
    if stocked is not None and stocked.on_hand > ON_HAND_MAX:
        raise StockTooHigh
    return stocked


# Demo data.


class DemoProduct(NamedTuple):
    product_id: str
    name: str
    unit_price: int
    pieces: int


_LOAD_DEMO = """
    WITH wanted AS (
      SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[])
        AS demo(product_id, name, unit_price, pieces)
    ), created AS (
      INSERT INTO products (product_id, name, unit_price, currency, active, on_hand)
      SELECT product_id, name, unit_price, 'EUR', true, pieces FROM wanted
      ON CONFLICT DO NOTHING RETURNING product_id, on_hand
    )
    INSERT INTO movements (product_id, kind, quantity, recorded_at, idempotency_key)
    SELECT product_id, 'restock', on_hand, now(), 'demo' FROM created
"""


def load_demo(connection: Conn, demo: Iterable[DemoProduct]) -> int:
    """Create the demo products that do not exist yet, each with a restock; returns how many."""
    with connection.transaction():
        created = connection.execute(_LOAD_DEMO, columns(demo)).rowcount
        if created:
            audit.write(connection, user_author(), AuditEntry("load-demo", "products", {}, f"{created} created"))
    return created
