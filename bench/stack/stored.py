"""Fills a service's database with settled orders: `python -m bench.stack.stored order|payment|inventory FIRST COUNT`

PostgreSQL copies the rows of confirmed orders that are there already, each copy with an id, a customer and times of its
own. All three databases number those orders alike, so order 4,711 means the same in each. The books stay in balance:
what is captured is taken from the accounts, what is reserved from the stock.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

from psycopg import sql

from common.postgres import Conn

CUSTOMERS: Final = 100_000
TEMPLATES_MAX: Final = 10_000
ORDERS_A_TRANSACTION: Final = 100_000
BEGAN: Final = 1_760_000_000_000
"""Milliseconds since the epoch, in the past of any clock. The stored orders are one a millisecond from then on."""
ENDED: Final = BEGAN + 10**9

# By service: the orders that may be copied, and the tables in which each has one row.
SETTLED: Final = {
    "order": "SELECT order_id FROM orders WHERE status = 'confirmed'",
    "payment": "SELECT order_id FROM payments WHERE state = 'completed'",
    "inventory": "SELECT order_id FROM reservations WHERE state = 'reserved'",
}
TABLES: Final = {"order": ("orders",), "payment": ("payments", "ledger"), "inventory": ("reservations", "movements")}

# Every customer gets money enough. The stock of the demo data suffices.
PREPARE: Final = {
    "payment": """
        INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at)
          SELECT customer_id, 'deposit', 1000000000, currency, now() FROM accounts;
        UPDATE accounts SET balance = balance + 1000000000"""
}
BALANCE: Final = {
    "payment": """
        UPDATE accounts SET balance = balance - taken.amount FROM (
          SELECT customer_id, sum(amount) AS amount FROM ledger WHERE order_id >= %s AND order_id < %s GROUP BY 1
        ) AS taken WHERE accounts.customer_id = taken.customer_id""",
    "inventory": """
        UPDATE products SET on_hand = on_hand - taken.pieces FROM (
          SELECT product_id, sum(quantity) AS pieces FROM movements WHERE order_id >= %s AND order_id < %s GROUP BY 1
        ) AS taken WHERE products.product_id = taken.product_id""",
}

# Column by name, else by type, else as the template has it. An id is a UUIDv7 that no api draws: multiples of 2^64 over
# the golden ratio look random and do not repeat. `verify` takes an offset below zero for one that has been trimmed, if
# only one order has it.
VALUES: Final = {
    "order_id": f"""(lpad(to_hex({BEGAN} + number), 12, '0') || '70008'
        || lpad(to_hex((number * {0x9E3779B97F4A7C15}::numeric %% {2**60})::bigint), 15, '0'))::uuid""",
    "customer_id": f"'cust-' || lpad((number %% {CUSTOMERS})::text, 6, '0')",
    "timeline": """replace(timeline::text, '"@"', (-1 - number)::text)::jsonb""",
}
MARK_OFFSETS: Final = """
    UPDATE template_orders SET timeline = (
      SELECT jsonb_agg(CASE WHEN entry ->> 'offset' IS NULL THEN entry ELSE entry || '{"offset": "@"}' END)
      FROM jsonb_array_elements(timeline) AS entry)
"""
TIME: Final = f"CASE WHEN {{}} IS NOT NULL THEN to_timestamp(({BEGAN} + number) / 1000.0) END"
COLUMNS: Final = """
    SELECT attname, atttypid = 'timestamptz'::regtype FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity = ''
"""
SEARCHED_ONLY: Final = """
    SELECT relname, pg_get_indexdef(indexrelid) FROM pg_index
    JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    WHERE NOT indisunique AND amname = 'btree' AND relnamespace = 'public'::regnamespace
"""


def first_id(at_ms: int) -> str:
    """The least order id of a millisecond."""
    return f"{at_ms:012x}70008{'0' * 15}"


def copying(connection: Conn, settled: LiteralString, table: str) -> sql.Composed:
    """Set the table's templates aside. Returns the statement that copies them to a range of orders."""
    name, aside = sql.Identifier(table), sql.Identifier(f"template_{table}")
    count = connection.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE {} AS SELECT row_number() OVER (ORDER BY order_id) - 1 AS template, * FROM {} "
            "WHERE order_id IN ({} AND order_id >= {}::uuid ORDER BY order_id LIMIT {})"
        ).format(aside, name, sql.SQL(settled), sql.Literal(first_id(ENDED)), TEMPLATES_MAX)
    ).rowcount
    if table == "orders":
        connection.execute(MARK_OFFSETS)
    columns, values = [], []
    for column, is_time in connection.execute(COLUMNS, (table,)):
        columns.append(sql.Identifier(column))
        value: Any = VALUES.get(column) or (TIME if is_time else "{}")
        values.append(sql.SQL(value).format(columns[-1]) if column not in VALUES else sql.SQL(value))
    return sql.SQL(
        "INSERT INTO {} ({}) SELECT {} FROM generate_series(%s::bigint, %s::bigint) AS number "
        "JOIN {} ON template = number %% {}"
    ).format(name, sql.SQL(", ").join(columns), sql.SQL(", ").join(values), aside, count)


@contextmanager
def without_indexes(connection: Conn) -> Iterator[None]:
    """Drop the B-trees that only searches need, and make them anew afterwards, which costs less than their upkeep."""
    indexes = connection.execute(SEARCHED_ONLY).fetchall()
    for name, _ in indexes:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    yield
    for _, definition in indexes:
        connection.execute(definition)


def main(service: str, first: int, count: int) -> None:
    url = os.environ[f"{service.upper()}_ADMIN_URL"]  # a service may not drop an index
    with Conn.connect(url, dbname=service, autocommit=True) as connection, without_indexes(connection):
        connection.execute(PREPARE.get(service, ""))
        statements = [copying(connection, SETTLED[service], table) for table in TABLES[service]]
        last = first + count - 1
        for start in range(first, first + count, ORDERS_A_TRANSACTION):
            with connection.transaction():
                for statement in statements:
                    connection.execute(statement, (start, min(start + ORDERS_A_TRANSACTION - 1, last)))
        if service in BALANCE:
            connection.execute(BALANCE[service], (first_id(BEGAN + first), first_id(BEGAN + first + count)))
        connection.execute("VACUUM ANALYZE")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
