"""A product that is split is sold from several buckets, and refused only when all of them together are short."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.config.env import Env
from common.consume.records import Received
from common.events import Milliseconds, OrderId, ProductId
from common.kafka.broker import Partition
from common.pipeline import pipeline
from common.postgres import Conn, connect, transaction, transaction_of_pipeline
from inventory import store
from inventory.buckets import BUCKETS_MAX, Buckets, split
from inventory.consumer import Batch, InventoryHandler
from inventory.decide import Relevant
from ops import migrate
from tests.integration.conftest import draw
from tests.stack import Stack
from tests.unit.orders import cancelled, order_id, placed
from tests.waiting import eventually

TEA = ProductId("tea")
BUCKETS = 3
PIECES = 10
"""In each bucket."""


def test_clients_see_one_stock(stack: Stack, customer: str) -> None:
    product = draw("split")
    stack.product(product, pieces=30)
    said = stack.run_tool("ops.split", product, "4", "--why", "many orders")
    assert said == f"product {product} is split in 4 buckets: 30 pieces, not split before\n"
    assert stack.on_hand(product) == 30
    stack.await_settled(stack.await_orderable(product))
    stack.http.post(stack.url("inventory", f"/products/{product}/restocks"), json={"quantity": 5}).raise_for_status()
    outcomes, last = {}, ""
    for quantity in (20, 16, 15):
        order = stack.await_settled(stack.place(customer, (product, quantity)))
        outcomes[quantity] = (order["status"], order["reason"])
        last = order["order_id"]
    assert outcomes == {20: ("confirmed", None), 16: ("rejected", "out_of_stock"), 15: ("confirmed", None)}
    assert stack.on_hand(product) == 0
    stack.http.post(stack.url("order-api", f"/orders/{last}/cancel")).raise_for_status()
    eventually(lambda: stack.on_hand(product) == 15, "the pieces are back")
    stack.run_tool("ops.split", product, "2", "--why", "fewer orders")
    assert stack.on_hand(product) == 15
    [entry, _] = stack.query("inventory", "SELECT detail, result FROM audit WHERE act = 'split' AND target = %s",
                             (f"product {product}",))  # fmt: skip
    assert entry == ({"buckets": 4, "why": "many orders"}, "30 pieces, not split before")


@pytest.fixture(scope="module")
def address(stack: Stack) -> Iterator[str]:
    """The address of a database that no process uses."""

    def apart(url: str) -> str:
        return url.replace("/inventory?", "/buckets?")

    migrate.migrate("inventory", Env("test", {name: apart(url) for name, url in stack.variables.items()}))
    yield apart(stack.variables["INVENTORY_DATABASE_URL"])
    with stack.postgres.connect() as admin:
        admin.execute("DROP DATABASE buckets WITH (FORCE)")


@pytest.fixture
def first(address: str) -> Iterator[Conn]:
    """The session of an instance, with tea in `BUCKETS`."""
    with connect(address, "first") as connection:
        connection.execute(
            "INSERT INTO products (product_id, name, unit_price, currency, active, on_hand) "
            "VALUES ('tea', 'Tea', 1, 'EUR', true, %s)",
            (BUCKETS * PIECES,),
        )
        with transaction(connection):
            assert split(connection, TEA, BUCKETS) == (BUCKETS * PIECES, 0)
        yield connection
        connection.execute("DELETE FROM stock_buckets")
        connection.execute("DELETE FROM products")
        connection.execute("DELETE FROM reservations")


@pytest.fixture
def second(address: str) -> Iterator[Conn]:
    with connect(address, "second") as connection:
        yield connection


def received(partition: int, event: Relevant) -> list[Received]:
    return [Received(Partition("orders", partition), 0, Milliseconds(0), event)]


@contextmanager
def batch_of(connection: Conn, partition: int, event: Relevant) -> Iterator[Batch]:
    """A batch as the loop runs it: stored and committed at the end."""
    handler, records = InventoryHandler(), received(partition, event)
    with transaction_of_pipeline(connection):
        with pipeline(connection) as statements:
            locked = handler.lock(statements, records)
        batch = handler.decide(locked, records, [])
        yield batch
        with pipeline(connection) as statements:
            batch.store(statements)
            batch.update(statements)


def state(batch: Batch, number: int) -> str:
    return batch.decisions.reservations[OrderId(order_id(number))].state


def levels(connection: Conn) -> list[int]:
    return [level for (level,) in connection.execute("SELECT on_hand FROM stock_buckets ORDER BY bucket")]


def test_batches_of_other_partitions_do_not_wait(first: Conn, second: Conn) -> None:
    second.execute("SET lock_timeout = '100ms'")
    with batch_of(first, 0, placed(1, items=[(TEA, 4)])), batch_of(second, 4, placed(2, items=[(TEA, 3)])) as batch:
        assert state(batch, 2) == "reserved"
    assert levels(first) == [6, 7, 10]


def test_a_product_that_is_not_split_has_no_bucket(stack: Stack, first: Conn) -> None:
    """It was created after the batch had locked the rows of its products."""
    first.execute("INSERT INTO products (product_id, name, unit_price, currency, active) "
                  "VALUES ('new', 'New', 1, 'EUR', true)")  # fmt: skip
    with transaction(first):
        split(first, TEA, BUCKETS_MAX)
    with stack.postgres.connect("buckets") as owner:
        owner.execute("ANALYZE products, stock_buckets")  # then PostgreSQL looks for the one bucket of each product
    with transaction(first):
        assert set(Buckets(first).lock_one([TEA, "new"], 1)) == {TEA}


def test_what_comes_back_goes_into_the_bucket_of_the_batch(first: Conn) -> None:
    for partition, event in ((0, placed(1, items=[(TEA, 4)])), (1, cancelled(1))):
        with batch_of(first, partition, event):
            pass
    assert levels(first) == [6, 14, 10]


def test_two_batches_that_both_want_all_buckets_take_turns(address: str, first: Conn, second: Conn) -> None:
    """Each has its own bucket locked when it finds that it needs the others."""
    handler = InventoryHandler()
    states = []

    def runs() -> None:
        with batch_of(second, 1, placed(2, items=[(TEA, 25)])) as batch:
            states.append(state(batch, 2))

    records = received(0, placed(1, items=[(TEA, 20)]))
    with transaction_of_pipeline(first):
        with pipeline(first) as statements:
            locked = handler.lock(statements, records)
        products, _ = locked.read()
        assert (products[TEA].on_hand, products[TEA].whole) == (PIECES, False)
        waiting = threading.Thread(target=runs)
        waiting.start()
        with connect(address, "watch") as watch:
            waits = "SELECT FROM pg_stat_activity WHERE application_name = 'second' AND wait_event_type = 'Lock'"
            eventually(lambda: watch.execute(waits).fetchone() is not None, "the second wants all buckets")
        assert locked.read_whole(products)[TEA].on_hand in (BUCKETS * PIECES, BUCKETS * PIECES - 25)
    waiting.join()
    assert states == ["reserved"]
    assert levels(first) == [2, 2, 1]


def test_a_replay_sees_the_whole_stock(first: Conn) -> None:
    with transaction(first):
        locked = store.lock(first, [TEA], [])
        products, _ = locked.read()
        assert locked.read_whole(products)[TEA].on_hand == BUCKETS * PIECES
        locked.update_stock(first, {TEA: 31})
    assert levels(first) == [11, 10, 10]
