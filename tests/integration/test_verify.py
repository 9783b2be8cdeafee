"""The proof on a real Tandem: no false alarm while it works, and every planted corruption found and named.

At a larger size, measured: `TANDEM_TEST_HISTORY=1000000 just test tests/integration/test_verify.py -k million -s`.
"""

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import psycopg
import pytest
from confluent_kafka import Producer
from psycopg import sql

from common.events import (
    CustomerId,
    OrderCancelled,
    OrderId,
    OrderRejected,
    OutcomeData,
    PaymentData,
    PaymentDeclined,
    encode,
    make,
    now,
)
from common.kafka import client_config
from dev.settings import ROOT
from order.ids import OrderIds
from tests.history import History
from tests.stack import Stack, eventually

CUSTOMERS: Final = 24
PRICE: Final = 100
PATIENCE_S: Final = "3"
UNKNOWN: Final = "01997c00-0000-7000-8000-00000000abcd"


class Proof:
    """What one run of `python -m ops.verify --json` said."""

    def __init__(self, stack: Stack, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "ops.verify", "--json", "--patience", PATIENCE_S, *arguments],
            cwd=ROOT,
            env={**os.environ, **stack.variables},
            capture_output=True,
            timeout=300,
        )
        assert done.stdout, done.stderr
        self.exit_code = done.returncode
        self.report: dict[str, Any] = orjson.loads(done.stdout)

    def named(self, statement: int) -> str:
        """Everything said of the offenders of a statement."""
        return orjson.dumps([o for o in self.report["offenders"] if o["statement"] == statement]).decode()

    def checked(self, statement: int) -> int:
        return int(self.report["statements"][statement - 1]["checked"])

    def summary(self) -> str:
        return orjson.dumps(self.report, option=orjson.OPT_INDENT_2).decode()[:6_000]


class Load:
    """Orders of every outcome from several clients until told to stop; keeps what was acknowledged."""

    def __init__(self, stack: Stack, clients: int = 3) -> None:
        self.accepted: list[str] = []
        self._stack = stack
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, first: int) -> None:
        sorts = [("sku-a", f"cust-{first}"), ("sku-scarce", f"cust-{first}"), ("sku-a", "cust-poor")]
        with httpx.Client(timeout=30) as client:
            for n in itertools.count():
                if self._stopping.is_set():
                    return
                product_id, customer_id = sorts[n % 3] if n % 4 == 0 else ("sku-a", f"cust-{n % CUSTOMERS}")
                body = {"customer_id": customer_id, "product_id": product_id, "quantity": 1 + n % 2}
                answer = client.post(self._stack.url("order-api", "/orders"), json=body)
                assert answer.status_code == 202, answer.text
                order_id = answer.json()["order_id"]
                self.accepted.append(order_id)
                if n % 5 == 0:
                    client.post(self._stack.url("order-api", f"/orders/{order_id}/cancel"))


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Stack:
    """Two of each consumer, customers with and without money, a product in stock and one of few pieces."""
    own_stack.launch_all()
    for service in ("payment", "inventory", "order-saga"):
        own_stack.launch(service, 2)
    own_stack.product("sku-a", price=PRICE, pieces=10**6)
    own_stack.product("sku-scarce", price=PRICE, pieces=5)
    for i in range(CUSTOMERS):
        own_stack.account(f"cust-{i}", 10**7)
    own_stack.account("cust-poor", 1)
    own_stack.await_orderable("sku-a")
    own_stack.await_orderable("sku-scarce")
    own_stack.await_ready()
    return own_stack


def test_no_false_alarm_under_load_with_consumers_killed(shop: Stack, tmp_path: Path) -> None:
    with Load(shop) as load:
        eventually(lambda: len(load.accepted) > 100, "the load flows")
        services = ("payment", "order-saga", "inventory")
        for service in services:
            shop[f"{service}-2"].kill()
        # Their partitions are taken over after the session timeout; until then nothing there is read.
        checked = 0
        for round_ in range(3):
            if round_ == 1:
                for service in services:
                    shop[f"{service}-2"].launch()
            proof = Proof(shop, "--patience", "20")
            assert proof.exit_code == 0, proof.summary()
            assert proof.checked(1) > checked
            checked = proof.checked(1)
    accepted = tmp_path / "accepted"
    accepted.write_text("\n".join(load.accepted))
    proof = Proof(shop, "--accepted", str(accepted), "--patience", "20")
    assert proof.exit_code == 0, proof.summary()
    assert proof.checked(1) >= len(load.accepted)


def test_what_a_frozen_service_has_not_read_is_unproven_and_no_violation(shop: Stack) -> None:
    frozen = [shop["payment-1"], shop["payment-2"]]
    for instance in frozen:
        instance.pause()
    try:
        for i in range(CUSTOMERS):
            shop.place(f"cust-{i}", ("sku-a", 1))
        proof = Proof(shop)
        assert proof.exit_code == 2, proof.summary()
        assert proof.report["offenders"] == []
        assert "payment stands at offset" in orjson.dumps(proof.report["statements"][0]["reasons"]).decode()
    finally:
        for instance in frozen:
            instance.resume()
    eventually(lambda: Proof(shop, "--patience", "15").exit_code == 0, "all is proved again")


def test_the_table_names_the_statements_and_what_was_checked(shop: Stack) -> None:
    printed = shop.run_tool("ops.verify")
    assert "nothing is decided twice" in printed
    assert "proved for" in printed


# Planted corruptions, each undone


@pytest.fixture(scope="module")
def example(shop: Stack) -> dict[str, str]:
    """An order that was confirmed, and one that was paid and then cancelled, by name."""
    confirmed, cancelled = shop.place("cust-1", ("sku-a", 2)), shop.place("cust-2", ("sku-a", 3))
    assert shop.await_settled(confirmed)["status"] == "confirmed"
    assert shop.await_settled(cancelled)["status"] == "confirmed"
    shop.http.post(shop.url("order-api", f"/orders/{cancelled}/cancel")).raise_for_status()
    eventually(lambda: shop.order(cancelled)["payment"] == "refunded", "it is refunded")
    shop.await_settled(cancelled)
    return {"confirmed": confirmed, "cancelled": cancelled}


@contextmanager
def superuser(stack: Stack, database: str) -> Iterator[psycopg.Connection[Any]]:
    url = stack.variables[f"{database.upper()}_ADMIN_URL"].replace("/postgres?", f"/{database}?")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@contextmanager
def planted(stack: Stack, database: str, table: str, where: str, statement: str) -> Iterator[None]:
    """Run `statement`, and afterwards put the rows of `table` back that are `where`."""
    name, condition = sql.Identifier(table), sql.SQL(where)
    with superuser(stack, database) as connection:
        connection.execute(sql.SQL("CREATE TEMP TABLE kept AS SELECT * FROM {} WHERE {}").format(name, condition))
        # A corruption asks no constraint.
        connection.execute("SET session_replication_role = replica")
        checks = connection.execute(
            """SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
               WHERE conrelid = %s::regclass AND contype = 'c'""",
            (table,),
        ).fetchall()
        for check, _ in checks:
            connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(name, sql.Identifier(check)))
        connection.execute(statement.encode())
        try:
            yield
        finally:
            columns = sql.SQL(", ").join(
                sql.Identifier(row[0])
                for row in connection.execute(
                    """SELECT column_name FROM information_schema.columns
                       WHERE table_name = %s AND is_generated = 'NEVER'""",
                    (table,),
                )
            )
            connection.execute(sql.SQL("DELETE FROM {} WHERE {}").format(name, condition))
            connection.execute(
                sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM kept").format(
                    name, columns, columns
                )
            )
            for check, definition in checks:
                connection.execute(
                    sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                        name, sql.Identifier(check), sql.SQL(definition)
                    )
                )


BY_ORDER: Final = "order_id = '{order}'"
CORRUPTIONS: Final = {
    "a lost order row": (1, "confirmed", "order", "orders", BY_ORDER, "DELETE FROM orders WHERE order_id = '{order}'"),
    "a lost payment row": (
        1, "confirmed", "payment", "payments", BY_ORDER, "DELETE FROM payments WHERE order_id = '{order}'",
    ),
    "a lost reservation": (
        1, "confirmed", "inventory", "reservations", BY_ORDER, "DELETE FROM reservations WHERE order_id = '{order}'",
    ),
    "an order row of nobody": (
        1, None, "order", "orders", BY_ORDER,
        ("INSERT INTO orders SELECT forged.* FROM (SELECT * FROM orders WHERE status = 'confirmed' LIMIT 1) AS o, "
            "jsonb_populate_record(NULL::orders, to_jsonb(o) || jsonb_build_object('order_id', '{order}')) AS forged"),
    ),
    "a balance off by one": (
        2, "cust-1", "payment", "accounts", "customer_id = 'cust-1'",
        "UPDATE accounts SET balance = balance + 1 WHERE customer_id = 'cust-1'",
    ),
    "a negative balance": (
        2, "cust-1", "payment", "accounts", "customer_id = 'cust-1'",
        "UPDATE accounts SET balance = -1 WHERE customer_id = 'cust-1'",
    ),
    "a missing ledger row": (
        2, "confirmed", "payment", "ledger", BY_ORDER, "DELETE FROM ledger WHERE order_id = '{order}'",
    ),
    "another amount captured": (
        4, "confirmed", "payment", "payments", BY_ORDER, "UPDATE payments SET amount = 1 WHERE order_id = '{order}'",
    ),
    "stock off by one": (
        3, "sku-a", "inventory", "products", "product_id = 'sku-a'",
        "UPDATE products SET on_hand = on_hand + 1 WHERE product_id = 'sku-a'",
    ),
    "oversold": (
        3, "sku-scarce", "inventory", "products", "product_id = 'sku-scarce'",
        "UPDATE products SET on_hand = -1 WHERE product_id = 'sku-scarce'",
    ),
    "a release of another quantity": (
        3, "cancelled", "inventory", "movements", BY_ORDER,
        "UPDATE movements SET quantity = 1 WHERE order_id = '{order}' AND kind = 'release'",
    ),
    "confirmed and refunded": (
        4, "confirmed", "payment", "payments", BY_ORDER,
        "UPDATE payments SET state = 'refunded', revoked_at = now() WHERE order_id = '{order}'",
    ),
    "captured, cancelled and never refunded": (
        4, "cancelled", "payment", "payments", BY_ORDER,
        "UPDATE payments SET state = 'completed', revoked_at = NULL WHERE order_id = '{order}'",
    ),
    "a refund twice": (
        5, "cancelled", "payment", "ledger", BY_ORDER,
        ("INSERT INTO ledger (customer_id, kind, order_id, amount, currency, recorded_at) "
        "SELECT customer_id, kind, order_id, amount, currency, now() FROM ledger "
        "WHERE order_id = '{order}' AND kind = 'refund'"),
    ),
    "a release twice": (
        5, "cancelled", "inventory", "movements", BY_ORDER,
        ("INSERT INTO movements (product_id, kind, order_id, quantity, recorded_at) "
        "SELECT product_id, kind, order_id, quantity, now() FROM movements "
        "WHERE order_id = '{order}' AND kind = 'release'"),
    ),
    "pending past its deadline": (
        6, "confirmed", "order", "orders", BY_ORDER,
        ("UPDATE orders SET status = 'pending', decided_at = NULL, settled_at = NULL, "
        "placed_at = now() - interval '3 hours' WHERE order_id = '{order}'"),
    ),
    "a compensation that never came": (
        6, "cancelled", "order", "orders", BY_ORDER,
        ("UPDATE orders SET payment = 'completed', settled_at = NULL, decided_at = now() - interval '1 hour' "
        "WHERE order_id = '{order}'"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_planted_corruption_is_found_and_named(shop: Stack, example: dict[str, str], corruption: str) -> None:
    statement, subject, database, table, where, change = CORRUPTIONS[corruption]
    named = example.get(subject, subject) if subject else UNKNOWN
    with planted(shop, database, table, where.format(order=named), change.format(order=named)):
        proof = Proof(shop)
    assert proof.exit_code == 1, proof.summary()
    assert named in proof.named(statement), proof.summary()


def test_all_is_proved_again_once_every_corruption_is_undone(shop: Stack) -> None:
    proof = Proof(shop)
    assert proof.exit_code == 0, proof.summary()


def test_an_accepted_order_that_the_log_does_not_have_is_a_violation(shop: Stack, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted"
    accepted.write_text(f"{UNKNOWN}\n")
    proof = Proof(shop, "--accepted", str(accepted), "--settle-within", "0.5")
    assert proof.exit_code == 1
    assert UNKNOWN in proof.named(1)


def test_a_database_out_of_reach_is_unproven(shop: Stack) -> None:
    url = shop.variables["PAYMENT_AUDITOR_URL"]
    shop.variables["PAYMENT_AUDITOR_URL"] = url.replace(f":{shop.postgres_port}/", ":9/")
    try:
        proof = Proof(shop)
    finally:
        shop.variables["PAYMENT_AUDITOR_URL"] = url
    assert proof.exit_code == 2
    assert "the payment database cannot be reached" in proof.summary()


def test_positions_of_another_topic_are_unproven(shop: Stack) -> None:
    change = "UPDATE positions SET topic_id = 'another' WHERE topic = 'orders'"
    for service in ("payment-1", "payment-2"):
        shop[service].pause()
    try:
        with planted(shop, "payment", "positions", "true", change):
            proof = Proof(shop)
    finally:
        for service in ("payment-1", "payment-2"):
            shop[service].resume()
    assert proof.exit_code == 2, proof.summary()
    assert "payment has read another topic" in proof.summary()


# What is forged in the log cannot be undone: these come last


def forge(stack: Stack, topic: str, order_id: str, value: bytes) -> None:
    """Produce a record next to the order's own."""
    [(partition, customer_id)] = stack.query(
        "order", "SELECT partition, customer_id FROM orders WHERE order_id = %s::uuid", (order_id,)
    )
    producer = Producer(client_config(stack.variables["KAFKA_BOOTSTRAP_SERVERS"], "forger"))
    producer.produce(topic, value, customer_id.encode(), partition)
    assert producer.flush(10) == 0


def test_a_second_decision_in_the_log_is_a_violation(shop: Stack, example: dict[str, str]) -> None:
    order_id = example["confirmed"]
    data = PaymentData(
        order_id=OrderId(order_id), customer_id=CustomerId("cust-1"), amount=2 * PRICE, currency="EUR",
        reason="insufficient_funds",
    )  # fmt: skip
    forge(shop, "payments", order_id, encode(make(PaymentDeclined, data, at=now(), traceparent="")))
    proof = Proof(shop)
    assert proof.exit_code == 1
    assert order_id in proof.named(5), proof.summary()
    assert "payment.declined" in proof.named(5)


def test_a_rejection_of_a_confirmed_order_in_the_log_is_a_violation(shop: Stack) -> None:
    order_id = shop.place("cust-3", ("sku-a", 1))
    shop.await_settled(order_id)
    data = OutcomeData(order_id=OrderId(order_id), customer_id=CustomerId("cust-3"), reason="out_of_stock")
    forge(shop, "orders", order_id, encode(make(OrderRejected, data, at=now(), traceparent="")))
    proof = Proof(shop, "--patience", "10")
    assert proof.exit_code == 1
    assert order_id in proof.named(5), proof.summary()


def test_an_outcome_without_an_order_is_a_violation(shop: Stack, example: dict[str, str]) -> None:
    order_id = OrderIds().draw(now())
    data = OutcomeData(order_id=order_id, customer_id=CustomerId("cust-1"), reason="customer")
    forge(shop, "orders", example["confirmed"], encode(make(OrderCancelled, data, at=now(), traceparent="")))
    proof = Proof(shop, "--patience", "10")
    assert proof.exit_code == 1
    assert order_id in proof.named(1), proof.summary()


def test_poison_is_listed_and_its_silent_removal_is_a_violation(shop: Stack, example: dict[str, str]) -> None:
    order_id = shop.place("cust-5", ("sku-a", 1))
    shop.await_settled(order_id)
    forge(shop, "payments", order_id, b"not an event")
    eventually(lambda: shop.query("order", "SELECT FROM parked_events"), "it is parked")
    listed = Proof(shop)
    assert [row["error"] for row in listed.report["parked"]], listed.summary()
    assert "list it as parked" not in listed.named(6)
    with planted(shop, "order", "parked_events", "true", "DELETE FROM parked_events"):
        proof = Proof(shop)
    assert "order-saga does not list it as parked" in proof.named(6), proof.summary()


def test_a_million_orders_are_proved_within_a_minute(tmp_path: Path) -> None:
    """By default with few orders; the time is asserted at any size, since the first look dominates it."""
    orders = int(os.environ.get("TANDEM_TEST_HISTORY", "3000"))
    stack = Stack(tmp_path)
    try:
        stack.start_infrastructure()
        History(stack, int(stack.variables["TOPIC_PARTITIONS"])).write(orders)
        started = time.monotonic()
        proof = Proof(stack)
        print(f"{orders} orders proved in {time.monotonic() - started:.1f} s")
        assert proof.exit_code == 0, proof.summary()
        assert proof.checked(1) == orders
        assert time.monotonic() - started < 60
    finally:
        stack.stop()
