"""The delivery rules, one by one: a database that refuses one table, a topic that takes no records, an instance that
comes too late. Each test shows from outside which step comes before which, whatever the code looks like inside."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from common.codec import encode
from common.events import (
    INVENTORY,
    ORDERS,
    OUTCOMES,
    PAYMENTS,
    PRODUCTS,
    CustomerId,
    Event,
    Item,
    OrderConfirmed,
    OrderId,
    OrderPlaced,
    OrderRejected,
    PlacedData,
    make,
    now,
    type_of,
)
from common.kafka.broker import Partition, message_bytes_max
from common.kafka.clients import client_config, producer_config
from order.api.place.ids import new_order_id
from tests.audit import assert_consistent, await_rest
from tests.progress import await_read, committed, ends, positions
from tests.stack import Stack
from tests.waiting import eventually

SKU, SOLD_OUT = "sku-a", "sku-none"
PRICE = 100
BALANCE = 10**6

_customers = count()


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Stack:
    own_stack.launch_all()
    own_stack.product(SKU, price=PRICE, pieces=10**6)
    own_stack.product(SOLD_OUT, price=PRICE)
    for product_id in (SKU, SOLD_OUT):
        own_stack.await_settled(own_stack.await_orderable(product_id))
    return own_stack


def new_customer(shop: Stack) -> CustomerId:
    customer_id = CustomerId(f"customer-{next(_customers)}")
    shop.account(customer_id, BALANCE)
    return customer_id


# What Kafka holds


def client(shop: Stack) -> dict[str, Any]:
    return client_config(shop.brokers, "test")


def records(shop: Stack, topic: str, order_id: str) -> list[tuple[int, bytes | None, bytes]]:
    """The partition number, key and value of each record about an order."""
    reader = Consumer({**client(shop), "group.id": "test"})
    unread = {partition.number: end for partition, end in ends(shop, topic).items() if end}
    reader.assign([TopicPartition(topic, number, 0) for number in unread])
    about = []
    while unread:
        for message in reader.consume(1_000, 0.1):
            number, value = message.partition() or 0, message.value() or b""
            if order_id.encode() in value:
                about.append((number, message.key(), value))
            if (message.offset() or 0) + 1 >= unread.get(number, 0):
                unread.pop(number, None)
    reader.close()
    return about


# Faults


@contextmanager
def refusing(shop: Stack, database: str, table: str) -> Iterator[None]:
    """The table refuses inserts and updates with a serialization failure, which consumers retry."""
    with shop.postgres.connect(database) as owner:
        owner.execute("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'refused by a test' USING ERRCODE = '40001'; END $$
        """)
        owner.execute(f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION refuse()")
        try:
            yield
        finally:
            owner.execute("DROP FUNCTION refuse CASCADE")


@contextmanager
def unwritable(shop: Stack, topic: str) -> Iterator[None]:
    """The topic refuses every record as too large. Reads and offset commits still work."""
    usual = message_bytes_max(shop.admin, [topic])[topic]
    shop.set_topic(topic, "max.message.bytes", "1")
    try:
        yield
    finally:
        shop.set_topic(topic, "max.message.bytes", str(usual))


def count_of(shop: Stack, service: str, table: str, order_id: str) -> int:
    [(count,)] = shop.query(service, f"SELECT count(*) FROM {table} WHERE order_id = %s", (order_id,))
    return int(count)


# The rules


def test_a_batch_that_the_database_refuses_leaves_no_trace(shop: Stack) -> None:
    """Effect and position are one transaction; no result is published and no offset committed before it."""
    await_read(shop)
    published = ends(shop, PAYMENTS)
    with refusing(shop, "payment", "positions"):
        order_id = shop.place(new_customer(shop), (SKU, 1))
        shop["payment-1"].await_unready("retrying")
        shop["payment-1"].stop()  # so that it has committed everything it was going to commit
        assert count_of(shop, "payment", "payments", order_id) == 0, "the effect is stored without its position"
        assert ends(shop, PAYMENTS) == published, "a result is published before it is stored"
        stored = positions(shop, "payment")
        ahead = {p: offset for p, offset in committed(shop, "payment", stored).items() if offset > stored[p]}
        assert not ahead, "an offset is committed before its record is stored"
    shop["payment-1"].launch()
    assert shop.await_settled(order_id)["status"] == "confirmed"
    assert_consistent(shop)


def test_an_order_that_the_log_does_not_take_is_not_accepted(shop: Stack) -> None:
    customer_id = new_customer(shop)
    with unwritable(shop, ORDERS):
        answer = shop.post({"customer_id": customer_id, "product_id": SKU, "quantity": 1})
        assert answer.status_code == 503, answer.text
    # It was refused, so there is no order to ask for.
    assert "order_id" not in answer.json()
    assert "this request placed nothing" in answer.text


def test_offsets_are_committed_when_the_results_are_in_the_log(shop: Stack) -> None:
    """Otherwise the result of a process that ends before it publishes would be lost."""
    with unwritable(shop, PAYMENTS):
        order_id = shop.place(new_customer(shop), (SKU, 1))
        eventually(lambda: count_of(shop, "payment", "payments", order_id) == 1, "payment has decided")
        shop["payment-1"].await_unready("too large")
        shop["payment-1"].stop()
    shop["payment-1"].launch()
    assert shop.await_settled(order_id)["status"] == "confirmed"


def test_the_saga_publishes_an_outcome_that_it_had_only_stored(shop: Stack) -> None:
    customer_id = new_customer(shop)
    shop["order-saga-1"].stop()
    order_id = shop.place(customer_id, (SOLD_OUT, 1))
    eventually(lambda: count_of(shop, "payment", "payments", order_id) == 1, "payment has decided")
    eventually(lambda: count_of(shop, "inventory", "reservations", order_id) == 1, "inventory has decided")
    with unwritable(shop, ORDERS):
        shop["order-saga-1"].launch()
        rejected = "SELECT FROM orders WHERE order_id = %s AND status = 'rejected'"
        eventually(lambda: shop.query("order", rejected, (order_id,)) != [], "the saga has decided")
        shop["order-saga-1"].await_unready("too large")
        shop["order-saga-1"].stop()
    shop["order-saga-1"].launch()
    assert shop.await_settled(order_id)["payment"] == "refunded"
    assert shop.balance(customer_id) == BALANCE


def test_a_redriven_event_is_done_when_its_result_is_in_the_log(shop: Stack) -> None:
    customer_id = new_customer(shop)
    with shop.postgres.connect("payment") as owner:
        owner.execute(f"ALTER TABLE payments ADD CONSTRAINT refused CHECK (customer_id <> '{customer_id}')")
        order_id = shop.place(customer_id, (SKU, 1))
        parked = "SELECT FROM parked_events WHERE key = %s AND state = 'parked'"
        eventually(lambda: shop.query("payment", parked, (customer_id.encode(),)) != [], "it is parked")
        owner.execute("ALTER TABLE payments DROP CONSTRAINT refused")
    with unwritable(shop, PAYMENTS):
        shop.run_tool("ops.dead_letters", "redrive", "--customer", customer_id, "--why", "the constraint is gone")
        eventually(lambda: count_of(shop, "payment", "payments", order_id) == 1, "payment has decided")
        shop["payment-1"].await_unready("too large")
        shop["payment-1"].stop()
    shop["payment-1"].launch()
    assert shop.await_settled(order_id)["status"] == "confirmed"


def test_a_change_of_the_catalogue_is_published_when_the_log_has_it(shop: Stack) -> None:
    shop.product("sku-changing", price=PRICE)
    versions = "SELECT published_version FROM products WHERE product_id = 'sku-changing'"
    eventually(lambda: shop.query("inventory", versions) == [(1,)], "the product is published")
    with unwritable(shop, PRODUCTS):
        changed = {"name": "sku-changing", "unit_price": 2 * PRICE, "currency": "EUR", "active": True}
        answer = shop.http.put(shop.url("inventory", "/products/sku-changing"), json=changed)
        assert answer.status_code == 503
        assert "the product is stored, and the log does not have it yet" in answer.text
        shop["inventory-1"].await_unready("relay")
        assert shop.query("inventory", versions) == [(1,)], "it is marked as published, and is not"
        shop["inventory-1"].stop()
    shop["inventory-1"].launch()
    body = {"customer_id": "nobody", "product_id": "sku-changing", "quantity": 1, "expected_amount": 2 * PRICE}
    eventually(lambda: shop.post(body).status_code == 202, "the new price is known")


def test_a_result_goes_to_the_partition_of_its_order_with_its_key(shop: Stack) -> None:
    """Even if the customer's key belongs to another partition, as after a repartitioning."""
    customer_id = new_customer(shop)
    usual = records(shop, ORDERS, shop.place(customer_id, (SKU, 1)))[0][0]
    unusual = (usual + 1) % int(shop.variables["TOPIC_PARTITIONS"])
    order_id = publish_order(shop, customer_id, unusual)
    for topic in (PAYMENTS, INVENTORY):
        [(number, key, _)] = eventually(lambda t=topic: records(shop, t, order_id), f"{topic} has the result")  # type: ignore[misc]
        assert (number, key) == (unusual, customer_id.encode()), topic
    assert shop.await_settled(order_id)["status"] == "confirmed"


def publish_order(shop: Stack, customer_id: CustomerId, number: int) -> OrderId:
    """Write an order into this partition of the log."""
    at = now()
    order_id = new_order_id()
    data = PlacedData(
        order_id=order_id, customer_id=customer_id, items=(Item(SKU, 1, PRICE),), amount=PRICE, currency="EUR"
    )
    event = make(OrderPlaced, data, at=at, traceparent="")
    producer = Producer(producer_config(shop.brokers, "test", linger_ms=0))
    producer.produce(ORDERS, encode(event), customer_id, number)
    producer.flush(30)
    return order_id


def test_a_late_consumer_drops_its_batch_when_its_position_has_moved(shop: Stack) -> None:
    """The test plays the other instance. It locks the position while payment-1 takes the order in, decides the order
    differently, and moves the position."""
    customer_id = new_customer(shop)
    first = shop.place(customer_id, (SKU, 1))
    shop.await_settled(first)
    number = records(shop, ORDERS, first)[0][0]
    where = Partition(ORDERS, number)
    with shop.postgres.connect("payment") as other, other.transaction():
        other.execute("SELECT FROM positions WHERE topic = %s AND partition = %s FOR UPDATE", where)
        order_id = publish_order(shop, customer_id, number)
        await_waiting(shop, "payment")
        other.execute(
            """INSERT INTO payments (order_id, customer_id, state, reason, amount, currency, decided_at)
               VALUES (%s, %s, 'declined', 'insufficient_funds', %s, 'EUR', now())""",
            (order_id, customer_id, PRICE),
        )
        # Whatever precedes it: the saga may publish the outcome of the order before at any moment.
        moved = "UPDATE positions SET next_offset = %s WHERE topic = %s AND partition = %s"
        other.execute(moved, (ends(shop, ORDERS)[where], *where))
    eventually(lambda: "another instance has it" in shop["payment-1"].log.read_text(), "payment-1 drops its batch")
    assert shop.await_settled(order_id)["reason"] == "insufficient_funds"
    assert shop.balance(customer_id) == BALANCE - PRICE
    assert_consistent(shop)


def await_waiting(shop: Stack, database: str) -> None:
    """Wait until a session of the service waits for a locked row."""
    waits = """
        SELECT FROM pg_stat_activity WHERE datname = %s AND usename = %s AND wait_event_type = 'Lock'
    """
    with shop.postgres.connect() as owner:
        eventually(lambda: owner.execute(waits, (database, database)).fetchone() is not None, f"{database} waits")


def test_every_partition_of_a_batch_is_committed(shop: Stack) -> None:
    """Not only the partition of its last record."""
    customers = [new_customer(shop) for _ in range(20)]
    shop["payment-1"].stop()
    ids = [shop.place(customer_id, (SKU, 1)) for customer_id in customers]
    shop["payment-1"].launch()
    await_rest(shop, ids)
    await_read(shop)


def test_the_services_stop_publishing_when_every_order_is_settled(shop: Stack) -> None:
    """A confirmed order and a rejected one make a fixed number of records: what undoes an order is in `orders` too."""
    confirmed, rejected = (shop.place(new_customer(shop), (product_id, 1)) for product_id in (SKU, SOLD_OUT))
    for order_id in (confirmed, rejected):
        shop.await_settled(order_id)
    await_read(shop)
    published: dict[tuple[str, str], list[type[Event]]] = {
        (ORDERS, confirmed): [OrderPlaced],
        (OUTCOMES, confirmed): [OrderConfirmed],
        (ORDERS, rejected): [OrderPlaced, OrderRejected],
        (OUTCOMES, rejected): [OrderRejected],
    }
    for (topic, order_id), kinds in published.items():
        found = [value for _, _, value in records(shop, topic, order_id)]
        assert [type_of(kind).encode() in value for kind, value in zip(kinds, found, strict=True)] == [True] * len(
            kinds
        )


def test_a_concurrent_change_is_not_overwritten(shop: Stack) -> None:
    """While a deposit or a restock is under way, the decision on an order waits, and then starts from the new value."""
    customer_id = new_customer(shop)
    shop.product("sku-restocked", price=PRICE, pieces=5)
    shop.await_orderable("sku-restocked")
    await_rest(shop, ())
    with shop.postgres.connect("payment") as deposit, deposit.transaction():
        deposit.execute("UPDATE accounts SET balance = balance + 500 WHERE customer_id = %s", (customer_id,))
        deposit.execute(
            """INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at)
               VALUES (%s, 'deposit', 500, 'EUR', now())""",
            (customer_id,),
        )
        paid = shop.place(customer_id, ("sku-restocked", 1))
        await_waiting(shop, "payment")
    assert shop.await_settled(paid)["status"] == "confirmed"
    assert shop.balance(customer_id) == BALANCE + 500 - PRICE
    with shop.postgres.connect("inventory") as restock, restock.transaction():
        restock.execute("UPDATE products SET on_hand = on_hand + 7 WHERE product_id = 'sku-restocked'")
        restock.execute(
            """INSERT INTO movements (product_id, kind, quantity, recorded_at)
               VALUES ('sku-restocked', 'restock', 7, now())"""
        )
        reserved = shop.place(customer_id, ("sku-restocked", 1))
        await_waiting(shop, "inventory")
    assert shop.await_settled(reserved)["status"] == "confirmed"
    assert shop.on_hand("sku-restocked") == 5 + 7 - 2
    assert_consistent(shop)


def test_one_order_of_each_outcome_is_proved(shop: Stack) -> None:
    """`verify` proves it, and so does the tests' own audit."""
    customer_id, poor = new_customer(shop), CustomerId("poor")
    shop.account(poor, 1)
    orders = [(customer_id, SKU), (customer_id, SOLD_OUT), (poor, SKU), (poor, SOLD_OUT), (customer_id, SKU)]
    ids = [shop.place(who, (product, 2)) for who, product in orders]
    assert [shop.await_settled(order_id)["status"] for order_id in ids] == [
        "confirmed", "rejected", "rejected", "rejected", "confirmed",
    ]  # fmt: skip
    shop.http.post(shop.url("order-api", f"/orders/{ids[-1]}/cancel")).raise_for_status()
    eventually(lambda: shop.order(ids[-1])["payment"] == "refunded", "the cancelled order is refunded")
    await_rest(shop, ids)
    assert shop.balance(customer_id) == BALANCE - 2 * PRICE
    assert "proved for" in shop.run_tool("ops.verify")
    assert_consistent(shop)
