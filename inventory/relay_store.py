"""The relay's SQL: single statements in autocommit, in the session that has the relay's lock.

A statement that locks several products locks them in the order of product_id. Otherwise it could deadlock with a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

from psycopg.rows import dict_row

from common.events import Milliseconds, ProductData
from common.postgres import Conn
from inventory.catalogue import Entry

_ENTRIES = "SELECT product_id, name, unit_price, currency, active, version, published_version FROM products"
_PUBLISH_AGAIN = """
    WITH locked AS (
      SELECT product_id FROM products WHERE product_id = ANY(%s) ORDER BY product_id FOR UPDATE
    )
    UPDATE products SET published_version = 0 FROM locked WHERE products.product_id = locked.product_id
"""


def entries(connection: Conn) -> dict[str, Entry]:
    """The whole catalogue, by product id."""
    rows = connection.cursor(row_factory=dict_row).execute(_ENTRIES)
    return {row["product_id"]: Entry(row.pop("published_version"), ProductData(**row)) for row in rows}


def keep_alive(connection: Conn) -> None:
    """Keep the session, and with it the relay's lock, while the relay is busy with Kafka."""
    connection.execute("SELECT 1")


def publish_again(connection: Conn, product_ids: Sequence[str]) -> None:
    """Let the relay publish these products as they are."""
    connection.execute(_PUBLISH_AGAIN, (list(product_ids),))


class Change(NamedTuple):
    """A product whose catalogue entry is ahead of the log."""

    product: ProductData
    at: Milliseconds


_CHANGES = """
    SELECT product_id, name, unit_price, currency, active, version,
      (extract(epoch FROM changed_at) * 1000)::bigint AS changed_at
    FROM products WHERE version > published_version ORDER BY product_id LIMIT %s
"""
_MARK_PUBLISHED = """
    WITH locked AS (
      SELECT product_id FROM products WHERE product_id = ANY(%s) ORDER BY product_id FOR UPDATE
    )
    UPDATE products SET published_version = published.version
    FROM locked JOIN unnest(%s::text[], %s::bigint[]) AS published(product_id, version) USING (product_id)
    WHERE products.product_id = locked.product_id
"""


def changes(connection: Conn, *, limit: int) -> list[Change]:
    """The products to publish. Not locked: a batch of orders must not wait for the relay and Kafka."""
    rows = connection.cursor(row_factory=dict_row).execute(_CHANGES, (limit,))
    return [Change(at=row.pop("changed_at"), product=ProductData(**row)) for row in rows]


def mark_published(connection: Conn, published: Sequence[Change]) -> None:
    product_ids = [change.product.product_id for change in published]
    versions = [change.product.version for change in published]
    connection.execute(_MARK_PUBLISHED, (product_ids, product_ids, versions))
