"""Stock in buckets: how instances of inventory sell one product without waiting for one another at its row.

A product that is split (`just split`) has its stock in several rows of `stock_buckets`. A batch locks one of them, by
the lowest partition that it has records of, so that instances lock different ones. Only when an order asks for more
than that bucket has does the batch lock all of them, and then shares out what is left. So an order is rejected for want
of stock only if all buckets together cannot fill it.

Locks are taken in one order: rows of `products`, then buckets by product and number. A batch that has locked one bucket
gives it back before it locks all; otherwise two such batches could deadlock.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from common.events import ProductId
from common.pipeline import Row, Statements, pipeline
from common.postgres import AsyncConn, Conn, columns
from inventory.decide import Product

BUCKETS_MAX: Final = 64
"""As the table's constraint has it. More than there are partitions are of no use: an instance uses one at a time."""

Levels = dict[int, int]
"""Pieces on hand by bucket."""

# Without nullif, a product that was created after the others were locked could divide by zero.
_LOCK_ONE: Final = """
    SELECT product_id, bucket, stock_buckets.on_hand, active, buckets
    FROM stock_buckets JOIN products USING (product_id)
    WHERE product_id = ANY(%s) AND bucket = %s %% nullif(buckets, 0)
    ORDER BY product_id FOR UPDATE OF stock_buckets
"""
_LOCK_ALL: Final = """
    SELECT product_id, bucket, stock_buckets.on_hand, active, buckets
    FROM stock_buckets JOIN products USING (product_id)
    WHERE product_id = ANY(%s)
    ORDER BY product_id, bucket FOR UPDATE OF stock_buckets
"""
_UPDATE: Final = """
    UPDATE stock_buckets SET on_hand = changed.on_hand
    FROM unnest(%s::text[], %s::smallint[], %s::bigint[]) AS changed(product_id, bucket, on_hand)
    WHERE stock_buckets.product_id = changed.product_id AND stock_buckets.bucket = changed.bucket
"""


class Buckets:
    """The buckets that a transaction has locked."""

    def __init__(self, connection: Conn) -> None:
        self._connection = connection
        self._levels: dict[ProductId, Levels] = {}

    def lock_one(self, product_ids: Collection[str], partition: int) -> dict[ProductId, Product]:
        """Lock a bucket of each product that is split, by the number of a partition."""
        with pipeline(self._connection) as statements:
            statements.execute("SAVEPOINT no_bucket")
            buckets = statements.execute(_LOCK_ONE, (list(product_ids), partition))
        return self._read(buckets.fetchall())

    def lock_all(self) -> dict[ProductId, Product]:
        """Give those buckets back, and lock all buckets of the same products."""
        product_ids = list(self._levels)
        with pipeline(self._connection) as statements:
            statements.execute("ROLLBACK TO SAVEPOINT no_bucket")
            buckets = statements.execute(_LOCK_ALL, (product_ids,))
        return self._read(buckets.fetchall())

    def _read(self, rows: Iterable[Row]) -> dict[ProductId, Product]:
        self._levels = {}
        products: dict[ProductId, Product] = {}
        for product_id, bucket, on_hand, active, buckets in rows:
            levels = self._levels.setdefault(product_id, {})
            levels[bucket] = on_hand
            products[product_id] = Product(sum(levels.values()), active, whole=len(levels) == buckets)
        return products

    def update(self, statements: Statements, on_hand: Mapping[ProductId, int]) -> None:
        """Store new levels of products, of those that have buckets locked."""
        rows = [
            (product_id, bucket, pieces)
            for product_id, levels in self._levels.items()
            if product_id in on_hand
            for bucket, pieces in shared_out(on_hand[product_id], levels).items()
        ]
        if rows:
            statements.execute(_UPDATE, columns(rows))

    def __contains__(self, product_id: ProductId) -> bool:
        return product_id in self._levels


def shared_out(pieces: int, buckets: Iterable[int]) -> Levels:
    """Pieces in equal shares; the first buckets get one more if it does not come out even."""
    numbers = sorted(buckets)
    share, rest = divmod(pieces, len(numbers))
    return {number: share + (place < rest) for place, number in enumerate(numbers)}


_RESTOCK: Final = """
    WITH locked AS (
      SELECT bucket, count(*) OVER () AS buckets FROM (
        SELECT bucket FROM stock_buckets WHERE product_id = %(product_id)s ORDER BY bucket FOR UPDATE
      ) AS one
    )
    UPDATE stock_buckets
    SET on_hand = on_hand + %(pieces)s / locked.buckets + (locked.bucket < %(pieces)s %% locked.buckets)::int
    FROM locked WHERE product_id = %(product_id)s AND stock_buckets.bucket = locked.bucket
"""


async def restock(connection: AsyncConn, product_id: str, pieces: int) -> None:
    """Share pieces out among the buckets of a product that is split. Call it with the product's row locked."""
    await connection.execute(_RESTOCK, {"product_id": product_id, "pieces": pieces})


def restock_in(connection: Conn, product_id: str, pieces: int) -> None:
    """The same for a tool."""
    connection.execute(_RESTOCK, {"product_id": product_id, "pieces": pieces})


_LOCK_PRODUCT: Final = "SELECT on_hand, buckets FROM products WHERE product_id = %s FOR UPDATE"
# Waits for batches that have buckets locked, and keeps others from it: none sees a part of the new buckets.
_LOCK_TABLE: Final = "LOCK TABLE stock_buckets IN EXCLUSIVE MODE"
_EMPTY: Final = "DELETE FROM stock_buckets WHERE product_id = %s RETURNING on_hand"
_FILL: Final = """
    INSERT INTO stock_buckets (product_id, bucket, on_hand)
    SELECT %s, bucket, on_hand FROM unnest(%s::smallint[], %s::bigint[]) AS filled(bucket, on_hand)
"""
_SET: Final = "UPDATE products SET on_hand = 0, buckets = %s WHERE product_id = %s"


def split(connection: Conn, product_id: str, buckets: int) -> tuple[int, int] | None:
    """Put the stock of a product into so many buckets. Returns the pieces, and in how many buckets they were before (0:
    in none); None if there is no such product. Call it in a transaction."""
    row = connection.execute(_LOCK_PRODUCT, (product_id,)).fetchone()
    if row is None:
        return None
    pieces, before = row
    connection.execute(_LOCK_TABLE)
    pieces += sum(on_hand for (on_hand,) in connection.execute(_EMPTY, (product_id,)))
    filled = shared_out(pieces, range(buckets))
    connection.execute(_FILL, (product_id, list(filled), list(filled.values())))
    connection.execute(_SET, (buckets, product_id))
    return pieces, before
