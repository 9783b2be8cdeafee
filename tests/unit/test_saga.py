from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.events import (
    PAYMENT_EVENTS,
    STOCK_EVENTS,
    AnyOrderEvent,
    CustomerId,
    DeadlineData,
    Milliseconds,
    OnInventory,
    OnOrders,
    OnPayments,
    OrderCancelled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderDeadlinePassed,
    OrderId,
    OrderPlaced,
    OrderRejected,
    Outcome,
    PaymentData,
    PaymentState,
    ProductId,
    Reason,
    StockData,
    StockState,
    make,
    type_of,
)
from inventory import consumer as inventory_consumer
from inventory import decide as inventory_rules
from order.saga.decide import Order, advance, is_settled, outcome_of
from payment import consumer as payment_consumer
from payment import decide as payment_rules
from tests.unit.orders import CUSTOMER, about, cancelled, order_id, placed, rejected


def payment(state: PaymentState, reason: Reason | None = None) -> OnPayments:
    data = PaymentData(order_id=order_id(1), customer_id=CUSTOMER, amount=100, currency="EUR", reason=reason)
    event = make(PAYMENT_EVENTS[state], data, at=Milliseconds(0), traceparent="")
    assert isinstance(event, OnPayments)
    return event


def stock(state: StockState, reason: Reason | None = None) -> OnInventory:
    data = StockData(order_id=order_id(1), customer_id=CUSTOMER, reason=reason)
    event = make(STOCK_EVENTS[state], data, at=Milliseconds(0), traceparent="")
    assert isinstance(event, OnInventory)
    return event


PLACED = placed()
COMPLETED, REFUNDED, PAYMENT_VOID = payment("completed"), payment("refunded", "customer"), payment("void", "customer")
DECLINED = payment("declined", "insufficient_funds")
RESERVED, RELEASED, STOCK_VOID = stock("reserved"), stock("released", "customer"), stock("void", "customer")
SOLD_OUT = stock("rejected", "out_of_stock")
CANCEL, DEADLINE = about(OrderCancelRequested, reason="customer"), about(OrderDeadlinePassed, reason="deadline")
CONFIRMED = about(OrderConfirmed)


class Saga:
    """One order in the saga, and the outcomes published for it. The n-th event comes at time n."""

    def __init__(self) -> None:
        self.current: Order | None = None
        self.published: list[Outcome] = []
        self.advanced = 0

    def advance(self, *events: AnyOrderEvent) -> list[Outcome]:
        """Returns the outcomes that the last of the events led to."""
        outcomes: list[Outcome] = []
        for event in events:
            self.advanced += 1
            self.current, outcomes = advance(self.current, event, Milliseconds(self.advanced))
            self.published += outcomes
        return outcomes

    @property
    def order(self) -> Order:
        assert self.current is not None
        return self.current

    def published_types(self) -> list[str]:
        return [type_of(event) for event in self.published]


@pytest.mark.parametrize("arrival", list(permutations([PLACED, COMPLETED, RESERVED])))
def test_an_order_is_confirmed_when_it_is_paid_and_reserved_and_not_before(arrival: list[AnyOrderEvent]) -> None:
    saga = Saga()
    assert saga.advance(*arrival[:2]) == []
    assert saga.order.status in ("awaiting_placed", "pending")
    saga.advance(arrival[2])
    assert (saga.order.status, saga.order.reason, saga.order.decided_at, saga.order.settled_at) == (
        "confirmed", None, 3, 3,
    )  # fmt: skip
    assert saga.published_types() == ["order.confirmed"]


@pytest.mark.parametrize("refused", [DECLINED, SOLD_OUT])
def test_an_order_is_rejected_as_soon_as_one_side_refuses(refused: OnPayments | OnInventory) -> None:
    saga = Saga()
    [outcome] = saga.advance(PLACED, refused)
    assert isinstance(outcome, OrderRejected)
    assert outcome.data.reason == saga.order.reason == refused.data.reason
    assert saga.order.settled_at is None, "the other side has not answered yet"


@pytest.mark.parametrize(
    ("refused", "late", "undone"), [(DECLINED, RESERVED, RELEASED), (SOLD_OUT, COMPLETED, REFUNDED)]
)
def test_a_result_that_comes_after_the_rejection_is_kept_and_the_order_settles_when_it_is_undone(
    refused: AnyOrderEvent, late: AnyOrderEvent, undone: AnyOrderEvent
) -> None:
    saga = Saga()
    saga.advance(PLACED, refused)
    assert saga.advance(late) == []
    assert (saga.order.payment, saga.order.inventory).count(None) == 0
    assert (saga.order.status, saga.order.settled_at) == ("rejected", None)
    assert saga.advance(undone) == []
    assert (saga.order.status, saga.order.settled_at) == ("rejected", 4)


def test_both_sides_may_refuse() -> None:
    saga = Saga()
    saga.advance(PLACED, SOLD_OUT, DECLINED)
    assert (saga.order.reason, saga.order.settled_at) == ("out_of_stock", 3)
    assert saga.published_types() == ["order.rejected"]


def test_a_settled_order_stays_settled_whatever_a_side_publishes() -> None:
    saga = Saga()
    saga.advance(PLACED, SOLD_OUT, DECLINED, PAYMENT_VOID)
    assert (saga.order.payment, saga.order.settled_at) == ("void", 3)


def test_an_order_that_nobody_placed_yet_is_not_decided() -> None:
    saga = Saga()
    assert saga.advance(DECLINED, SOLD_OUT) == []
    assert saga.order.status == "awaiting_placed"
    [outcome] = saga.advance(PLACED)
    assert isinstance(outcome, OrderRejected)
    assert saga.order.settled_at == 3


@pytest.mark.parametrize(("event", "reason"), [(CANCEL, "customer"), (DEADLINE, "deadline")])
def test_a_pending_order_is_cancelled_by_its_customer_or_the_deadline(event: AnyOrderEvent, reason: str) -> None:
    saga = Saga()
    [outcome] = saga.advance(PLACED, COMPLETED, event)
    assert isinstance(outcome, OrderCancelled)
    assert (saga.order.status, outcome.data.reason, saga.order.settled_at) == ("cancelled", reason, None)
    saga.advance(REFUNDED, STOCK_VOID)
    assert (saga.order.settled_at, saga.published_types()) == (5, ["order.cancelled"])


def test_a_confirmed_order_is_cancelled_by_its_customer_and_opens_again_until_all_is_undone() -> None:
    saga = Saga()
    stages = []
    saga.advance(PLACED, COMPLETED, RESERVED)
    for event in (CANCEL, REFUNDED, RELEASED):
        stages.append((saga.order.status, saga.order.decided_at, saga.order.settled_at))
        saga.advance(event)
    stages.append((saga.order.status, saga.order.decided_at, saga.order.settled_at))
    assert stages == [("confirmed", 3, 3), ("cancelled", 4, None), ("cancelled", 4, None), ("cancelled", 4, 6)]
    assert saga.published_types() == ["order.confirmed", "order.cancelled"]


def test_the_deadline_does_not_touch_a_confirmed_order() -> None:
    saga = Saga()
    saga.advance(PLACED, COMPLETED, RESERVED)
    confirmed = saga.order
    assert saga.advance(DEADLINE) == []
    assert saga.order is confirmed


def test_a_deadline_passes_by_the_clock_of_the_log() -> None:
    """The broker stamps the order and the deadline's passing. A process's own clock does not matter."""
    data = DeadlineData(order_id=order_id(1), customer_id=CUSTOMER, reason="deadline", deadline_ms=500)
    passed = make(OrderDeadlinePassed, data, at=Milliseconds(0), traceparent="")
    order, _ = advance(None, PLACED, Milliseconds(1_000))
    assert advance(order, passed, Milliseconds(1_499)) == (order, [])
    after, [outcome] = advance(order, passed, Milliseconds(1_500))
    assert after is not None
    assert (after.status, outcome.data.reason) == ("cancelled", "deadline")


@pytest.mark.parametrize("late", [CANCEL, DEADLINE, COMPLETED])
def test_a_rejection_under_way_wins(late: AnyOrderEvent) -> None:
    saga = Saga()
    saga.advance(PLACED, SOLD_OUT)
    assert saga.advance(late) == []
    assert (saga.order.status, saga.order.reason) == ("rejected", "out_of_stock")


@pytest.mark.parametrize("event", [CANCEL, DEADLINE, CONFIRMED, rejected(), cancelled()])
def test_events_about_an_order_that_does_not_exist_do_not_create_it(event: AnyOrderEvent) -> None:
    assert advance(None, event, Milliseconds(1)) == (None, [])


@pytest.mark.parametrize(
    ("outcome", "status"), [(CONFIRMED, "confirmed"), (rejected(), "rejected"), (cancelled(), "cancelled")]
)
def test_after_a_restored_backup_the_outcome_in_the_log_counts(outcome: AnyOrderEvent, status: str) -> None:
    saga = Saga()
    assert saga.advance(PLACED, outcome) == []
    assert saga.order.status == status
    assert saga.advance(COMPLETED, SOLD_OUT) == []
    assert saga.order.status == status


def test_the_order_keeps_the_trace_of_its_placing_and_so_does_its_outcome() -> None:
    saga = Saga()
    traced = make(OrderPlaced, PLACED.data, at=Milliseconds(0), traceparent="00-trace-span-01")
    [outcome] = saga.advance(COMPLETED, traced, RESERVED)
    assert outcome.traceparent == "00-trace-span-01"


# Any events, in any sequence, any number of times: those that the services publish and those that they never would.
anything: st.SearchStrategy[list[AnyOrderEvent]] = st.lists(
    st.sampled_from(
        [
            PLACED, COMPLETED, DECLINED, REFUNDED, PAYMENT_VOID, RESERVED, SOLD_OUT, RELEASED, STOCK_VOID,
            CANCEL, DEADLINE, CONFIRMED, rejected(), cancelled(),
        ]
    ),
    max_size=14,
)  # fmt: skip
PROGRESS = {
    None: 0, "completed": 1, "declined": 1, "reserved": 1, "rejected": 1, "refunded": 2, "released": 2, "void": 2,
}  # fmt: skip
NEXT: dict[str, set[str]] = {
    "awaiting_placed": {"pending", "confirmed", "rejected", "cancelled"},
    "pending": {"confirmed", "rejected", "cancelled"},
    "confirmed": {"rejected", "cancelled"},  # rejected: only taken over from the log, after a restore
    "rejected": set(),
    "cancelled": set(),
}


@given(anything)
def test_an_order_only_moves_forward(events: list[AnyOrderEvent]) -> None:
    saga = Saga()
    for event in events:
        before = saga.current
        saga.advance(event)
        if before is None:
            continue
        after = saga.order
        assert after.status == before.status or after.status in NEXT[before.status]
        assert (after.status == "rejected") <= (before.status != "confirmed" or isinstance(event, OrderRejected))
        for was, became in ((before.payment, after.payment), (before.inventory, after.inventory)):
            assert was == became or PROGRESS[became] > PROGRESS[was]


@given(anything)
def test_a_side_stands_where_its_furthest_result_put_it(events: list[AnyOrderEvent]) -> None:
    saga = Saga()
    saga.advance(*events)
    payments = [event.state for event in events if isinstance(event, OnPayments)]
    stocks = [event.state for event in events if isinstance(event, OnInventory)]
    if saga.current is not None:
        assert PROGRESS[saga.current.payment] == max((PROGRESS[state] for state in payments), default=0)
        assert PROGRESS[saga.current.inventory] == max((PROGRESS[state] for state in stocks), default=0)
    else:
        assert payments == stocks == []


@given(anything)
def test_an_outcome_is_published_once_when_it_is_reached(events: list[AnyOrderEvent]) -> None:
    saga = Saga()
    for event in events:
        before = saga.current
        outcomes = saga.advance(event)
        reached = saga.current is not None and saga.current.status != (before.status if before else "awaiting_placed")
        if reached and saga.order.status != "pending" and not isinstance(event, Outcome):
            assert outcomes == outcome_of(saga.order)
            assert [type_of(outcome) for outcome in outcomes] == [f"order.{saga.order.status}"]
        else:
            assert outcomes == []
    assert len({event.id for event in saga.published}) == len(saga.published)


@given(anything)
def test_a_repeated_event_counts_once(events: list[AnyOrderEvent]) -> None:
    saga = Saga()
    for event in events:
        saga.advance(event)
        once = saga.current
        assert saga.advance(event) == []
        assert saga.current is once


@given(anything)
def test_an_order_was_settled_when_it_first_was(events: list[AnyOrderEvent]) -> None:
    saga = Saga()
    for event in events:
        before = saga.current
        saga.advance(event)
        if before is not None and before.settled_at is not None:
            reopened = before.status == "confirmed" and saga.order.status != "confirmed"
            assert reopened or saga.order.settled_at in (before.settled_at, None)


@given(anything)
def test_a_row_says_when_and_why(events: list[AnyOrderEvent]) -> None:
    saga = Saga()
    for event in events:
        saga.advance(event)
        if (order := saga.current) is not None:
            assert (order.status == "awaiting_placed") == (order.placed_at is None)
            assert (order.status in ("awaiting_placed", "pending")) == (order.decided_at is None)
            assert (order.status in ("rejected", "cancelled")) == (order.reason is not None)
            assert is_settled(order) == (order.settled_at is not None)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[AnyOrderEvent], bool, bool]:
    """A placed order and the result of each side, each published up to three times, the topics interleaved at random;
    and whether the order can be paid and reserved."""
    paid, reserved = draw(st.booleans()), draw(st.booleans())
    times = st.integers(1, 3)
    events = [PLACED] * draw(times)
    events_of_payment = [COMPLETED if paid else DECLINED] * draw(times)
    events_of_stock = [RESERVED if reserved else SOLD_OUT] * draw(times)
    return draw(st.permutations([*events, *events_of_payment, *events_of_stock])), paid, reserved


@given(arrivals())
def test_the_outcome_does_not_depend_on_which_topic_was_read_first(
    arrival: tuple[list[AnyOrderEvent], bool, bool],
) -> None:
    events, paid, reserved = arrival
    saga = Saga()
    saga.advance(*events)
    assert saga.order.status == ("confirmed" if paid and reserved else "rejected")
    assert saga.order.payment == ("completed" if paid else "declined")
    assert saga.order.inventory == ("reserved" if reserved else "rejected")
    assert len(saga.published) == 1


class Shop:
    """The three services and their topics, each read at its own pace. Two orders compete for money and pieces."""

    def __init__(self, balance: int, pieces: int) -> None:
        self.accounts = {CustomerId(CUSTOMER): payment_rules.Account(balance, "EUR")}
        self.products = {ProductId("tea"): inventory_rules.Product(pieces, active=True)}
        self.payments: dict[OrderId, payment_rules.Payment] = {}
        self.reservations: dict[OrderId, inventory_rules.Reservation] = {}
        self.orders: dict[OrderId, Order] = {}
        self.log: dict[str, list[AnyOrderEvent]] = {"orders": [placed(1), placed(2)], "payments": [], "inventory": []}
        self.read = {
            ("payment", "orders"): 0,
            ("inventory", "orders"): 0,
            ("saga", "orders"): 0,
            ("saga", "payments"): 0,
            ("saga", "inventory"): 0,
        }

    def step(self, reader: str, topic: str) -> bool:
        """Let a service process the next event of a topic. Returns whether there was one."""
        offset = self.read[reader, topic]
        if offset == len(self.log[topic]):
            return False
        self.read[reader, topic] += 1
        event, at = self.log[topic][offset], Milliseconds(offset)
        if reader == "saga":
            self.saga_takes(event, at)
        elif isinstance(event, payment_rules.Relevant):
            if reader == "payment":
                paid = payment_rules.decide(self.accounts, self.payments, [(event, at)])
                self.payments |= paid.payments
                self.accounts |= {c: payment_rules.Account(balance, "EUR") for c, balance in paid.balances.items()}
            else:
                had = inventory_rules.decide(self.products, self.reservations, [(event, at)])
                self.reservations |= had.reservations
                self.products |= {p: inventory_rules.Product(left, active=True) for p, left in had.on_hand.items()}
            self.answer(reader, event)
        return True

    def saga_takes(self, event: AnyOrderEvent, at: Milliseconds) -> None:
        number = OrderId(event.subject)
        order, outcomes = advance(self.orders.get(number), event, at)
        if order is not None:
            self.orders[number] = order
        self.log["orders"] += outcomes

    def answer(self, reader: str, event: OnOrders) -> None:
        number = OrderId(event.subject)
        if reader == "payment":
            answer = payment_consumer.answer(self.payments[number], "")
            assert isinstance(answer, OnPayments)
            self.log["payments"].append(answer)
        else:
            had = inventory_consumer.answer(self.reservations[number], "")
            assert isinstance(had, OnInventory)
            self.log["inventory"].append(had)

    def repeat(self, reader: str, topic: str) -> None:
        """A crash after the commit and before the offsets: the last record is a repeat, and is answered again."""
        offset = self.read[reader, topic] - 1
        if offset < 0:
            return
        event = self.log[topic][offset]
        if reader != "saga":
            if isinstance(event, payment_rules.Relevant):
                self.answer(reader, event)
        elif (order := self.orders.get(OrderId(event.subject))) is not None:
            self.log["orders"] += outcome_of(order)

    def drain(self) -> None:
        """Read until no service has anything left to read: they must not answer each other for ever."""
        for _ in range(200):
            took_in = [self.step(reader, topic) for reader, topic in self.read]
            if not any(took_in):
                return
        raise AssertionError("the services publish for ever")


READINGS = sorted(Shop(0, 0).read)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.sampled_from(READINGS)),
        st.tuples(st.just("read"), st.sampled_from(READINGS)),
        st.tuples(st.just("repeat"), st.sampled_from(READINGS)),
        st.tuples(st.sampled_from(["cancel", "deadline"]), st.sampled_from([1, 2])),
    ),
    max_size=40,
)


@given(st.sampled_from([0, 100, 200]), st.integers(0, 2), steps)
def test_every_order_settles_and_money_and_stock_agree_with_its_outcome(
    balance: int, pieces: int, schedule: list[tuple[str, tuple[str, str] | int]]
) -> None:
    shop = Shop(balance, pieces)
    for action, subject in schedule:
        match action, subject:
            case "read", (str(reader), str(topic)):
                shop.step(reader, topic)
            case "repeat", (str(reader), str(topic)):
                shop.repeat(reader, topic)
            case "cancel", int(number):
                shop.log["orders"].append(about(OrderCancelRequested, number, "customer"))
            case "deadline", int(number):
                shop.log["orders"].append(about(OrderDeadlinePassed, number, "deadline"))
    shop.drain()

    confirmed = 0
    for order in shop.orders.values():
        assert is_settled(order), order
        assert order.payment == shop.payments[order.order_id].state
        assert order.inventory == shop.reservations[order.order_id].state
        confirmed += order.status == "confirmed"
    assert shop.orders.keys() == {order_id(1), order_id(2)}
    assert shop.accounts[CustomerId(CUSTOMER)].balance == balance - 100 * confirmed
    assert shop.products[ProductId("tea")].on_hand == pieces - confirmed
