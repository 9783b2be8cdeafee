from collections.abc import Sequence
from math import inf

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.codec import encode
from common.consume.records import Arrival, Record, arrival
from common.events import (
    INVENTORY,
    ORDERS,
    PAYMENTS,
    Event,
    Item,
    Milliseconds,
    OrderCancelRequested,
    OrderPlaced,
    OutcomeData,
    PaymentCompleted,
    PaymentData,
    PaymentDeclined,
    PlacedData,
    StockData,
    StockReserved,
    make,
    rfc3339,
)
from common.kafka.broker import Partition
from order.saga.hold import (
    BUSY_MAX_S,
    HOLD_MAX_S,
    HOLD_MIN_S,
    HOLD_OF_LATENESS,
    SEEN_S,
    TOGETHER,
    UNREAD_MAX_S,
    HeldOrders,
)

NOW_S = 1_000.0
AT = Milliseconds(1)


def name(order: int) -> str:
    return f"01997c00-0000-7000-8000-{order:012d}"


def placed(order: int) -> Event:
    data = PlacedData(order_id=name(order), customer_id="c", items=(Item("p", 1, 1),), amount=1, currency="EUR")
    return make(OrderPlaced, data, at=AT, traceparent="")


def paid(order: int) -> Event:
    return make(PaymentCompleted, PaymentData(order_id=name(order), customer_id="c"), at=AT, traceparent="")


def declined(order: int) -> Event:
    return make(PaymentDeclined, PaymentData(order_id=name(order), customer_id="c"), at=AT, traceparent="")


def reserved(order: int) -> Event:
    return make(StockReserved, StockData(order_id=name(order), customer_id="c"), at=AT, traceparent="")


def cancel(order: int) -> Event:
    return make(OrderCancelRequested, OutcomeData(order_id=name(order), customer_id="c"), at=AT, traceparent="")


def arrived(event: Event | bytes, offset: int, *, number: int = 0, age_s: float = 0.0, topic: str = ORDERS) -> Arrival:
    value = event if isinstance(event, bytes) else encode(event)
    of = topic if isinstance(event, bytes) else event.topic
    return arrival(Record(Partition(of, number), offset, AT, b"c", value), NOW_S - age_s)


def holding(*records: Arrival) -> HeldOrders:
    held = HeldOrders()
    for record in records:
        held.add(record)
    return held


def due(*records: Arrival) -> list[Arrival]:
    return holding(*records).due(NOW_S)


def test_an_order_waits_for_both_of_its_results() -> None:
    order, payment, stock = arrived(placed(1), 0), arrived(paid(1), 0), arrived(reserved(1), 0)
    assert due(order) == []
    assert due(order, payment) == []
    assert due(payment, order, stock) == [order, payment, stock]


def test_results_may_come_one_by_one() -> None:
    order, payment, stock = arrived(placed(1), 0), arrived(paid(1), 0), arrived(reserved(1), 0)
    held = holding()
    for record, expected in ((order, []), (payment, []), (stock, [order, payment, stock])):
        held.add(record)
        assert held.due(NOW_S) == expected
    assert held.held == 0


def given_out_alone() -> HeldOrders:
    """After an order that has waited in vain for any result."""
    held = holding(arrived(placed(1), 0, age_s=HOLD_MAX_S))
    assert len(held.due(NOW_S)) == 1
    return held


def test_the_results_of_an_order_that_was_given_out_alone_wait_for_one_another() -> None:
    held, payment, stock = given_out_alone(), arrived(paid(1), 0), arrived(reserved(1), 0)
    held.add(payment)
    held.add(arrived(paid(1), 1))  # published again
    assert held.due(NOW_S) == []
    held.add(stock)
    assert [r.record.offset for r in held.due(NOW_S)] == [0, 1, 0]
    assert held.held == 0


def test_such_a_result_waits_no_longer_than_an_order_would() -> None:
    held, payment = given_out_alone(), arrived(paid(1), 0, age_s=HOLD_MIN_S)
    held.add(payment)
    assert held.due(NOW_S) == [payment]
    held.add(arrived(reserved(1), 0))
    assert len(held.due(NOW_S)) == 1


def test_such_a_result_does_not_wait_if_it_refuses() -> None:
    held, refusal = given_out_alone(), arrived(declined(1), 0)
    held.add(refusal)
    assert held.due(NOW_S) == [refusal]


def test_a_result_that_was_given_out_with_its_order_is_not_waited_for_again() -> None:
    held = holding(arrived(placed(1), 0, age_s=HOLD_MAX_S), arrived(paid(1), 0))
    assert len(held.due(NOW_S)) == 2
    stock = arrived(reserved(1), 0)
    held.add(stock)
    assert held.due(NOW_S) == [stock]


def test_an_order_does_not_wait_after_one_refusal() -> None:
    order, payment = arrived(placed(1), 0), arrived(declined(1), 0)
    assert due(order, payment) == [order, payment]


def test_nothing_waits_longer_than_the_limit() -> None:
    order, payment = arrived(placed(1), 0, age_s=HOLD_MIN_S), arrived(paid(1), 0)
    assert due(order, payment) == [order, payment]


def test_a_long_batch_counts_little_of_the_time_that_an_order_is_held() -> None:
    """Its results may be unread: the saga was busy."""
    order = arrived(placed(1), 0)
    held = holding(order)
    assert held.due(NOW_S) == []
    assert held.due(NOW_S + HOLD_MIN_S + 1.0) == []
    assert held.due(NOW_S + HOLD_MIN_S + 1.01) == [order]


def test_an_order_is_held_for_a_few_seconds_at_most_whatever_the_saga_does() -> None:
    order = arrived(placed(1), 0)
    held = holding(order)
    assert held.due(NOW_S) == []
    assert held.due(NOW_S + HOLD_MIN_S + BUSY_MAX_S) == [order]


def test_the_time_without_orders_does_not_count_as_a_batch() -> None:
    held = holding(arrived(placed(1), 0, age_s=HOLD_MIN_S))
    assert len(held.due(NOW_S)) == 1
    held.add(arrived(placed(2), 1, age_s=HOLD_MIN_S - 3.0))
    assert len(held.due(NOW_S + 3.0)) == 1


def test_records_behind_a_held_order_are_held_too() -> None:
    first, second = arrived(placed(1), 0), arrived(placed(2), 1)
    wish = arrived(cancel(3), 2)
    results = [arrived(paid(2), 0), arrived(reserved(2), 0)]
    assert due(first, second, wish, *results) == []
    elsewhere = [arrived(placed(4), 0, number=1), arrived(declined(4), 0, number=1)]
    assert due(first, second, *results, *elsewhere) == elsewhere


def test_a_batch_may_end_anywhere_and_parts_few_orders_from_their_results() -> None:
    """Whatever a batch leaves for the next one: an order without its results is written twice."""
    events = [
        (kind(100 * number + n), n, number)
        for kind in (placed, paid, reserved)
        for number in range(2)
        for n in range(70)
    ]
    records = due(*(arrived(event, offset, number=number) for event, offset, number in events))
    assert len(records) == len(events)
    parted: dict[str, int] = {}
    for record in records:
        assert record.received is not None
        subject = record.received.event.subject
        parted[subject] = parted.get(subject, 0) + 1
        if parted[subject] == 3:
            del parted[subject]
        assert len(parted) <= TOGETHER


def test_a_result_of_an_order_taken_in_before_is_due_at_once() -> None:
    payment = arrived(paid(1), 0)
    assert due(payment) == [payment]


def test_poison_does_not_wait() -> None:
    poison = arrived(b"{", 0)
    assert due(poison) == [poison]


EVENTS = st.sampled_from([placed, paid, declined, reserved, cancel, lambda _: b"{"])
TOPICS = st.sampled_from([ORDERS, PAYMENTS, INVENTORY])


@given(
    st.lists(st.tuples(EVENTS, st.integers(1, 4), st.integers(0, 1), st.floats(0, 2 * HOLD_MIN_S), TOPICS), max_size=30)
)
def test_the_oldest_records_of_each_partition_are_due_first_and_none_is_lost(drawn: Sequence[tuple]) -> None:  # type: ignore[type-arg]
    records = [
        arrived(kind(order), offset, number=number, age_s=age_s, topic=topic)
        for offset, (kind, order, number, age_s, topic) in enumerate(drawn)
    ]
    held = holding(*records)
    now, later = held.due(NOW_S), held.due(inf)
    assert held.held == 0
    for partition in {r.record.partition for r in records}:
        whole = [r for r in records if r.record.partition == partition]
        parts = [[r for r in part if r.record.partition == partition] for part in (now, later)]
        assert parts[0] + parts[1] == whole


def test_the_limit_on_held_records_is_shared_evenly_by_all_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("order.saga.hold.HELD_RECORDS_MAX", 4)
    held = HeldOrders()
    for offset in range(4):
        for number in range(2):
            held.add(arrived(placed(10 * offset + number + 1), offset, number=number))
    due = [arrival.record for arrival in held.due(NOW_S)]
    assert [(record.partition.number, record.offset) for record in due] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert held.held == 4
    assert held.due(NOW_S) == []


def late(order: int, by_s: float, *, age_s: float = 0.0) -> Arrival:
    """A payment published `by_s` after its order was placed, which arrived `age_s` ago."""
    record = Record(Partition(PAYMENTS, 1), 0, Milliseconds(AT + int(by_s * 1_000)), b"c", encode(paid(order)))
    return arrival(record, NOW_S - age_s)


def test_orders_are_held_for_twice_as_long_as_results_take() -> None:
    order = arrived(placed(1), 0, age_s=1.0)
    assert due(order, late(2, 0.6)) == [late(2, 0.6)]
    assert holding(late(2, 0.6)).hold_s(NOW_S) == HOLD_OF_LATENESS * 0.6
    assert holding(late(2, 60.0)).hold_s(NOW_S) == HOLD_MAX_S


@pytest.mark.parametrize("time", ["", "yesterday", "0001-01-01T00:00:00", "9999-12-31T23:59:59.999Z"])
def test_a_result_may_bear_any_time(time: str) -> None:
    value = encode(msgspec.structs.replace(paid(2), time=time))
    stranger = arrival(Record(Partition(PAYMENTS, 1), 0, AT, b"c", value), NOW_S)
    assert holding(stranger).hold_s(NOW_S) == HOLD_MIN_S


def test_the_lateness_of_a_result_is_forgotten_when_no_other_comes() -> None:
    held = holding(late(2, 0.6, age_s=SEEN_S))
    assert held.hold_s(NOW_S) == HOLD_MIN_S


def test_records_of_a_lost_partition_are_dropped() -> None:
    order, elsewhere = arrived(placed(1), 0), arrived(placed(2), 0, number=1)
    held = holding(order, arrived(paid(1), 0), elsewhere)
    held.drop({Partition(ORDERS, 0), Partition(PAYMENTS, 0)})
    assert held.held == 1
    assert held.due(inf) == [elsewhere]


def test_results_that_came_before_their_order_are_not_waited_for_again() -> None:
    payment, stock, order = arrived(paid(1), 0), arrived(reserved(1), 0), arrived(placed(1), 0)
    held = holding(payment, stock)
    assert held.due(NOW_S) == [payment, stock]
    held.add(order)
    assert held.due(NOW_S) == [order]


def test_one_result_that_came_before_its_order_counts_when_the_other_comes() -> None:
    payment, stock, order = arrived(paid(1), 0), arrived(reserved(1), 0), arrived(placed(1), 0)
    held = holding(payment)
    assert held.due(NOW_S) == [payment]
    held.add(order)
    assert held.due(NOW_S) == []
    held.add(stock)
    assert held.due(NOW_S) == [order, stock]


def later(event: Event, by_ms: int, offset: int = 0) -> Arrival:
    """An order that the log got later than the others, or a result of such an order."""
    at = Milliseconds(AT + by_ms)
    event = msgspec.structs.replace(event, time=rfc3339(at))
    return arrival(Record(Partition(event.topic, 0), offset, at, b"c", encode(event)), NOW_S)


def test_a_result_waits_for_an_order_that_is_not_read_yet() -> None:
    held = holding(arrived(cancel(9), 0), later(paid(1), 5), later(reserved(1), 5))
    assert len(held.due(NOW_S)) == 1
    held.add(later(cancel(9), 4, 1))
    assert len(held.due(NOW_S)) == 1
    held.add(later(placed(1), 5, 2))
    assert len(held.due(NOW_S)) == 3
    assert held.held == 0


def test_a_result_does_not_wait_when_the_time_of_the_log_goes_back() -> None:
    held = holding(later(placed(1), 5), later(declined(1), 5), arrived(cancel(9), 1))
    assert len(held.due(NOW_S)) == 3
    held.add(later(reserved(1), 5))
    assert len(held.due(NOW_S)) == 1


def test_a_result_does_not_wait_for_an_order_for_ever() -> None:
    held = holding(arrived(cancel(9), 0), later(paid(1), 5))
    held.due(NOW_S)
    assert held.due(NOW_S + 0.999 * UNREAD_MAX_S) == []
    assert len(held.due(NOW_S + UNREAD_MAX_S)) == 1


def test_no_more_results_are_read_while_many_wait_for_orders_that_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("order.saga.hold.HELD_RECORDS_MAX", 12)
    held = holding(arrived(cancel(9), 0), *(later(paid(n), n, n) for n in range(1, 6)))
    held.add(later(reserved(1), 1))
    assert len(held.due(NOW_S)) == 1
    assert held.ahead == {Partition(PAYMENTS, 0)}
    for n in range(1, 4):
        assert held.ahead == {Partition(PAYMENTS, 0)}
        held.add(later(placed(n), n, n))
        held.add(later(reserved(n), n, n))
        held.due(NOW_S)
    assert held.ahead == set()


def test_results_whose_orders_wait_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("order.saga.hold.HELD_RECORDS_MAX", 12)
    orders = [later(placed(n), n, n) for n in range(1, 6)]
    held = holding(*orders, *(later(paid(n), n, n) for n in range(1, 6)))
    assert held.due(NOW_S) == []
    assert held.ahead == set(), "stock decisions may be behind them"


def test_all_room_is_for_the_partitions_that_have_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("order.saga.hold.HELD_RECORDS_MAX", 12)
    elsewhere = [arrived(cancel(8), 0, number=1), arrived(declined(8), 0, number=1)]
    held = holding(arrived(cancel(9), 0), *elsewhere)
    assert len(held.due(NOW_S)) == 3
    for n in range(1, 5):
        held.add(later(paid(n), n, n))
    held.due(NOW_S)
    assert held.ahead == set()
    held.add(later(paid(5), 5, 5))
    held.due(NOW_S)
    assert held.ahead == {Partition(PAYMENTS, 0)}


def test_no_partition_is_lost_and_ahead() -> None:
    held = HeldOrders()
    held.ahead = {Partition(PAYMENTS, 0), Partition(PAYMENTS, 1)}
    held.drop({Partition(PAYMENTS, 0)})
    assert held.ahead == {Partition(PAYMENTS, 1)}
