"""A history of orders, written into databases and log as the services would have left it, of any size, in seconds.

It is for measurements on a million orders. It runs on a stack's infrastructure, before the services start.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg import sql

from common.codec import encode
from common.events import (
    READERS,
    TOPICS_OF,
    CustomerId,
    Event,
    Item,
    Line,
    Milliseconds,
    OrderCancelled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderId,
    OrderPlaced,
    OrderRejected,
    OutcomeData,
    PaymentCompleted,
    PaymentData,
    PaymentDeclined,
    PaymentRefunded,
    PlacedData,
    StockData,
    StockReleased,
    StockReserved,
    make,
    now,
    rfc3339,
)
from common.kafka import broker
from common.kafka.broker import Partition
from common.kafka.clients import client_config, producer_config
from ops.log import Log
from ops.tool import GROUP_OF
from order.api.place.ids import new_order_id
from tests.stack import Stack
from tests.waiting import eventually

CUSTOMERS: Final = 10_000
PRODUCTS: Final = 1_000
OPENING: Final = 10**9
PIECES: Final = 10**7
CHUNK: Final = 20_000
COORDINATOR_S: Final = 30.0
TRACE: Final = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"

Rows = dict[tuple[str, str], list[tuple[Any, ...]]]
COLUMNS: Final = {
    ("order", "orders"): (
        "order_id", "customer_id", "partition", "status", "reason", "payment", "inventory", "amount", "currency",
        "items", "placed_at", "decided_at", "settled_at", "traceparent", "timeline",
    ),
    ("payment", "payments"): (
        "order_id", "customer_id", "state", "reason", "amount", "currency", "decided_at", "revoked_at",
    ),
    ("payment", "ledger"): ("kind", "order_id", "customer_id", "amount", "currency", "recorded_at"),
    ("payment", "accounts"): ("customer_id", "balance", "currency"),
    ("inventory", "reservations"): (
        "order_id", "customer_id", "state", "reason", "items", "decided_at", "revoked_at",
    ),
    ("inventory", "movements"): ("kind", "order_id", "product_id", "quantity", "recorded_at"),
    ("inventory", "products"): ("product_id", "name", "unit_price", "currency", "active", "on_hand"),
}  # fmt: skip


class History:
    """Writes orders: of twenty, seventeen confirmed, two declined, one confirmed and then cancelled."""

    def __init__(self, stack: Stack, partitions: int) -> None:
        self._partitions = partitions
        brokers = self._brokers = stack.brokers
        self._admin = AdminClient(client_config(brokers, "history"))
        self._producer = Producer(
            {**producer_config(brokers, "history", linger_ms=50), "queue.buffering.max.messages": 1_000_000}
        )
        self._databases = {name: psycopg.connect(stack.variables[f"{name.upper()}_DATABASE_URL"]) for name in GROUP_OF}
        self._balances: Counter[str] = Counter()
        self._moved: Counter[str] = Counter()

    def write(self, orders: int) -> None:
        for first in range(0, orders, CHUNK):
            rows: Rows = {}
            for number in range(first, min(orders, first + CHUNK)):
                self._order(number, rows)
            self._copy(rows)
        self._open()
        self._producer.flush()
        self._mark()
        for connection in self._databases.values():
            connection.execute("ANALYZE")
            connection.commit()
            connection.close()

    def _order(self, number: int, rows: Rows) -> None:
        at = now()
        order_id, customer_id = new_order_id(), CustomerId(f"cust-{number % CUSTOMERS:06d}")
        partition = number % CUSTOMERS % self._partitions
        items = tuple(
            Item(f"sku-{(number * 7 + i) % PRODUCTS:04d}", 1 + (number + i) % 3, 100 + i) for i in range(1 + number % 2)
        )
        amount = sum(item.quantity * item.unit_price for item in items)
        kind = "cancelled" if number % 20 == 0 else "rejected" if number % 20 < 3 else "confirmed"
        for event in _events(kind, order_id, customer_id, items, amount, at):
            self._produce(event, partition)
        time = rfc3339(at)
        payment = {"confirmed": "completed", "rejected": "declined", "cancelled": "refunded"}[kind]
        stock = "reserved" if kind == "confirmed" else "released"
        revoked = None if kind == "confirmed" else time
        timeline = encode([{"event": kind, "at": at, "partition": partition, "offset": i} for i in range(4)]).decode()
        lines = encode([Line(item.product_id, item.quantity) for item in items]).decode()
        reason = {"confirmed": None, "rejected": "insufficient_funds", "cancelled": "customer"}[kind]
        add = _adder(rows)
        add("order", "orders", order_id, customer_id, partition, kind, reason, payment, stock, amount, "EUR",
            encode(items).decode(), time, time, time, TRACE, timeline)  # fmt: skip
        add("payment", "payments", order_id, customer_id, payment, reason, amount, "EUR", time,
            time if payment == "refunded" else None)  # fmt: skip
        add("inventory", "reservations", order_id, customer_id, stock, reason, lines, time, revoked)
        for entry in {"completed": ["capture"], "refunded": ["capture", "refund"]}.get(payment, []):
            add("payment", "ledger", entry, order_id, customer_id, amount, "EUR", time)
            self._balances[customer_id] += amount if entry == "refund" else -amount
        for movement in ["reserve"] if kind == "confirmed" else ["reserve", "release"]:
            for item in items:
                add("inventory", "movements", movement, order_id, item.product_id, item.quantity, time)
                self._moved[item.product_id] += item.quantity if movement == "release" else -item.quantity

    def _produce(self, event: Event, partition: int) -> None:
        for topic in TOPICS_OF[type(event)]:
            while True:
                try:
                    self._producer.produce(topic, encode(event), event.partitionkey.encode(), partition)
                    break
                except BufferError:
                    self._producer.poll(0.1)

    def _open(self) -> None:
        """Open the accounts and products that the orders need."""
        rows: Rows = {}
        add = _adder(rows)
        at = rfc3339(now())
        for number in range(CUSTOMERS):
            customer_id = f"cust-{number:06d}"
            add("payment", "accounts", customer_id, OPENING + self._balances[customer_id], "EUR")
            add("payment", "ledger", "deposit", None, customer_id, OPENING, "EUR", at)
        for number in range(PRODUCTS):
            product_id = f"sku-{number:04d}"
            add("inventory", "products", product_id, product_id, 100, "EUR", True, PIECES + self._moved[product_id])
            add("inventory", "movements", "restock", None, product_id, PIECES, at)
        self._copy(rows)

    def _copy(self, rows: Rows) -> None:
        for (database, table), table_rows in rows.items():
            names = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[database, table]))
            into = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
            connection = self._databases[database]
            with connection.cursor().copy(into) as copy:
                for row in table_rows:
                    copy.write_row(row)
            connection.commit()
            self._producer.poll(0)

    def _mark(self) -> None:
        """Commit offsets as if every reader had reached the ends."""
        ends = {p: end for p, (_, end) in Log(self._brokers, "history").bounds(list(READERS)).items()}
        ids = broker.describe(self._admin, list(READERS))
        for database, group in GROUP_OF.items():
            read = [(p, end) for p, end in ends.items() if group in READERS[p.topic]]
            for p, end in read:
                self._databases[database].execute(
                    "INSERT INTO positions (topic, partition, topic_id, next_offset) VALUES (%s, %s, %s, %s)",
                    (*p, ids[p.topic].topic_id, end),
                )
            eventually(lambda g=group, r=dict(read): self._commit(g, r), f"{group} has committed")  # type: ignore[misc]

    def _commit(self, group: str, read: Mapping[Partition, int]) -> bool:
        """A broker that has just started has no coordinator yet. A consumer sends the request: the admin client of
        librdkafka crashes the process while a coordinator is loading."""
        consumer = Consumer({**client_config(self._brokers, "history"), "group.id": group, "enable.auto.commit": False})
        try:
            consumer.committed([TopicPartition(*p) for p in read], COORDINATOR_S)
            consumer.commit(offsets=[TopicPartition(*p, end) for p, end in read.items()], asynchronous=False)
            offsets = consumer.committed([TopicPartition(*p) for p in read], COORDINATOR_S)
            return all(tp.offset == read[Partition(tp.topic, tp.partition)] for tp in offsets)
        except KafkaException:
            return False
        finally:
            consumer.close()


def _adder(rows: Rows) -> Any:
    def add(database: str, table: str, *row: Any) -> None:
        rows.setdefault((database, table), []).append(row)

    return add


def _events(
    kind: str, order_id: OrderId, customer_id: CustomerId, items: tuple[Item, ...], amount: int, at: Milliseconds
) -> Iterator[Event]:
    order: dict[str, Any] = {"order_id": order_id, "customer_id": customer_id}
    lines = tuple(Line(item.product_id, item.quantity) for item in items)
    stock = StockData(**order, items=lines)
    paid = PaymentData(**order, amount=amount, currency="EUR")
    outcome = OutcomeData(**order)
    placed = (OrderPlaced, PlacedData(**order, items=items, amount=amount, currency="EUR"))
    reserved, released = (StockReserved, stock), (StockReleased, stock)
    events: dict[str, list[tuple[Any, Any]]] = {
        "confirmed": [placed, (PaymentCompleted, paid), reserved, (OrderConfirmed, outcome)],
        "rejected": [
            placed, (PaymentDeclined, paid), reserved, (OrderRejected, outcome), (PaymentDeclined, paid), released,
        ],
        "cancelled": [
            placed, (PaymentCompleted, paid), reserved, (OrderConfirmed, outcome), (OrderCancelRequested, outcome),
            (OrderCancelled, outcome), (PaymentRefunded, paid), released,
        ],
    }  # fmt: skip
    return itertools.starmap(lambda which, data: make(which, data, at=at, traceparent=TRACE), events[kind])
