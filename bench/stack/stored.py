"""Fills a service's database with settled orders: `python -m bench.stack.stored order|payment|inventory FIRST COUNT`

The first `COPIED` go in by COPY through the service's own store, so that the rows are what the service would have
written. PostgreSQL makes the others from them, each with an id, a customer and times of its own, which is quicker than
COPY by far. The books stay in balance: what is captured is taken from the accounts, what is reserved from the stock.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import psycopg
from psycopg import sql

from common.events import CustomerId, Item, Line, Milliseconds, OrderId, PlacedData, ProductId
from common.postgres import Conn
from dev.settings import TOPIC_PARTITIONS
from inventory import store as inventory_store
from inventory.decide import Movement, Reservation
from order.saga import store as order_store
from order.saga.decide import Order
from payment import store as payment_store
from payment.decide import Payment, Transfer

CUSTOMERS: Final = 100_000
PRODUCTS: Final = 1_000
PRICE: Final = 100
COPIED: Final = 10_000
"""A multiple of PRODUCTS, so that what is made from an order has its product."""
ORDERS_A_TRANSACTION: Final = 100_000
BEGAN: Final = 1_760_000_000_000
"""Milliseconds since the epoch, in the past of any clock: an order a millisecond from then on."""
_SPREAD: Final = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: multiples of it look random and do not repeat."""
_RANGE: Final = 2**60


def at(number: int) -> Milliseconds:
    return Milliseconds(BEGAN + number)


def order_id(number: int) -> OrderId:
    """A UUIDv7 that no api draws."""
    time, tail = f"{BEGAN + number:012x}", f"{number * _SPREAD % _RANGE:015x}"
    return OrderId(f"{time[:8]}-{time[8:]}-7000-8{tail[:3]}-{tail[3:]}")


def customer_id(number: int) -> CustomerId:
    return CustomerId(f"cust-{number % CUSTOMERS:06}")


def product_id(number: int) -> ProductId:
    return ProductId(f"sku-{number % PRODUCTS:04}")


def orders(connection: Conn, numbers: range) -> None:
    def row(number: int) -> order_store.Row:
        when, partition = at(number), number % TOPIC_PARTITIONS
        events = ("order.placed", "payment.completed", "inventory.reserved")
        return order_store.Row(
            Order(
                order_id=order_id(number),
                customer_id=customer_id(number),
                traceparent=f"00-{number:032x}-{number + 1:016x}-01",
                status="confirmed",
                payment="completed",
                inventory="reserved",
                placed_at=when,
                decided_at=when,
                settled_at=when,
            ),
            partition,
            stored=False,
            placed=PlacedData(
                order_id=order_id(number),
                customer_id=customer_id(number),
                items=(Item(product_id(number), 1, PRICE),),
                amount=PRICE,
                currency="EUR",
            ),
            # Below what the log begins with, and each record of one order: `verify` lets nothing else pass for trimmed.
            timeline=[order_store.Entry(event, when, partition, -1 - number) for event in events]
            + [order_store.Entry("order.confirmed", when, partition, None)],
        )

    order_store.insert_orders(connection, [row(number) for number in numbers])


def payments(connection: Conn, numbers: range) -> None:
    payment_store.insert_payments(
        connection,
        (
            Payment(
                order_id=order_id(number),
                customer_id=customer_id(number),
                state="completed",
                amount=PRICE,
                currency="EUR",
                decided_at=at(number),
            )
            for number in numbers
        ),
    )
    payment_store.insert_transfers(
        connection,
        (Transfer("capture", order_id(n), customer_id(n), PRICE, "EUR", at(n)) for n in numbers),
    )


def reservations(connection: Conn, numbers: range) -> None:
    inventory_store.insert_reservations(
        connection,
        (
            Reservation(
                order_id=order_id(number),
                customer_id=customer_id(number),
                state="reserved",
                lines=(Line(product_id(number), 1),),
                decided_at=at(number),
            )
            for number in numbers
        ),
    )
    inventory_store.insert_movements(
        connection, (Movement("reserve", order_id(n), product_id(n), 1, at(n)) for n in numbers)
    )


def nothing(connection: Conn, numbers: range) -> None:
    """The order database keeps no books."""


def take_money(connection: Conn, numbers: range) -> None:
    captured = Counter(map(customer_id, numbers))
    connection.execute(
        "UPDATE accounts SET balance = balance - taken.orders * %s FROM unnest(%s::text[], %s::bigint[]) "
        "AS taken(customer_id, orders) WHERE accounts.customer_id = taken.customer_id",
        (PRICE, list(captured), list(captured.values())),
    )


def take_stock(connection: Conn, numbers: range) -> None:
    reserved = Counter(map(product_id, numbers))
    connection.execute(
        "UPDATE products SET on_hand = on_hand - taken.pieces FROM unnest(%s::text[], %s::bigint[]) "
        "AS taken(product_id, pieces) WHERE products.product_id = taken.product_id",
        (list(reserved), list(reserved.values())),
    )


class Filling(NamedTuple):
    """How a service's database is filled: what writes rows, into which tables, and what keeps the books."""

    copy: Callable[[Conn, range], None]
    tables: tuple[str, ...]
    account: Callable[[Conn, range], None]


FILLINGS: Final = {
    "order": Filling(orders, ("orders",), nothing),
    "payment": Filling(payments, ("payments", "ledger"), take_money),
    "inventory": Filling(reservations, ("reservations", "movements"), take_stock),
}

# The same order id and customer as `order_id` and `customer_id` give.
_ID: Final = sql.SQL(
    "(lpad(to_hex({began} + number), 12, '0') || '70008' "
    "|| lpad(to_hex((number * {spread}::numeric %% {range})::bigint), 15, '0'))::uuid"
).format(began=BEGAN, spread=sql.Literal(str(_SPREAD)), range=_RANGE)
_CUSTOMER: Final = sql.SQL("'cust-' || lpad((number %% {})::text, 6, '0')").format(CUSTOMERS)
_TIMELINE: Final = sql.SQL(
    "replace(timeline::text, '\"offset\": ' || (-1 - copied) || ',', '\"offset\": ' || (-1 - number) || ',')::jsonb"
)
_WRITTEN_COLUMNS: Final = """
    SELECT attname, atttypid = 'timestamptz'::regtype FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity = ''
"""
_SEARCHED_ONLY: Final = """
    SELECT relname, pg_get_indexdef(indexrelid) FROM pg_index
    JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    WHERE NOT indisunique AND amname = 'btree' AND relnamespace = 'public'::regnamespace
"""


def template(connection: Conn, table: str) -> sql.Composed:
    """Set aside the rows that were copied, by order number. Returns the statement that makes others from them."""
    name, aside = sql.Identifier(table), sql.Identifier(f"bench_{table}")
    connection.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE {} AS SELECT row_number() OVER (ORDER BY order_id) - 1 AS copied, * FROM {} "
            "WHERE order_id < {}::uuid"
        ).format(aside, name, sql.Literal(order_id(COPIED)))
    )
    columns: list[sql.Identifier] = []
    values: list[sql.Composable] = []
    for column, is_time in connection.execute(_WRITTEN_COLUMNS, (table,)):
        columns.append(sql.Identifier(column))
        if column == "order_id":
            values.append(_ID)
        elif column == "customer_id":
            values.append(_CUSTOMER)
        elif column == "timeline":
            values.append(_TIMELINE)
        elif is_time:
            values.append(sql.SQL("{} + (number - copied) * interval '1 ms'").format(columns[-1]))
        else:
            values.append(columns[-1])
    return sql.SQL(
        "INSERT INTO {} ({}) SELECT {} FROM generate_series(%s::bigint, %s::bigint) AS number "
        "JOIN {} ON copied = number %% {}"
    ).format(name, sql.SQL(", ").join(columns), sql.SQL(", ").join(values), aside, COPIED)


def chunks(numbers: range) -> Iterator[range]:
    for start in range(numbers.start, numbers.stop, ORDERS_A_TRANSACTION):
        yield range(start, min(start + ORDERS_A_TRANSACTION, numbers.stop))


@contextmanager
def without_indexes(connection: Conn) -> Iterator[None]:
    """B-trees that only searches need are made anew afterwards, which costs a fraction of their upkeep."""
    found = connection.execute(_SEARCHED_ONLY).fetchall()
    for name, _ in found:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    yield
    for _, definition in found:
        connection.execute(definition)


def main(service: str, first: int, count: int) -> None:
    filling = FILLINGS[service]
    url = os.environ[f"{service.upper()}_ADMIN_URL"]  # a service may drop no index
    with psycopg.connect(url, dbname=service, autocommit=True) as connection, without_indexes(connection):
        if copied := range(first, min(first + count, COPIED)):
            with connection.transaction():
                filling.copy(connection, copied)
                filling.account(connection, copied)
        statements = [template(connection, table) for table in filling.tables]
        for numbers in chunks(range(max(first, COPIED), first + count)):
            with connection.transaction():
                for statement in statements:
                    connection.execute(statement, (numbers.start, numbers.stop - 1))
                filling.account(connection, numbers)
        connection.execute("VACUUM ANALYZE")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
