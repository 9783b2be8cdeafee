"""One service's database is restored from an old backup: the loss is named, an operator consents, and everything
published is restored, to the order, the reason and the minor unit."""

from itertools import count
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Message, Producer, TopicPartition

from common.codec import encode
from common.events import (
    ORDERS,
    TOPICS_OF,
    DeadlineData,
    Event,
    Item,
    Milliseconds,
    OrderCancelRequested,
    OrderConfirmed,
    OrderDeadlinePassed,
    OrderPlaced,
    OrderRejected,
    OutcomeData,
    PlacedData,
    Reason,
    make,
)
from common.kafka.clients import producer_config
from tests.audit import assert_consistent, await_rest
from tests.backup import back_up, restore
from tests.stack import Stack
from tests.waiting import eventually

PRICE = 100
SCARCE = 3
COMPETITORS = 8
DEPOSIT = 500
RESTOCK = 5
CONSUMER = {"payment": "payment-1", "inventory": "inventory-1", "order": "order-saga-1"}
SAID = {
    "order": "SELECT order_id, status, reason, payment, inventory, payment_reason, inventory_reason FROM orders",
    "payment": "SELECT order_id, customer_id, state, reason, amount, currency FROM payments",
    "inventory": "SELECT order_id, customer_id, state, reason, items::text FROM reservations",
}
BALANCES = "SELECT customer_id, balance FROM accounts"
PIECES = "SELECT product_id, on_hand FROM products"
CATALOGUE = "SELECT product_id, unit_price, active FROM products"


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Stack:
    own_stack.launch_all()
    return own_stack


class Season:
    """Orders of all sorts, of one test's own customers and products."""

    def __init__(self, shop: Stack, name: str) -> None:
        self.shop = shop
        self.name = name
        self.orders: list[str] = []
        self._customers = count()
        self.plenty, self.scarce, self.restocked = (f"{name}-{kind}" for kind in ("plenty", "scarce", "restocked"))
        shop.product(self.plenty, price=PRICE, pieces=10**6)
        shop.product(self.scarce, price=PRICE)
        shop.product(self.restocked, price=PRICE)
        for product in (self.plenty, self.scarce, self.restocked):
            self.await_orderable(product)
        self.rest()  # one of these orders could briefly reserve a piece that the test needs
        shop.product(self.scarce, price=PRICE, pieces=SCARCE)
        self.poor = self.customer(balance=250)
        self.holder = self.place(self.customer(), self.scarce, SCARCE)

    def customer(self, balance: int = 10**6) -> str:
        customer_id = f"{self.name}-{next(self._customers)}"
        self.shop.account(customer_id, balance)
        return customer_id

    def await_orderable(self, product_id: str) -> None:
        body = {"customer_id": f"{self.name}-nobody", "product_id": product_id, "quantity": 1}

        def accepted() -> str | None:
            answer = self.shop.post(body)
            return str(answer.json()["order_id"]) if answer.status_code == 202 else None

        self.orders.append(eventually(accepted, f"{product_id} is orderable"))

    def place(self, customer_id: str, product_id: str, quantity: int = 1) -> str:
        self.orders.append(self.shop.place(customer_id, (product_id, quantity)))
        return self.orders[-1]

    def cancel(self, order_id: str) -> None:
        self.shop.http.post(self.shop.url("order-api", f"/orders/{order_id}/cancel")).raise_for_status()

    def round(self) -> None:
        """Orders that end confirmed, cancelled, declined, out of stock, without an account, and refused twice."""
        cancelled = self.place(self.customer(), self.plenty)
        for _ in range(3):
            self.place(self.customer(), self.plenty)
            self.place(self.poor, self.plenty)
        self.place(f"{self.name}-nobody", self.plenty)
        self.place(f"{self.name}-nobody", self.scarce, 10_000)
        self.place(self.customer(), self.scarce, 10_000)
        assert self.shop.await_settled(cancelled)["status"] == "confirmed"
        self.cancel(cancelled)
        self.rest()

    def compete(self) -> None:
        """Cancel a confirmed order, and let customers of many partitions compete for its pieces."""
        self.cancel(self.holder)
        eventually(lambda: self.shop.on_hand(self.scarce) == SCARCE, "the pieces are released")
        rivals = [self.place(self.customer(), self.scarce) for _ in range(COMPETITORS)]
        self.rest()
        assert [self.shop.order(o)["status"] for o in rivals].count("confirmed") == SCARCE

    def rest(self) -> None:
        await_rest(self.shop, self.orders)


def all_published(shop: Stack) -> dict[str, set[tuple[object, ...]]]:
    return {service: {tuple(row) for row in shop.query(service, query)} for service, query in SAID.items()}


def replay(shop: Stack, service: str, *arguments: str) -> str:
    return shop.run_tool("ops.replay", service, "--why", "the disk is gone", "--actor", "ann", *arguments)


@pytest.mark.parametrize("service", ["payment", "inventory", "order"])
def test_a_database_restored_from_a_backup(shop: Stack, service: str) -> None:
    season = Season(shop, service)
    season.round()
    season.rest()
    back_up(shop, service)
    shop.await_ready()
    before = shop.query(service, "SELECT * FROM positions ORDER BY topic, partition")

    season.round()
    season.compete()
    shop.product(season.plenty, price=2 * PRICE)
    season.place(season.customer(DEPOSIT), season.plenty)
    shop.product(season.restocked, price=PRICE, pieces=RESTOCK)
    season.place(season.customer(), season.restocked, RESTOCK)
    if service == "inventory":
        restock_by_hand(shop, season.restocked)
        season.place(season.customer(), season.restocked, RESTOCK)
    season.rest()
    published, balances, pieces = all_published(shop), shop.query("payment", BALANCES), shop.query("inventory", PIECES)
    catalogue = shop.query("inventory", CATALOGUE)

    restore(shop, service)
    instance = CONSUMER[service]
    shop[instance].await_unready("lost transactions")
    assert "'just replay'" in (shop[instance].unready() or "")
    eventually(lambda: "lost transactions" in shop[instance].log.read_text(), "the log says so too")
    shop.await_ready("order-api-1")
    meanwhile = season.place(season.customer(), season.scarce) if service != "payment" else ""
    assert shop.query(service, "SELECT * FROM positions ORDER BY topic, partition") == before, "no record was processed"

    options = []
    if service == "inventory":
        with pytest.raises(AssertionError, match=f"product {season.restocked}: at least {RESTOCK} pieces"):
            replay(shop, service)
        options = ["--cover"]
    assert "dry run" in replay(shop, service, *options, "--dry-run")
    assert shop.query(service, "SELECT FROM replays") == []
    printed = replay(shop, service, *options)
    print(printed)
    shop.await_ready()
    season.rest()
    if meanwhile:
        assert shop.await_settled(meanwhile)["reason"] == "out_of_stock"
    for side, rows in all_published(shop).items():
        assert published[side] - rows == set(), f"{side} does not have what it had published"
    assert set(balances) - set(shop.query("payment", BALANCES)) == set()
    assert set(pieces) - set(shop.query("inventory", PIECES)) == set()
    assert set(catalogue) - set(shop.query("inventory", CATALOGUE)) == set()
    assert "nothing to replay" in replay(shop, service, *options)
    if service != "order":
        assert "brought back from topic" in printed, "deposits, or restocks"
    assert shop.query(service, "SELECT actor, why FROM replays") == [("ann", "the disk is gone")]
    assert_consistent(shop)
    print(shop.run_tool("ops.verify"))


def restock_by_hand(shop: Stack, product_id: str) -> None:
    """Enter what no topic holds, as an older version did."""
    with shop.postgres.connect("inventory") as owner, owner.transaction():
        enter = "INSERT INTO movements (product_id, kind, quantity, recorded_at) VALUES (%s, 'restock', %s, now())"
        owner.execute(enter, (product_id, RESTOCK))
        owner.execute("UPDATE products SET on_hand = on_hand + %s WHERE product_id = %s", (RESTOCK, product_id))


def test_a_refusal_by_the_saga_stands_whatever_it_reads_first_after_a_restore(shop: Stack) -> None:
    """A cancellation reached the log after the saga had decided on a rejection and before it published that. When the
    log is read again, the cancellation comes first.
    """
    order_id, customer_id = "01997c5e-0000-7000-8000-000000000001", "overtaken"
    shop.product("sku-overtaken", price=PRICE, pieces=1)
    order = replayed(
        shop,
        make(OrderPlaced, placed(order_id, customer_id, "sku-overtaken"), at=Milliseconds(0), traceparent=""),
        make(OrderCancelRequested, outcome(order_id, customer_id, "customer"), at=Milliseconds(1), traceparent=""),
        make(OrderRejected, outcome(order_id, customer_id, "unknown_account"), at=Milliseconds(2), traceparent=""),
    )
    assert (order["status"], order["reason"]) == ("rejected", "unknown_account")


def test_a_confirmation_stands_whatever_the_saga_reads_first_after_a_restore(shop: Stack) -> None:
    """A deadline reached the log after the saga had confirmed the order. When the log is read again, the deadline comes
    first."""
    order_id, customer_id = "01997c5e-0000-7000-8000-000000000002", "in-time"
    shop.product("sku-in-time", price=PRICE, pieces=1)
    shop.account(customer_id, PRICE)
    passed = DeadlineData(order_id=order_id, customer_id=customer_id, deadline_ms=0)
    order = replayed(
        shop,
        make(OrderPlaced, placed(order_id, customer_id, "sku-in-time"), at=Milliseconds(0), traceparent=""),
        make(OrderDeadlinePassed, passed, at=Milliseconds(1), traceparent=""),
        make(OrderConfirmed, outcome(order_id, customer_id), at=Milliseconds(2), traceparent=""),
    )
    assert order["status"] == "confirmed"
    # An offset would pass for one of `orders`, and name another order's record.
    assert [entry["offset"] for entry in order["timeline"] if entry["event"] == "order.confirmed"] == [None]


def placed(order_id: str, customer_id: str, product_id: str) -> PlacedData:
    item = Item(product_id, 1, PRICE)
    return PlacedData(order_id=order_id, customer_id=customer_id, items=(item,), amount=PRICE, currency="EUR")


def outcome(order_id: str, customer_id: str, reason: Reason | None = None) -> OutcomeData:
    return OutcomeData(order_id=order_id, customer_id=customer_id, reason=reason)


def replayed(shop: Stack, *events: Event) -> dict[str, Any]:
    """The settled order of these events, after the database has lost it: the log has what the lost database would have
    left."""
    shop["order-saga-1"].stop()
    shop["order-api-1"].stop()
    rewound = ConsumerGroupTopicPartitions("order-saga", [publish(shop, *events)])
    for future in shop.admin.alter_consumer_group_offsets([rewound]).values():
        future.result()
    shop["order-saga-1"].launch()
    shop["order-api-1"].launch()
    shop["order-saga-1"].await_unready("lost transactions")
    assert "1 published decisions" in replay(shop, "order")
    shop.await_ready()
    order = shop.await_settled(events[0].subject)
    assert_consistent(shop)
    return order


def publish(shop: Stack, *events: Event) -> TopicPartition:
    """Write events of one customer into the log; returns the offset after them in `orders`."""
    ends: list[TopicPartition] = []

    def delivered(_: object, message: Message) -> None:
        if message.topic() == ORDERS:
            ends.append(TopicPartition(ORDERS, message.partition() or 0, (message.offset() or 0) + 1))

    producer = Producer(producer_config(shop.brokers, "test", linger_ms=0))
    for event in events:
        for topic in TOPICS_OF[type(event)]:
            producer.produce(topic, encode(event), event.partitionkey.encode(), on_delivery=delivered)
        producer.flush(30)
    return ends[-1]
