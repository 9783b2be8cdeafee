"""No order waits for ever, and a saga that was away does not cancel orders that were decided meanwhile."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer

from common.config.env import Env
from common.config.kafka import Brokers
from common.errors import Transient
from common.events import PAYMENTS, CustomerId, Milliseconds, OrderId, PlacedData, now
from common.kafka.clients import client_config, producer_config
from common.kafka.identity import AdminClient
from common.kafka.produce.batch import Outgoing
from common.kafka.publisher import Publisher
from common.postgres import Conn, connect, lead
from order import config
from order.saga import deadlines, store
from order.saga.deadlines import DeadlineTimer
from order.saga.decide import Order
from tests.audit import assert_consistent, await_rest
from tests.stack import Stack
from tests.waiting import eventually

DEADLINE_S = 3


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Iterator[Stack]:
    own_stack.variables["ORDER_SETTLE_DEADLINE_S"] = str(DEADLINE_S)
    own_stack.launch_all()
    own_stack.product("sku-a", price=100, pieces=1_000)
    own_stack.account("ann", 10_000)
    own_stack.await_settled(own_stack.await_orderable("sku-a"))  # or a killed payment leaves its piece reserved
    yield own_stack
    assert_consistent(own_stack)


class Recorder(Publisher):
    """Notes the orders it is to publish, and publishes nothing."""

    def __init__(self, brokers: Brokers) -> None:
        super().__init__(brokers, "test")
        self.named: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def publish(self, records: Iterable[Outgoing]) -> None:
        self.meanwhile()
        self.named = [json.loads(record.value)["subject"] for record in records]


class Sweeper:
    """A timer in this process, which sweeps when told to. It leads, so the saga must be away."""

    def __init__(self, shop: Stack, connection: Conn) -> None:
        process = config.saga(Env("test", shop.variables)).process
        self._connection = connection
        self._admin = AdminClient(client_config(process.brokers, "test"))
        self.recorder = Recorder(process.brokers)
        self._timer = DeadlineTimer(process, DEADLINE_S * 1_000)
        eventually(lambda: lead(connection, deadlines.ROLE), "this timer leads")
        connection.commit()

    def sweep(self) -> tuple[bool, list[str]]:
        """Sweep once. Returns whether it reached the end, and the orders it named."""
        self.recorder.named = []
        at_the_end = self._timer.sweep(self._connection, self._admin, self.recorder)
        return at_the_end, self.recorder.named

    def sweep_to_the_end(self) -> list[str]:
        """Sweep until the end. Returns the orders it named, in turn, each once."""
        named: dict[str, None] = {}
        for _ in range(100):
            at_the_end, slice_named = self.sweep()
            named |= dict.fromkeys(slice_named)
            if at_the_end:
                return list(named)
        raise AssertionError(f"no end after 100 slices, {len(named)} orders named")


@contextmanager
def sweeper(shop: Stack) -> Iterator[Sweeper]:
    with connect(shop.variables["ORDER_DATABASE_URL"], "test") as connection:
        yield Sweeper(shop, connection)


def overdue_named_by_a_sweep(shop: Stack) -> int:
    """The number of orders that a sweep names now."""
    with sweeper(shop) as timer:
        return len(timer.sweep()[1])


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


def test_a_saga_that_was_away_past_the_deadline_confirms_orders_decided_meanwhile(shop: Stack) -> None:
    for side in ("payment-1", "inventory-1"):
        shop[side].kill()
    ids = [shop.place("ann", ("sku-a", 1)) for _ in range(20)]
    counted = "SELECT count(*) FROM {} WHERE order_id = ANY(%s::uuid[])"

    def await_count(service: str, table: str) -> None:
        query = counted.format(table)
        eventually(lambda: shop.query(service, query, (ids,)) == [(20,)], f"{service} knows all orders")

    await_count("order", "orders")
    placed = time.monotonic()
    shop["order-saga-1"].kill()
    for side in ("payment-1", "inventory-1"):
        shop[side].launch()
    await_count("payment", "payments")
    await_count("inventory", "reservations")
    eventually(lambda: time.monotonic() - placed > 1.5 * DEADLINE_S, "the deadline has passed")
    assert overdue_named_by_a_sweep(shop) == 0, "the results are unread: no deadline may pass"
    shop["order-saga-1"].launch()
    assert [shop.await_settled(order_id)["status"] for order_id in ids] == ["confirmed"] * 20


def pending_row(number: int, placed_at: int, partition: int = 0) -> store.Row:
    order = Order(
        order_id=OrderId(f"00000000-0000-7000-8000-{number:012}"),
        customer_id=CustomerId("ann"),
        traceparent="",
        status="pending",
        placed_at=Milliseconds(placed_at),
    )
    placed = PlacedData(order_id=order.order_id, customer_id="ann", items=(), amount=1, currency="EUR")
    return store.Row(order, partition, stored=False, placed=placed)


@pytest.fixture
def rows(shop: Stack) -> Iterator[Callable[..., list[str]]]:
    """Inserts rows into the order database while the saga is away, and returns their ids."""
    with connect(shop.variables["ORDER_DATABASE_URL"], "rows") as connection:

        def insert(*rows: store.Row) -> list[str]:
            store.insert_orders(connection, rows)
            connection.commit()
            return [row.order.order_id for row in rows]

        shop["order-saga-1"].stop()
        yield insert
        connection.execute("DELETE FROM orders WHERE order_id::text LIKE '00000000-%%'")
        connection.commit()
    shop["order-saga-1"].launch()


BEGAN_AGO_MS = 1_000 * DEADLINE_S


def test_the_walk_covers_every_order_slice_by_slice_and_also_a_late_one(
    shop: Stack, rows: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SLICE_ORDERS", 3)
    monkeypatch.setattr(deadlines, "READ_WITHIN_S", -1.0)  # no saga reads here
    due_ms = now() - BEGAN_AGO_MS
    # Many placed in the same millisecond, and some that are not due.
    at_ms = [due_ms - 60_000] * 5 + [due_ms - 50_000 + number for number in range(8)]
    due = rows(*(pending_row(number, placed_at) for number, placed_at in enumerate(at_ms)))
    rows(pending_row(50, due_ms + 1_000_000), pending_row(51, due_ms + 1_000_000))
    with sweeper(shop) as timer:
        assert not timer.sweep()[0], "there are several slices"
        assert timer.sweep_to_the_end() == due
        assert sorted(timer.sweep()[1]) == due, "orders that stay pending are named again"
        [late] = rows(pending_row(99, due_ms - 70_000))
        eventually(lambda: late in timer.sweep()[1], "the second walk finds it")


def broker_away() -> None:
    raise Transient("the broker is away")


def test_a_slice_whose_events_did_not_reach_the_log_is_walked_again(
    shop: Stack, rows: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SLICE_ORDERS", 3)
    monkeypatch.setattr(deadlines, "READ_WITHIN_S", -1.0)
    hour_ago_ms = now() - 3_600_000  # before all orders of other tests, however slow the machine
    due = rows(*(pending_row(number, hour_ago_ms + number) for number in range(9)))
    with sweeper(shop) as timer:
        timer.sweep()
        timer.recorder.meanwhile = broker_away
        with pytest.raises(Transient):
            timer.sweep()
        timer.recorder.meanwhile = lambda: None
        assert timer.sweep()[1][:5] == due[:5], "the one slice watched, the other named at last"


def test_the_timer_waits_until_the_saga_has_read_its_last_events(shop: Stack, rows: Callable[..., list[str]]) -> None:
    due_ms = now() - BEGAN_AGO_MS
    due = rows(pending_row(1, due_ms - 60_000))
    with sweeper(shop) as timer:
        timer.recorder.meanwhile = lambda: shop.place("ann", ("sku-a", 1))  # instead of publishing
        assert timer.sweep() == (True, due)
        assert timer.sweep() == (False, [])


def test_an_order_is_due_by_the_cutoff_of_its_own_partition(shop: Stack, rows: Callable[..., list[str]]) -> None:
    """This holds for an order that the walk finds and for one that is watched."""
    early, late = Milliseconds(1_000_000), Milliseconds(2_000_000)
    at_ms = early + 1
    behind, watched, read = rows(pending_row(1, at_ms, 0), pending_row(2, at_ms - 500_000, 0), pending_row(3, at_ms, 1))
    with connect(shop.variables["ORDER_DATABASE_URL"], "test") as connection:
        orders = store.pending(connection, early, late, {0: early, 1: late}, [watched])
        assert {order.order_id: order.due for order in orders} == {behind: False, watched: True, read: True}
        orders = store.pending(connection, late, late, {0: Milliseconds(0), 1: late}, [watched])
        assert {order.order_id: order.due for order in orders} == {watched: False}


def test_no_deadline_passes_while_a_result_is_parked(shop: Stack) -> None:
    """The saga's position has passed the result, but only a redrive shows what it says."""
    shop.account("bob", 10_000)
    first = shop.place("bob", ("sku-a", 1))
    assert shop.await_settled(first)["status"] == "confirmed"
    [(number,)] = shop.query("order", "SELECT partition FROM orders WHERE order_id = %s", (first,))
    stranger = Producer(producer_config(shop.brokers, "test", linger_ms=0))
    shop["payment-1"].kill()
    held = shop.place("bob", ("sku-a", 1))
    placed = time.monotonic()
    eventually(lambda: shop.query("order", "SELECT FROM orders WHERE order_id = %s", (held,)) != [], "it is pending")
    stranger.produce(PAYMENTS, b"not an event", "bob", number)
    stranger.flush(30)
    # Check their contents, not their number: payment repeats answers it had not committed before it was killed.
    parked = "SELECT FROM parked_events WHERE topic = %s AND state = 'parked' AND position(%s IN value) > 0"
    eventually(lambda: shop.query("order", parked, (PAYMENTS, b"not an event")) != [], "the saga has parked it")
    shop["payment-1"].launch()
    eventually(lambda: shop.query("order", parked, (PAYMENTS, held.encode())) != [], "the payment is parked behind it")
    eventually(lambda: time.monotonic() - placed > 1.5 * DEADLINE_S, "the deadline has passed")
    assert shop.order(held)["status"] == "pending"
    [(offset,)] = shop.query("order", "SELECT \"offset\" FROM parked_events WHERE key = 'bob' AND root")
    tool, service, why = "ops.dead_letters", ("--service", "order"), ("--why", "a stranger wrote it")
    shop.run_tool(tool, "discard", f"{PAYMENTS}/{number}@{offset}", *service, *why)
    shop.run_tool(tool, "redrive", "--customer", "bob", *service, *why)
    assert shop.await_settled(held)["status"] == "confirmed"
