"""An order does not wait for ever, and a saga that was away does not cancel what was decided while it was."""

import time
from collections.abc import Iterable, Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from common.config import Env
from common.events import PAYMENTS, Milliseconds
from common.kafka import Outgoing, Publisher, client_config, producer_config
from common.postgres import connect
from order import config
from order.deadlines import DeadlineTimer
from tests.audit import assert_consistent, await_rest
from tests.stack import Stack, eventually

DEADLINE_S = 3


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Iterator[Stack]:
    own_stack.variables["ORDER_SETTLE_DEADLINE_S"] = str(DEADLINE_S)
    own_stack.launch_all()
    own_stack.product("sku-a", price=100, pieces=1_000)
    own_stack.account("ann", 10_000)
    own_stack.await_orderable("sku-a")
    yield own_stack
    assert_consistent(own_stack)


def overdue_named_by_a_sweep(shop: Stack) -> int:
    """How many orders the timer names when it sweeps now, in this process, whatever the saga does."""
    process = config.saga(Env("test", shop.variables)).process
    admin = AdminClient(client_config(process.bootstrap_servers, "test"))
    spoken: list[Outgoing] = []

    class Recorder(Publisher):
        def publish(self, records: Iterable[Outgoing]) -> None:
            spoken.extend(records)

    with connect(process.database_url, "test") as connection:
        timer = DeadlineTimer(process, DEADLINE_S * 1_000)
        timer.sweep(connection, admin, Recorder(process.bootstrap_servers, "test"), Milliseconds(0))
    return len(spoken)


def test_an_order_is_cancelled_when_payment_does_not_answer_and_late_money_is_refunded(shop: Stack) -> None:
    pieces, balance = shop.on_hand("sku-a"), shop.balance("ann")
    shop["payment-1"].kill()
    late = shop.place("ann", ("sku-a", 1))
    eventually(lambda: shop.order(late)["status"] == "cancelled", "the deadline cancels the order")
    order = shop.order(late)
    assert (order["reason"], order["settled"]) == ("deadline", False)
    eventually(lambda: shop.on_hand("sku-a") == pieces, "the stock is released")
    shop["payment-1"].launch()
    order = shop.await_settled(late)
    assert (order["status"], order["payment"], order["inventory"]) == ("cancelled", "refunded", "released")
    assert shop.balance("ann") == balance
    await_rest(shop, [late])


def test_a_saga_that_was_away_past_the_deadline_confirms_what_was_decided_meanwhile(shop: Stack) -> None:
    for side in ("payment-1", "inventory-1"):
        shop[side].kill()
    ids = [shop.place("ann", ("sku-a", 1)) for _ in range(20)]
    counted = "SELECT count(*) FROM {} WHERE order_id = ANY(%s::uuid[])"

    def await_count(service: str, table: str) -> None:
        known = counted.format(table)
        eventually(lambda: shop.query(service, known, (ids,)) == [(20,)], f"{service} knows all orders")

    await_count("order", "orders")
    placed = time.monotonic()
    shop["order-saga-1"].kill()
    for side in ("payment-1", "inventory-1"):
        shop[side].launch()
    await_count("payment", "payments")
    await_count("inventory", "reservations")
    eventually(lambda: time.monotonic() - placed > 1.5 * DEADLINE_S, "the deadline has passed")
    assert overdue_named_by_a_sweep(shop) == 0, "the results lie unread: nobody may say that time is up"
    shop["order-saga-1"].launch()
    assert [shop.await_settled(order_id)["status"] for order_id in ids] == ["confirmed"] * 20


def test_nobody_says_that_time_is_up_while_a_result_lies_parked(shop: Stack) -> None:
    """By its position, the saga has read it; whether it was good is known when it is redriven."""
    shop.account("bob", 10_000)
    first = shop.place("bob", ("sku-a", 1))
    assert shop.await_settled(first)["status"] == "confirmed"
    [(number,)] = shop.query("order", "SELECT partition FROM orders WHERE order_id = %s", (first,))
    stranger = Producer(producer_config(shop.variables["KAFKA_BOOTSTRAP_SERVERS"], "test", linger_ms=0))
    shop["payment-1"].kill()
    held = shop.place("bob", ("sku-a", 1))
    placed = time.monotonic()
    eventually(lambda: shop.query("order", "SELECT FROM orders WHERE order_id = %s", (held,)) != [], "it is pending")
    stranger.produce(PAYMENTS, b"not an event", "bob", number)
    stranger.flush(30)
    # By what they hold, not by how many: what payment had not committed before it was killed, it answers again.
    parked = "SELECT FROM parked_events WHERE topic = %s AND state = 'parked' AND position(%s IN value) > 0"
    eventually(lambda: shop.query("order", parked, (PAYMENTS, b"not an event")) != [], "the saga has parked it")
    shop["payment-1"].launch()
    eventually(lambda: shop.query("order", parked, (PAYMENTS, held.encode())) != [], "the payment is parked behind it")
    eventually(lambda: time.monotonic() - placed > 1.5 * DEADLINE_S, "the deadline has passed")
    assert shop.order(held)["status"] == "pending"
    assert overdue_named_by_a_sweep(shop) == 0
    [(offset,)] = shop.query("order", "SELECT \"offset\" FROM parked_events WHERE key = 'bob' AND root")
    what, service, why = "ops.dead_letters", ("--service", "order"), ("--why", "a stranger wrote it")
    shop.run_tool(what, "discard", f"{PAYMENTS}/{number}@{offset}", *service, *why)
    shop.run_tool(what, "redrive", "--customer", "bob", *service, *why)
    assert shop.await_settled(held)["status"] == "confirmed"
