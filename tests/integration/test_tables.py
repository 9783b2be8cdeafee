"""Rows are the same whether a large batch copies them or a small one inserts them in its pipeline."""

from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import TransactionStatus

from common.events import CustomerId, Line, Milliseconds, OrderId, ProductId
from common.postgres import Conn, connect, pipeline, transaction, transaction_of_pipeline
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


def insert_payments(connection: Conn) -> None:
    money.insert_payments(
        connection,
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


def insert_transfers(connection: Conn) -> None:
    rows = [Transfer("capture", order_id, CustomerId(text), number + 1, "EUR", AT) for order_id, number, text in ROWS]
    money.insert_transfers(connection, rows)


def insert_reservations(connection: Conn) -> None:
    stock.insert_reservations(
        connection,
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


def insert_movements(connection: Conn) -> None:
    rows = [Movement("reserve", order_id, ProductId(text), number + 1, AT) for order_id, number, text in ROWS]
    stock.insert_movements(connection, rows)


def insert_orders(connection: Conn) -> None:
    orders.insert_orders(
        connection,
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
    stack: Stack, service: str, table: str, insert: Callable[[Conn], None]
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
            with pipeline(connection):
                insert(connection)
            stored.append(connection.execute(query, (IDS,)).fetchall())
            raise RolledBack
    copied, inserted = stored
    assert len(copied) == len(ROWS)
    assert inserted == copied


class RolledBack(Exception):
    """Ends a transaction whose rows nobody else must see."""


def test_a_pipeline_begins_the_transaction_that_ends_with_the_block(stack: Stack) -> None:
    with connect(stack.variables["PAYMENT_DATABASE_URL"], "test") as connection:
        with transaction_of_pipeline(connection):
            with pipeline(connection):
                first = connection.execute("SELECT pg_current_xact_id()::text")
            with pipeline(connection):
                second = connection.execute("SELECT pg_current_xact_id()::text")
            assert first.fetchone() == second.fetchone()
        assert connection.info.transaction_status is TransactionStatus.IDLE


def test_a_statement_that_fails_in_a_pipeline_undoes_those_before_it(stack: Stack) -> None:
    url = stack.variables["PAYMENT_DATABASE_URL"]
    with connect(url, "test") as connection:

        def insert_and_fail() -> None:
            with transaction_of_pipeline(connection), pipeline(connection):
                insert_payments(connection)
                connection.execute("SELECT 1 / 0")

        with pytest.raises(errors.DivisionByZero):
            insert_and_fail()
        assert connection.info.transaction_status is TransactionStatus.IDLE
        found = "SELECT count(*) FROM payments WHERE order_id = ANY(%s::uuid[])"
        assert connection.execute(found, (IDS,)).fetchone() == (0,)
        with transaction_of_pipeline(connection), pipeline(connection):
            answer = connection.execute("SELECT 1")
        assert answer.fetchone() == (1,)


def test_a_pipeline_on_a_lost_connection_is_an_operational_error(stack: Stack) -> None:
    with connect(stack.variables["PAYMENT_DATABASE_URL"], "test") as connection:
        with stack.postgres.connect("payment") as owner:
            owner.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError), transaction_of_pipeline(connection), pipeline(connection):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError), transaction_of_pipeline(connection), pipeline(connection):
            connection.execute("SELECT 1")
