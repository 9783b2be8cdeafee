"""The proof on a real Tandem: every planted corruption is found and named."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import psycopg
import pytest
from confluent_kafka import Producer
from psycopg import sql

from common.codec import encode
from common.events import (
    CustomerId,
    OrderCancelled,
    OrderId,
    OrderRejected,
    OutcomeData,
    PaymentData,
    PaymentDeclined,
    make,
    now,
)
from common.kafka.clients import client_config
from dev.settings import ROOT, free_ports
from order.api.place.ids import new_order_id
from tests.proof import PATIENCE_S, LightProof, Proof
from tests.stack import Stack
from tests.waiting import eventually

CUSTOMERS: Final = 24
PRICE: Final = 100
UNKNOWN: Final = "01997c00-0000-7000-8000-00000000abcd"


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Stack:
    """Customers with and without money, a product in stock, one of few pieces and one that is split. No order
    ever becomes due: the saga would cancel a forged one before the proof looks at it."""
    own_stack.variables["ORDER_SETTLE_DEADLINE_S"] = str(30 * 86_400)
    own_stack.launch_all()
    own_stack.product("sku-a", price=PRICE, pieces=10**6)
    own_stack.product("sku-scarce", price=PRICE, pieces=5)
    own_stack.product("sku-b", price=PRICE, pieces=2)
    own_stack.run_tool("ops.split", "sku-b", "2", "--why", "test")
    own_stack.accounts((f"cust-{i}" for i in range(CUSTOMERS)), 10**7)
    own_stack.account("cust-poor", 1)
    own_stack.await_orderable("sku-a")
    own_stack.await_orderable("sku-scarce")
    own_stack.await_ready()
    return own_stack


# Planted corruptions, each undone


@pytest.fixture(scope="module")
def example(shop: Stack) -> dict[str, str]:
    """An order that was confirmed, and one that was paid and then cancelled, by name."""
    answer = shop.http.post(
        shop.url("order-api", "/orders"),
        json={"customer_id": "cust-1", "product_id": "sku-a", "quantity": 2},
        headers={"idempotency-key": "key-of-confirmed"},
    )
    confirmed, cancelled = str(answer.json()["order_id"]), shop.place("cust-2", ("sku-a", 3))
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
    """Run `statement`, and afterwards restore the rows of `table` that match `where`."""
    name, condition = sql.Identifier(table), sql.SQL(where)
    with superuser(stack, database) as connection:
        connection.execute(sql.SQL("CREATE TEMP TABLE kept AS SELECT * FROM {} WHERE {}").format(name, condition))
        # A corruption is not stopped by constraints.
        connection.execute("SET session_replication_role = replica")
        checks = connection.execute(
            """SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
               WHERE conrelid = %s::regclass AND (contype IN ('c', 'p') OR contype = 'n' AND NOT EXISTS (
                 SELECT FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY(conkey) AND attidentity <> ''))
               ORDER BY contype = 'n'""",
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
            for check, definition in reversed(checks):
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
    "an order row without an order": (
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
    "stock split, and a bucket off by one": (
        3, "sku-b", "inventory", "stock_buckets", "product_id = 'sku-b'",
        "UPDATE stock_buckets SET on_hand = on_hand + 1 WHERE product_id = 'sku-b' AND bucket = 1",
    ),
    "stock split, and one bucket oversold from another": (
        3, "sku-b", "inventory", "stock_buckets", "product_id = 'sku-b'",
        ("UPDATE stock_buckets SET on_hand = (ARRAY[-1, 3])[bucket + 1] "
            "WHERE product_id = 'sku-b'"),
    ),
    "stock split, and a bucket gone": (
        3, "sku-b", "inventory", "stock_buckets", "product_id = 'sku-b'",
        "DELETE FROM stock_buckets WHERE product_id = 'sku-b' AND bucket = 1",
    ),
    "stock split, and a bucket that no order finds": (
        3, "sku-b", "inventory", "stock_buckets", "product_id = 'sku-b'",
        "UPDATE stock_buckets SET bucket = 9 WHERE product_id = 'sku-b' AND bucket = 1",
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


LIGHT: Final[dict[str, int | None]] = {
    "an order row without an order": None,
    "of no status": None,
    "of no amount": 4,
    "deleted everywhere, and parked instead": None,
    "redriven, and not what the log has": None,
    "another order under its key": None,
    "another price under its key": None,
    "another customer's key": None,
    "another request's hash": None,
    "two keys for one order": None,
}
"""The statement by which the console's light proof finds it, where that is another one. None for what it cannot see:
what rows say that nothing in the log led to, which events were parked, and idempotency keys. The page says so."""


@pytest.fixture
def light(shop: Stack) -> Iterator[LightProof]:
    proof = LightProof(shop)
    yield proof
    proof.close()


def assert_light(shown: dict[str, Any], planting: str, statement: int) -> None:
    """The light proof has found it, by this statement unless `LIGHT` says otherwise."""
    expected = LIGHT.get(planting, statement)
    violated = [each["statement"] for each in shown["statements"] if each["violations"]]
    if expected is None:
        assert (shown["verdict"], violated) == ("proved", []), shown
    else:
        assert shown["verdict"] == "violated", shown
        assert expected in violated, shown


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_planted_corruption_is_found_and_named(
    shop: Stack, example: dict[str, str], light: LightProof, corruption: str
) -> None:
    statement, subject, database, table, where, change = CORRUPTIONS[corruption]
    named = example.get(subject, subject) if subject else UNKNOWN
    with planted(shop, database, table, where.format(order=named), change.format(order=named)):
        proof, shown = Proof.here(shop), light.rounds()
    assert proof.exit_code == 1, proof.summary()
    assert named in proof.named(statement), proof.summary()
    assert_light(shown, corruption, statement)


Planting = tuple[str, str, str, str]
"""Database, table, which rows to restore, statement."""
FORGERIES: Final[dict[str, tuple[int, str, list[Planting]]]] = {
    "money taken for no order": (2, "ledger in EUR", [
        ("payment", "ledger", "recorded_at = 'epoch'",
            ("INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at) "
            "VALUES ('cust-1', 'capture', 5, 'EUR', 'epoch')")),
        ("payment", "accounts", "customer_id = 'cust-1'",
            "UPDATE accounts SET balance = balance - 5 WHERE customer_id = 'cust-1'"),
    ]),
    "an order's money back as a deposit": (2, "confirmed", [
        ("payment", "ledger", "recorded_at = 'epoch'",
            ("INSERT INTO ledger (customer_id, kind, order_id, amount, currency, recorded_at) "
            "SELECT customer_id, 'deposit', order_id, amount, currency, 'epoch' FROM payments "
            "WHERE order_id = '{order}'")),
        ("payment", "accounts", "customer_id = 'cust-1'",
            ("UPDATE accounts SET balance = balance + (SELECT amount FROM payments WHERE order_id = '{order}') "
            "WHERE customer_id = 'cust-1'")),
    ]),
    "a deposit below zero": (2, "ledger in EUR", [
        ("payment", "ledger", "recorded_at = 'epoch'",
            ("INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at) "
            "VALUES ('cust-1', 'deposit', -5, 'EUR', 'epoch')")),
        ("payment", "accounts", "customer_id = 'cust-1'",
            "UPDATE accounts SET balance = balance - 5 WHERE customer_id = 'cust-1'"),
    ]),
    "an entry of no kind and no amount": (2, "ledger in EUR", [
        ("payment", "ledger", "recorded_at = 'epoch'",
            ("INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at) "
            "VALUES ('cust-1', NULL, NULL, 'EUR', 'epoch')")),
    ]),
    "a balance of nothing": (2, "account cust-1", [
        ("payment", "accounts", "customer_id = 'cust-1'",
            "UPDATE accounts SET currency = NULL WHERE customer_id = 'cust-1'"),
    ]),
    "an account twice": (2, "account cust-1", [
        ("payment", "accounts", "customer_id = 'cust-1'",
            "INSERT INTO accounts SELECT * FROM accounts WHERE customer_id = 'cust-1'"),
    ]),
    "a product twice": (3, "product sku-scarce", [
        ("inventory", "products", "product_id = 'sku-scarce'",
            "INSERT INTO products SELECT * FROM products WHERE product_id = 'sku-scarce'"),
    ]),
    "stock taken for no order": (3, "product sku-a", [
        ("inventory", "movements", "recorded_at = 'epoch'",
            "INSERT INTO movements (product_id, kind, quantity, recorded_at) VALUES ('sku-a', 'reserve', 5, 'epoch')"),
        ("inventory", "products", "product_id = 'sku-a'",
            "UPDATE products SET on_hand = on_hand - 5 WHERE product_id = 'sku-a'"),
    ]),
    "an order's stock back as a restock": (3, "confirmed", [
        ("inventory", "movements", "recorded_at = 'epoch'",
            ("INSERT INTO movements (product_id, kind, order_id, quantity, recorded_at) "
            "VALUES ('sku-a', 'restock', '{order}', 2, 'epoch')")),
        ("inventory", "products", "product_id = 'sku-a'",
            "UPDATE products SET on_hand = on_hand + 2 WHERE product_id = 'sku-a'"),
    ]),
    "pending, and placed in the future": (6, "confirmed", [
        ("order", "orders", BY_ORDER,
            ("UPDATE orders SET status = 'pending', decided_at = NULL, settled_at = NULL, "
            "placed_at = now() + interval '1 year' WHERE order_id = '{order}'")),
    ]),
    "of no status": (4, "confirmed", [
        ("order", "orders", BY_ORDER,
            "UPDATE orders SET status = NULL, settled_at = NULL WHERE order_id = '{order}'"),
    ]),
    "in another partition": (4, "confirmed", [
        ("order", "orders", BY_ORDER, "UPDATE orders SET partition = partition + 1 WHERE order_id = '{order}'"),
    ]),
    "of no amount": (1, "confirmed", [
        ("order", "orders", BY_ORDER, "UPDATE orders SET amount = NULL WHERE order_id = '{order}'"),
    ]),
    "a line within a line": (1, "confirmed", [
        ("order", "orders", BY_ORDER,
            "UPDATE orders SET customer_id = customer_id || E'\\n{order}|A' WHERE order_id = '{order}'"),
    ]),
    "deleted everywhere, and parked instead": (1, "confirmed", [
        (database, "parked_events", "error = 'forged'",
            ("INSERT INTO parked_events "
            "(topic, partition, \"offset\", topic_id, key, value, headers, record_time, root, error) "
            "SELECT topic, partition, {offset}, topic_id, 'cust-1', '{value}', '[]', now(), true, 'forged' "
            "FROM positions WHERE topic = 'orders' AND partition = {partition}"))
        for database in ("order", "payment", "inventory")
    ] + [
        ("order", "orders", BY_ORDER, "DELETE FROM orders WHERE order_id = '{order}'"),
        ("payment", "accounts", "customer_id = 'cust-1'",
            ("UPDATE accounts SET balance = balance + (SELECT amount FROM payments WHERE order_id = '{order}') "
            "WHERE customer_id = 'cust-1'")),
        ("payment", "payments", BY_ORDER, "DELETE FROM payments WHERE order_id = '{order}'"),
        ("payment", "ledger", BY_ORDER, "DELETE FROM ledger WHERE order_id = '{order}'"),
        ("inventory", "reservations", BY_ORDER, "DELETE FROM reservations WHERE order_id = '{order}'"),
        ("inventory", "movements", BY_ORDER, "DELETE FROM movements WHERE order_id = '{order}'"),
        ("inventory", "products", "product_id = 'sku-a'",
            "UPDATE products SET on_hand = on_hand + 2 WHERE product_id = 'sku-a'"),
    ]),
    "redriven, and not what the log has": (6, "orders/{partition}@{offset}", [
        ("payment", "parked_events", "error = 'forged'",
            ("INSERT INTO parked_events "
            "(topic, partition, \"offset\", topic_id, key, value, headers, record_time, root, error, state) "
            "SELECT topic, partition, {offset}, topic_id, 'cust-1', 'another', '[]', now(), true, 'forged', 'done' "
            "FROM positions WHERE topic = 'orders' AND partition = {partition}")),
    ]),
    "lost, and parked in an earlier topic of that name": (1, "confirmed", [
        ("order", "parked_events", "error = 'forged'",
            ("INSERT INTO parked_events "
            "(topic, partition, \"offset\", topic_id, key, value, headers, record_time, root, error, state) "
            "VALUES ('orders', {partition}, {offset}, 'another', 'cust-1', '{value}', '[]', now(), true, 'forged', "
            "'done')")),
        ("order", "orders", BY_ORDER, "DELETE FROM orders WHERE order_id = '{order}'"),
    ]),
    "another order under its key": (5, "key-of-confirmed", [
        ("order", "requests", "true",
            ("UPDATE requests SET event = convert_to(replace(convert_from(event, 'UTF8'), '{order}', '{unknown}'), "
            "'UTF8')")),
    ]),
    "another price under its key": (5, "confirmed", [
        ("order", "requests", "true",
            "UPDATE requests SET event = convert_to(replace(convert_from(event, 'UTF8'), ':200,', ':100,'), 'UTF8')"),
    ]),
    "another customer's key": (5, "key-of-confirmed", [
        ("order", "requests", "true", "UPDATE requests SET customer_id = 'cust-2'"),
    ]),
    "another request's hash": (5, "key-of-confirmed", [
        ("order", "requests", "true", "UPDATE requests SET request_hash = sha256('another')"),
    ]),
    "two keys for one order": (5, "confirmed", [
        ("order", "requests", "true", ("INSERT INTO requests SELECT customer_id, 'again', request_hash, order_id, "
            "event FROM requests")),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_balanced_forgery_is_found_and_named(
    shop: Stack, example: dict[str, str], light: LightProof, forgery: str
) -> None:
    """Forgeries by a superuser that leave each table consistent by itself."""
    statement, subject, plantings = FORGERIES[forgery]
    order_id = example["confirmed"]
    [(partition, offset, event)] = shop.query(
        "order",
        """SELECT partition, (timeline -> 0 -> 'offset')::bigint,
             (SELECT encode(event, 'escape') FROM requests WHERE requests.order_id = orders.order_id)
           FROM orders WHERE order_id = %s::uuid""",
        (order_id,),
    )
    names = {"order": order_id, "unknown": UNKNOWN, "partition": partition, "offset": offset, "value": event}
    named = example.get(subject, subject.format(**names))
    with ExitStack() as stack:
        for planting in plantings:
            database, table, where, change = (part.format(**names) for part in planting)
            stack.enter_context(planted(shop, database, table, where, change))
        proof, shown = Proof.here(shop), light.rounds()
    assert proof.exit_code == 1, proof.summary()
    assert named in proof.named(statement), proof.summary()
    assert_light(shown, forgery, statement)


def test_an_order_at_work_cannot_be_made_younger_than_the_log_says(shop: Stack) -> None:
    shop["payment-1"].stop()
    try:
        order_id = shop.place("cust-7", ("sku-a", 1))
        where = f"order_id = '{order_id}'"
        eventually(lambda: shop.query("order", f"SELECT FROM orders WHERE {where}"), "the saga has it")
        change = f"UPDATE orders SET placed_at = placed_at + interval '1 second' WHERE {where}"
        with planted(shop, "order", "orders", where, change):
            proof = Proof.here(shop)
    finally:
        shop["payment-1"].start()
    shop.await_settled(order_id)
    assert proof.exit_code == 1, proof.summary()
    assert order_id in proof.named(6), proof.summary()


def test_the_light_proof_is_red_for_as_long_as_a_corruption_lasts(
    shop: Stack, example: dict[str, str], light: LightProof
) -> None:
    where = f"order_id = '{example['confirmed']}'"
    with planted(shop, "payment", "payments", where, f"DELETE FROM payments WHERE {where}"):
        assert light.rounds(1)["verdict"] == "violated", "the sums are wrong at once"
        assert [each["violations"] for each in light.rounds(1)["statements"]] == [1, 1, 0, 0, 1, 0]
    assert light.rounds(1)["verdict"] == "proved"


def test_all_is_proved_again_once_every_corruption_is_undone(shop: Stack, light: LightProof) -> None:
    proof, shown = Proof.run(shop), light.rounds()
    assert proof.exit_code == 0, proof.summary()
    assert shown["verdict"] == "proved", shown


def test_an_accepted_order_that_the_log_does_not_have_is_a_violation(shop: Stack, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted"
    accepted.write_text(f"{UNKNOWN}\n")
    proof = Proof.run(shop, "--accepted", str(accepted), "--settle-within", "0.5")
    assert proof.exit_code == 1
    assert UNKNOWN in proof.named(1)


def test_a_database_out_of_reach_is_unproven(shop: Stack) -> None:
    url = shop.variables["PAYMENT_AUDITOR_URL"]
    shop.variables["PAYMENT_AUDITOR_URL"] = url.replace(f":{shop.postgres_port}/", ":9/")
    try:
        proof = Proof.run(shop)
    finally:
        shop.variables["PAYMENT_AUDITOR_URL"] = url
    assert proof.exit_code == 2
    assert "the payment database cannot be reached" in proof.summary()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("topic_id = 'another'", "payment has read another topic"),
        ("next_offset = next_offset + 1000", "and payment has read up to 1"),
    ],
)
def test_positions_of_another_topic_or_past_its_end_are_unproven(
    shop: Stack, light: LightProof, change: str, problem: str
) -> None:
    shop["payment-1"].stop()
    try:
        with planted(shop, "payment", "positions", "true", f"UPDATE positions SET {change} WHERE topic = 'orders'"):
            proof = Proof.run(shop)
            order_id = shop.place("cust-4", ("sku-a", 1))
            eventually(lambda: shop.order(order_id)["inventory"] == "reserved", "the others have decided it")
            shown = light.rounds()
    finally:
        shop["payment-1"].start()
    shop.await_settled(order_id)
    assert proof.exit_code == 2, proof.summary()
    assert problem in proof.summary()
    assert shown["verdict"] == "unproven"
    assert problem in shown["statements"][0]["reasons"][0]
    assert light.rounds(1)["verdict"] == "proved"


@contextmanager
def watching(stack: Stack) -> Iterator[Callable[[], dict[str, float]]]:
    """`--watch` on a port of its own; yields a function that reads its metrics."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "ops.verify", "--watch", "0.1", "--patience", PATIENCE_S, "--port", str(port)]
    with (stack.directory / "watch.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=stack.tool_environment(), stderr=log, stdout=log)

    def metrics() -> dict[str, float]:
        try:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        except httpx.HTTPError:
            return {}
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("tandem_"))
        return {re.sub("^tandem_proof_", "", name): float(value) for name, value in samples}

    try:
        yield metrics
    finally:
        process.kill()
        process.wait()


def test_the_watch_shows_a_violation_for_as_long_as_it_lasts(shop: Stack, example: dict[str, str]) -> None:
    with watching(shop) as metrics:

        def violations(statement: int) -> float:
            return metrics().get(f'violations{{statement="{statement}"}}', -1.0)

        proved = eventually(lambda: m if (m := metrics()).get('checked{statement="1"}') else None, "a first proof")
        assert [proved[f'violations{{statement="{s}"}}'] for s in range(1, 7)] == [0.0] * 6
        assert proved["age_seconds"] < 60
        change = "UPDATE accounts SET balance = balance + 1 WHERE customer_id = 'cust-1'"
        with planted(shop, "payment", "accounts", "customer_id = 'cust-1'", change):
            eventually(lambda: violations(2) > 0, "the violation is shown")
            assert violations(1) == 0
            aged = metrics()["age_seconds"]
            eventually(lambda: metrics()["age_seconds"] > aged + 1, "the last proof gets old")
        eventually(lambda: violations(2) == 0, "the violation is no longer shown")
        eventually(lambda: metrics()["age_seconds"] < aged, "it was proved again")
        shop["payment-1"].stop()
        try:
            shop.place("cust-4", ("sku-a", 1))
            eventually(lambda: metrics()['unproven{statement="1"}'] > 0, "what payment has not read is unproven")
        finally:
            shop["payment-1"].start()
        eventually(lambda: metrics()['unproven{statement="1"}'] == 0, "it is proved")


# A forgery in the log cannot be undone, so these tests come last


def forge(stack: Stack, topic: str, order_id: str, value: bytes) -> None:
    """Produce a record next to the order's own."""
    [(partition, customer_id)] = stack.query(
        "order", "SELECT partition, customer_id FROM orders WHERE order_id = %s::uuid", (order_id,)
    )
    producer = Producer(client_config(stack.brokers, "forger"))
    producer.produce(topic, value, customer_id.encode(), partition)
    assert producer.flush(10) == 0


def test_a_second_decision_in_the_log_is_a_violation(shop: Stack, example: dict[str, str]) -> None:
    order_id = example["confirmed"]
    data = PaymentData(
        order_id=OrderId(order_id), customer_id=CustomerId("cust-1"), amount=2 * PRICE, currency="EUR",
        reason="insufficient_funds",
    )  # fmt: skip
    forge(shop, "payments", order_id, encode(make(PaymentDeclined, data, at=now(), traceparent="")))
    proof = Proof.run(shop)
    assert proof.exit_code == 1
    assert order_id in proof.named(5), proof.summary()
    assert "payment.declined" in proof.named(5)


def test_a_rejection_of_a_confirmed_order_in_the_log_is_a_violation(shop: Stack) -> None:
    order_id = shop.place("cust-3", ("sku-a", 1))
    shop.await_settled(order_id)
    data = OutcomeData(order_id=OrderId(order_id), customer_id=CustomerId("cust-3"), reason="out_of_stock")
    forge(shop, "orders", order_id, encode(make(OrderRejected, data, at=now(), traceparent="")))
    proof = Proof.run(shop, "--patience", "10")
    assert proof.exit_code == 1
    assert order_id in proof.named(5), proof.summary()


def test_an_outcome_without_an_order_is_a_violation(shop: Stack, example: dict[str, str]) -> None:
    order_id = new_order_id()
    data = OutcomeData(order_id=order_id, customer_id=CustomerId("cust-1"), reason="customer")
    forge(shop, "orders", example["confirmed"], encode(make(OrderCancelled, data, at=now(), traceparent="")))
    proof = Proof.run(shop, "--patience", "10")
    assert proof.exit_code == 1
    assert order_id in proof.named(1), proof.summary()


def test_poison_is_listed_and_its_silent_removal_is_a_violation(shop: Stack, example: dict[str, str]) -> None:
    order_id = shop.place("cust-5", ("sku-a", 1))
    shop.await_settled(order_id)
    forge(shop, "payments", order_id, b"not an event")
    eventually(lambda: shop.query("order", "SELECT FROM parked_events"), "it is parked")
    listed = Proof.run(shop)
    assert [row["error"] for row in listed.report["parked"]], listed.summary()
    assert "list it as parked" not in listed.named(6)
    with planted(shop, "order", "parked_events", "true", "DELETE FROM parked_events"):
        proof = Proof.run(shop)
    assert "order-saga does not list it as parked" in proof.named(6), proof.summary()


@pytest.fixture(scope="module")
def trimmed(shop: Stack, example: dict[str, str]) -> Stack:
    """The shop with its log trimmed, except for one order."""
    shop.run_tool("ops.topics", "trim")
    shop.await_settled(shop.place("cust-6", ("sku-a", 1)))
    return shop


def test_under_a_trimmed_log_the_rows_are_witnesses(trimmed: Stack) -> None:
    proof = Proof.run(trimmed, "--patience", "10")
    assert proof.exit_code == 0, proof.summary()
    assert "partitions are trimmed" in orjson.dumps(proof.report["notes"]).decode()


@pytest.mark.parametrize(
    ("timeline", "problem"),
    [
        ("timeline", "name the same record of"),
        ('\'[{{"event": "order.placed", "at": 0, "partition": 0, "offset": 1000000}}]\'::jsonb', "names no record"),
    ],
)
def test_an_order_forged_under_a_trimmed_log_has_no_record_in_it(
    trimmed: Stack, example: dict[str, str], timeline: str, problem: str
) -> None:
    """The rows of an order that never was, which balance in every table."""
    names = {"order": example["confirmed"], "unknown": UNKNOWN, "timeline": timeline.format()}
    forged = [
        ("order", "orders", ("order_id, customer_id, partition, status, payment, inventory, amount, currency, items, "
            "placed_at, decided_at, settled_at, traceparent"), ", timeline", ", {timeline}"),
        ("payment", "payments", "order_id, customer_id, state, amount, currency, decided_at", "", ""),
        ("payment", "ledger", "order_id, customer_id, kind, amount, currency, recorded_at", "", ""),
        ("inventory", "reservations", "order_id, customer_id, state, items, decided_at", "", ""),
        ("inventory", "movements", "order_id, product_id, kind, quantity, recorded_at", "", ""),
    ]  # fmt: skip
    books = [
        ("payment", "accounts", "customer_id = 'cust-1'",
            ("UPDATE accounts SET balance = balance - (SELECT amount FROM payments WHERE order_id = '{order}') "
            "WHERE customer_id = 'cust-1'")),
        ("inventory", "products", "product_id = 'sku-a'",
            "UPDATE products SET on_hand = on_hand - 2 WHERE product_id = 'sku-a'"),
    ]  # fmt: skip
    with ExitStack() as stack:
        for database, table, columns, added, values in forged:
            copied = columns.removeprefix("order_id, ")
            change = f"INSERT INTO {table} ({columns}{added}) SELECT '{{unknown}}', {copied}{values} FROM {table} "
            change += "WHERE order_id = '{order}'"
            where = f"order_id = '{UNKNOWN}'"
            stack.enter_context(planted(trimmed, database, table, where, change.format(**names)))
        for database, table, where, change in books:
            stack.enter_context(planted(trimmed, database, table, where, change.format(**names)))
        proof = Proof.here(trimmed)
    assert proof.exit_code == 1, proof.summary()
    offenders = orjson.dumps(proof.report["offenders"]).decode()
    assert UNKNOWN in offenders, proof.summary()
    assert problem in offenders, proof.summary()
