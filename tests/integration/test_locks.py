"""A statement that locks several rows locks them in one order, whatever the table's is: batches wait and do not
deadlock."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import errors

from common.config.env import Env
from common.consume import positions
from common.kafka.broker import Partition
from common.pipeline import Pipeline, pipeline
from common.postgres import connect
from inventory import store as stock
from ops import migrate
from payment import store as money
from tests.stack import Stack
from tests.waiting import eventually

NAMES = ("lock-a", "lock-b", "lock-c")
# Without an index, rows come as the table has them: last name first.
SCAN = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off"


@pytest.fixture(scope="module")
def apart(stack: Stack) -> Iterator[Callable[[str], str]]:
    """The address, by service, of a database that no process uses: inventory's relay would publish the products."""

    def address(service: str) -> str:
        return stack.variables[f"{service.upper()}_DATABASE_URL"].replace(f"/{service}?", f"/locks_{service}?")

    services = ("payment", "inventory")
    for service in services:
        variables = {name: url.replace(f"/{service}?", f"/locks_{service}?") for name, url in stack.variables.items()}
        migrate.migrate(service, Env("test", variables))
    yield address
    with stack.postgres.connect() as admin:
        for service in services:
            admin.execute(f"DROP DATABASE locks_{service} WITH (FORCE)")


@contextmanager
def backwards(stack: Stack, database: str, insert: str, table: str, column: str) -> Iterator[psycopg.Connection]:
    """The superuser's connection, with rows of these names, the last one first."""
    with stack.postgres.connect(f"locks_{database}") as owner:
        for name in reversed(NAMES):
            owner.execute(insert, (name,))
        try:
            yield owner
        finally:
            owner.execute(f"DELETE FROM {table} WHERE {column} = ANY(%s)", (list(NAMES),))


def lock_accounts(statements: Pipeline) -> None:
    money.lock(statements, set(NAMES), [])


def lock_products(statements: Pipeline) -> None:
    stock.lock(statements, set(NAMES), [])


def lock_positions(statements: Pipeline) -> None:
    positions.lock(statements, {Partition(name, 0) for name in NAMES})


@pytest.mark.parametrize(
    ("database", "insert", "table", "column", "lock"),
    [
        (
            "payment",
            "INSERT INTO accounts (customer_id, balance, currency) VALUES (%s, 0, 'EUR')",
            "accounts",
            "customer_id",
            lock_accounts,
        ),
        (
            "inventory",
            "INSERT INTO products (product_id, name, unit_price, currency, active) VALUES (%s, '', 0, 'EUR', false)",
            "products",
            "product_id",
            lock_products,
        ),
        (
            "payment",
            "INSERT INTO positions (topic, partition, topic_id, next_offset) VALUES (%s, 0, '', 0)",
            "positions",
            "topic",
            lock_positions,
        ),
    ],
    ids=["accounts", "products", "positions"],
)
def test_rows_are_locked_in_one_order(
    stack: Stack,
    apart: Callable[[str], str],
    database: str,
    insert: str,
    table: str,
    column: str,
    lock: Callable[[Pipeline], None],
) -> None:
    lock_row = f"SELECT FROM {table} WHERE {column} = %s FOR UPDATE NOWAIT"
    with (
        backwards(stack, database, insert, table, column) as owner,
        stack.postgres.connect(f"locks_{database}") as holder,
        connect(apart(database), "locks") as batch,
    ):
        batch.execute(SCAN)

        def take_all() -> None:
            with pipeline(batch) as statements:
                lock(statements)

        waiting = threading.Thread(target=take_all)
        with holder.transaction():
            holder.execute(lock_row, (NAMES[1],))
            waiting.start()
            waits = "SELECT FROM pg_stat_activity WHERE application_name = 'locks' AND wait_event_type = 'Lock'"
            eventually(lambda: owner.execute(waits).fetchone() is not None, "the batch waits for the row in the middle")
            owner.execute(lock_row, (NAMES[2],))  # not reached yet
            with pytest.raises(errors.LockNotAvailable):
                owner.execute(lock_row, (NAMES[0],))
        waiting.join()
        batch.rollback()
