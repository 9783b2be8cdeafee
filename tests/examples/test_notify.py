"""A service beside Tandem and a plain consumer write a mail for each outcome, once, and neither changes an order."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from confluent_kafka import Message, Producer

from common.codec import encode
from common.consume.records import Received
from common.events import (
    OUTCOMES,
    QUANTITY_MAX,
    Milliseconds,
    OrderCancelled,
    OrderConfirmed,
    OutcomeData,
    make,
)
from common.kafka.broker import Partition
from common.kafka.clients import producer_config
from common.pipeline import Answer
from common.secrets.passwords import write_password
from dev.environment import child
from dev.settings import ROOT, Service, environment, free_ports
from examples import notify_plain
from examples.notify.consumer import NotifyHandler
from ops.log import Log
from tests.integration.conftest import draw
from tests.stack import Instance, Stack
from tests.unit.orders import order_id
from tests.waiting import eventually

NOTIFY: Final = Service("notify", ("examples.notify",), "notify", "", 0, "", lambda _: None)
AT: Final = Milliseconds(1_700_000_000_000)


def received(kind: Any, number: int, offset: int) -> Received:
    data = OutcomeData(order_id=order_id(number), customer_id="cust-1")
    return Received(Partition(OUTCOMES, 0), offset, AT, make(kind, data, at=AT, traceparent=""))


def test_an_outcome_that_is_published_twice_is_one_mail() -> None:
    confirmed, again = received(OrderConfirmed, 1, 10), received(OrderConfirmed, 1, 11)
    cancelled, written = received(OrderCancelled, 1, 12), received(OrderConfirmed, 2, 13)
    rows = Answer()
    rows.receive([(written.event.id,)])
    batch = NotifyHandler().decide(rows, [confirmed, again, cancelled, written], [])
    assert [record.event.id for record in batch.outcomes.values()] == [confirmed.event.id, cancelled.event.id]
    assert list(batch.results()) == []


class Notify:
    """The service on the shared stack, with a database of its own there."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self._stack = stack
        write_password(stack.secrets, "notify", "x")
        self._variables = environment(
            kafka_servers="-",
            postgres_port=stack.postgres_port,
            folder=stack.secrets,
            databases=["notify"],
        ) | dict(stack.variables)
        [port] = free_ports(1)
        self.tool("ops.migrate", "notify=examples.notify")
        self.instance = Instance(directory, NOTIFY, 1, port, self._variables)
        self.instance.launch()
        self.instance.await_ready()

    def tool(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=child(self._variables), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def mails(self, customer_id: str) -> list[Any]:
        with psycopg.connect(self._variables["NOTIFY_AUDITOR_URL"]) as auditor:
            query = "SELECT order_id::text, kind, reason FROM mails WHERE customer_id = %s ORDER BY decided_at"
            return auditor.execute(query, (customer_id,)).fetchall()


@pytest.fixture(scope="module")
def notify(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notify]:
    notify = Notify(stack, tmp_path_factory.mktemp("notify"))
    yield notify
    notify.instance.stop()


def publish_again(stack: Stack, event_id: str) -> None:
    """Publish an outcome once more, as the saga does after a crash."""
    log = Log(stack.brokers, "test")
    [record] = [m for m in log.read(log.bounds([OUTCOMES])) if f'"id":"{event_id}"'.encode() in (m.value() or b"")]
    producer = producer_of(stack)
    producer.produce(OUTCOMES, record.value(), record.key(), record.partition() or 0)
    producer.flush()


def producer_of(stack: Stack) -> Producer:
    return Producer(producer_config(stack.brokers, "test", linger_ms=0))


def until(query: Callable[[str], list[Any]], customer_id: str, count: int) -> list[Any]:
    return eventually(
        lambda: mails if len(mails := query(customer_id)) >= count else None,
        f"{customer_id} has {count} mails",
        last_words=lambda: query(customer_id),
    )


def test_each_outcome_becomes_a_mail(stack: Stack, notify: Notify, customer: str, product: str) -> None:
    confirmed = stack.place(customer, (product, 1))
    rejected = stack.place(customer, (product, QUANTITY_MAX))
    assert set(until(notify.mails, customer, 2)) == {
        (confirmed, "confirmed", None),
        (rejected, "rejected", "insufficient_funds"),
    }
    stack.http.post(stack.url("order-api", f"/orders/{confirmed}/cancel")).raise_for_status()
    assert (confirmed, "cancelled", "customer") in until(notify.mails, customer, 3)


def test_a_mail_is_written_once_although_the_service_is_killed_and_an_outcome_comes_again(
    stack: Stack, notify: Notify, customer: str, product: str
) -> None:
    orders = [stack.place(customer, (product, 1)) for _ in range(20)]
    until(notify.mails, customer, 1)
    notify.instance.kill()
    stack.await_settled(orders[-1])
    publish_again(stack, f"{orders[0]}:order.confirmed:{OrderConfirmed.rank}")
    last = stack.place(customer, (product, 1))
    notify.instance.launch()
    eventually(lambda: last in [mail[0] for mail in notify.mails(customer)], "the last mail is written")
    assert sorted(mail[0] for mail in notify.mails(customer)) == sorted([*orders, last])


def test_what_it_cannot_read_is_parked_and_listed(stack: Stack, notify: Notify) -> None:
    customer = draw("cust")
    producer = producer_of(stack)
    producer.produce(OUTCOMES, b"not an event", customer.encode())
    producer.flush()

    def parked() -> list[str]:
        return [line for line in notify.tool("ops.dead_letters", "list").splitlines() if customer in line]

    [line] = eventually(parked, "the record is parked")
    notify.tool("ops.dead_letters", "discard", line.split()[0], "--service", "notify", "--why", "written by a test")
    eventually(lambda: not parked(), "it is discarded")


def test_the_plain_consumer_does_the_same(stack: Stack, customer: str, product: str, tmp_path: Path) -> None:
    path = tmp_path / "mails.db"
    servers, group = stack.brokers.servers, draw("plain")
    program = [
        sys.executable, str(Path(notify_plain.__file__)), servers, str(path), group
    ]  # fmt: skip

    def mails(customer_id: str) -> list[Any]:
        with sqlite3.connect(path) as database:
            query = "SELECT order_id, kind FROM mails WHERE customer_id = ? ORDER BY rowid"
            return database.execute(query, (customer_id,)).fetchall()

    def has_table() -> bool:
        with sqlite3.connect(path) as database:
            return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'mails'").fetchone() is not None

    first = stack.place(customer, (product, 1))
    reader = subprocess.Popen(program, cwd=ROOT, env=child())
    try:
        eventually(has_table, "it runs")
        assert until(mails, customer, 1) == [(first, "order.confirmed")]
        reader.kill()
        reader.wait()
        second = stack.place(customer, (product, 1))
        stack.await_settled(second)
        reader = subprocess.Popen(program, cwd=ROOT, env=child())
        assert until(mails, customer, 2) == [(first, "order.confirmed"), (second, "order.confirmed")]
        refused = stack.tool("ops.topics", "forget", group)
        assert (refused.returncode, "is it stopped?" in refused.stderr) == (2, True), refused.stderr
    finally:
        reader.terminate()
        assert reader.wait() == 0
    assert "is forgotten" in stack.run_tool("ops.topics", "forget", group)
    assert stack.tool("ops.topics", "forget", "payment").returncode == 2


class _Message:
    """As much of a record as `store` reads."""

    def __init__(self, value: bytes | None) -> None:
        self._value = value

    def value(self) -> bytes | None:
        return self._value

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 7


def test_the_plain_consumer_sets_aside_what_it_cannot_read_and_ignores_what_it_does_not_know() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(notify_plain.SCHEMA)
    good = encode(received(OrderConfirmed, 1, 0).event)
    records: list[Any] = [
        _Message(value)
        for value in (
            b"not JSON",
            None,
            b"17",
            b'{"type":"order.confirmed","id":[1],"data":{}}',
            b'{"type":"order.new"}',
        )
    ]
    messages: list[Message] = [*records, *([_Message(good)] * 2)]  # type: ignore[list-item]
    notify_plain.store(database, messages)
    assert database.execute("SELECT count(*) FROM unreadable").fetchone() == (4,)
    assert database.execute("SELECT order_id FROM mails").fetchall() == [(order_id(1),)]
    database.close()
