"""Rows are the same whether a large batch copies them or a small one inserts them in its pipeline."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from common.events import CustomerId, Line, Milliseconds, OrderId, ProductId
from common.pipeline import Statements, pipeline
from common.postgres import connect, transaction
from inventory import store as stock
from inventory.decide import Movement, Reservation
from order.saga import store as orders
from order.saga.decide import Order
from payment import store as money
from payment.decide import Payment, Transfer
from tests.stack import Stack

AT = Milliseconds(1_700_000_000_123)
AWKWARD = ("plain", "", 'q"uo,te{}', "back\\slash\\N", "tab\tnew\nline", "NULL", "naïve ☃ 𝄞", "'; DROP TABLE x; --")
ROWS = [(OrderId(f"01997c00-0000-7000-8000-{number:012}"), number, text) for number, text in enumerate(AWKWARD)]

IDS = [order_id for order_id, _, _ in ROWS]


def insert_payments(statements: Statements) -> None:
    money.insert_payments(
        statements,
        [
            Payment(
                order_id=order_id,
                customer_id=CustomerId(text),
                state="refunded" if number % 2 else "completed",
                amount=2**52 + number,
                currency="EUR",
                decided_at=AT,
                revoked_at=AT if number % 2 else None,
            )
            for order_id, number, text in ROWS
        ],
    )


def insert_transfers(statements: Statements) -> None:
    rows = [Transfer("capture", order_id, CustomerId(text), number + 1, "EUR", AT) for order_id, number, text in ROWS]
    money.insert_transfers(statements, rows)


def insert_reservations(statements: Statements) -> None:
    stock.insert_reservations(
        statements,
        [
            Reservation(
                order_id=order_id,
                customer_id=CustomerId(text),
                state="reserved",
                lines=(Line(ProductId(text), number + 1), Line(ProductId("p"), 1)),
                decided_at=AT,
            )
            for order_id, number, text in ROWS
        ],
    )


def insert_movements(statements: Statements) -> None:
    rows = [Movement("reserve", order_id, ProductId(text), number + 1, AT) for order_id, number, text in ROWS]
    stock.insert_movements(statements, rows)


def insert_orders(statements: Statements) -> None:
    orders.insert_orders(
        statements,
        [
            orders.Row(
                Order(order_id, CustomerId(text), traceparent=text, payment="completed"),
                number,
                stored=False,
                timeline=[orders.Entry(text, AT, number, None)],
            )
            for order_id, number, text in ROWS
        ],
    )


@pytest.mark.parametrize(
    ("service", "table", "insert"),
    [
        ("payment", "payments", insert_payments),
        ("payment", "ledger", insert_transfers),
        ("inventory", "reservations", insert_reservations),
        ("inventory", "movements", insert_movements),
        ("order", "orders", insert_orders),
    ],
)
def test_an_insert_in_a_pipeline_stores_what_a_copy_stores(
    stack: Stack, service: str, table: str, insert: Callable[[Statements], None]
) -> None:
    query = (
        f"SELECT to_jsonb({table}) - 'entry_id' - 'movement_id' FROM {table} WHERE order_id = ANY(%s::uuid[]) "
        "ORDER BY order_id"
    )
    stored = []
    with connect(stack.variables[f"{service.upper()}_DATABASE_URL"], "test") as connection:
        with suppress(RolledBack), transaction(connection):
            insert(connection)
            stored.append(connection.execute(query, (IDS,)).fetchall())
            raise RolledBack
        with suppress(RolledBack), transaction(connection):
            with pipeline(connection) as statements:
                insert(statements)
            stored.append(connection.execute(query, (IDS,)).fetchall())
            raise RolledBack
    copied, inserted = stored
    assert len(copied) == len(ROWS)
    assert inserted == copied


class RolledBack(Exception):
    """Ends a transaction whose rows nobody else must see."""
