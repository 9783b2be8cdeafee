"""`just trace`: how the story of an order is put together from what is left of it, and told."""

import argparse
from typing import Any, cast

import msgspec
import pytest

from common.codec import encode
from common.errors import Fatal
from common.events import (
    CustomerId,
    DeadlineData,
    Event,
    Item,
    Milliseconds,
    OrderConfirmed,
    OrderDeadlinePassed,
    OrderId,
    OrderPlaced,
    OrderRef,
    OrderRejected,
    OutcomeData,
    PaymentCompleted,
    PaymentData,
    PaymentRefunded,
    PlacedData,
    StockData,
    StockRejected,
    make,
)
from ops.databases import Database
from ops.trace.__main__ import Named, nowhere, order_meant, order_named
from ops.trace.rows import EntryRow, PaymentRow
from ops.trace.show import show, status_of
from ops.trace.spans import spans_of
from ops.trace.story import Found, LogRecord, ParkedEvent, Row, concerns, tell, window

ORDER_ID = OrderId("01a20698-5702-759d-bf21-11993ae5d7ab")
OTHER_ID = OrderId("01a20698-5702-759d-bf21-11993ae5d7ac")
MADE_AT = 0x01A206985702
OF: Any = {"order_id": ORDER_ID, "customer_id": CustomerId("ann")}


def record(kind: type[Event], data: OrderRef, offset: int, at: int) -> LogRecord:
    event = make(kind, data, at=Milliseconds(0), traceparent="")
    return LogRecord(kind.topic, 5, offset, at, encode(event))


PLACED = record(OrderPlaced, PlacedData(**OF, items=(Item("cup", 1, 5),), amount=5, currency="EUR"), 7, 1_000)
REJECTION = [
    PLACED,
    record(StockRejected, StockData(**OF, reason="out_of_stock"), 2, 1_010),
    record(PaymentCompleted, PaymentData(**OF, amount=5, currency="EUR"), 3, 1_012),
    record(OrderRejected, OutcomeData(**OF, reason="out_of_stock"), 8, 1_015),
    record(PaymentRefunded, PaymentData(**OF, amount=5, currency="EUR"), 4, 1_020),
]


def order_row(**changes: object) -> Row:
    return {
        "customer_id": "ann", "partition": 5, "status": "pending", "reason": None, "amount": 5, "currency": "EUR",
        "items": [{"product_id": "cup", "quantity": 1, "unit_price": 5}], "placed_at": 1_000, "decided_at": None,
        "settled_at": None, "traceparent": "",
        "timeline": [{"event": "order.placed", "at": 1_000, "partition": 5, "offset": 7}],
    } | changes  # fmt: skip


def test_each_stage_has_its_record_its_time_and_the_time_since_its_cause() -> None:
    told = tell(ORDER_ID, Found(records=REJECTION))
    assert [(s.event, s.record, s.after_ms, s.took_ms, s.by) for s in told.stages] == [
        ("order.placed", "orders/5@7", 0, None, "order-api"),
        ("inventory.rejected", "inventory/5@2", 10, 10, "inventory"),
        ("payment.completed", "payments/5@3", 12, 12, "payment"),
        ("order.rejected", "orders/5@8", 15, 3, "order-saga"),
        ("payment.refunded", "payments/5@4", 20, 5, "payment"),
    ]


def test_a_record_that_was_trimmed_is_told_from_the_timeline() -> None:
    outcome = {"event": "order.confirmed", "at": 1_012, "partition": 5, "offset": None}
    placed = order_row()["timeline"][0]
    told = tell(ORDER_ID, Found(order=order_row(status="confirmed", timeline=[placed, outcome]), records=[]))
    assert [(s.event, s.record, s.in_log) for s in told.stages] == [
        ("order.placed", "orders/5@7", False),
        ("order.confirmed", "outcomes/5@?", False),
    ]


def test_a_confirmation_of_an_older_version_is_told_once() -> None:
    """It is in `orders`, and a replay has put its offset into the timeline."""
    in_orders = msgspec.structs.replace(record(OrderConfirmed, OutcomeData(**OF), 9, 1_012), topic="orders")
    confirmed = {"event": "order.confirmed", "at": 1_012, "partition": 5, "offset": 9}
    found = Found(order=order_row(status="confirmed", timeline=[confirmed]), records=[in_orders])
    assert [(s.record, s.in_log, s.repeat) for s in tell(ORDER_ID, found).stages] == [("orders/5@9", True, False)]


def test_a_rejection_that_is_in_two_topics_is_told_once() -> None:
    rejected = next(record for record in REJECTION if b'"order.rejected"' in record.value)
    copied = [*REJECTION, msgspec.structs.replace(rejected, topic="outcomes", offset=3)]
    assert tell(ORDER_ID, Found(records=copied)).stages == tell(ORDER_ID, Found(records=REJECTION)).stages


def test_nothing_is_called_gone_when_the_log_could_not_be_read() -> None:
    [placed] = tell(ORDER_ID, Found(order=order_row(), unread={"log": "away"})).stages
    assert placed.in_log is None


def test_a_record_and_its_line_in_the_timeline_are_one_stage() -> None:
    assert len(tell(ORDER_ID, Found(order=order_row(), records=[PLACED])).stages) == 1
    outcome = {"event": "order.rejected", "at": 1_014, "partition": 5, "offset": None}
    decided = order_row(status="rejected", timeline=[*order_row()["timeline"], outcome])
    assert len(tell(ORDER_ID, Found(order=decided, records=REJECTION)).stages) == len(REJECTION)


def test_a_stage_of_the_timeline_names_who_has_not_read_it_when_the_log_was_not_read() -> None:
    positions = {("payment", "orders", 5): 7, ("inventory", "orders", 5): 8, ("order-saga", "orders", 5): 8}
    [placed] = tell(ORDER_ID, Found(order=order_row(), positions=positions)).stages
    assert (placed.in_log, placed.unread_by) == (None, ("payment",))


def test_what_a_deadline_publishes_is_below_the_span_that_placed_the_order() -> None:
    passed = record(OrderDeadlinePassed, DeadlineData(**OF, reason="deadline"), 9, 1_100)
    told = tell(ORDER_ID, Found(records=[PLACED, passed]))
    assert told.stages[1].took_ms is None
    placed, timed = spans_of(told)
    assert (timed.service, timed.parent_id) == ("order-saga", placed.span_id)


def test_an_event_that_was_published_again_is_marked_and_has_one_span() -> None:
    again = LogRecord("orders", 5, 9, 1_050, PLACED.value)
    story = tell(ORDER_ID, Found(records=[PLACED, again]))
    assert [stage.repeat for stage in story.stages] == [False, True]
    assert len(spans_of(story)) == 1


def test_a_stage_names_the_services_that_have_not_read_its_record() -> None:
    positions = {("payment", "orders", 5): 8, ("inventory", "orders", 5): 7, ("order-saga", "orders", 5): 3}
    [placed] = tell(ORDER_ID, Found(records=[PLACED], positions=positions)).stages
    assert set(placed.unread_by) == {"inventory", "order-saga"}


def test_a_record_that_is_no_event_is_a_stage_and_another_orders_is_none() -> None:
    broken = LogRecord("orders", 5, 9, 1_050, f'{{"subject":"{ORDER_ID}"'.encode())
    assert [stage.event for stage in tell(ORDER_ID, Found(records=[broken])).stages] == ["(not an event)"]
    of_another = OutcomeData(order_id=OTHER_ID, customer_id=CustomerId(ORDER_ID))
    assert not concerns(record(OrderRejected, of_another, 1, 1).value, ORDER_ID)
    assert concerns(broken.value, ORDER_ID)


def test_the_log_is_read_from_the_time_of_the_id_until_the_order_is_settled() -> None:
    assert window(ORDER_ID, Found(), 10) == (MADE_AT - 10, None)
    settled = Found(order=order_row(settled_at=1_020))
    assert window(ORDER_ID, settled, 10) == (990, 1_030)
    assert window(ORDER_ID, Found(order=order_row(settled_at=900)), 10) == (990, 1_010), "the last event is later"
    assert window("0" * 14 + "4" + "0" * 21, Found(), 10) == (None, None)


PARKED = ParkedEvent(
    service="payment", group="payment", record="orders/5@7", event="order.placed",
    event_id=f"{ORDER_ID}:order.placed:1", root=False, state="parked", error="behind a parked event", attempts=1,
    record_time=1_000, parked_at=1_005, blocked_by=("orders/5@6",), acts=("redrive by ann: because",),
)  # fmt: skip


def test_a_parked_event_is_a_span_with_an_error() -> None:
    parked = spans_of(tell(ORDER_ID, Found(records=[PLACED], parked=[PARKED])))[-1]
    assert (parked.service, parked.name, parked.error) == (
        "payment",
        "process orders",
        "parked: behind a parked event",
    )
    assert [event.name for event in parked.events] == ["redrive by ann: because"]


def test_the_story_is_printed_with_all_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    payment: PaymentRow = {
        "customer_id": "ann", "state": "refunded", "reason": None, "amount": 5, "currency": "EUR", "balance": 9,
        "decided_at": Milliseconds(1_000), "revoked_at": Milliseconds(1_015),
    }  # fmt: skip
    entry: EntryRow = {
        "entry_id": 9, "kind": "refund", "debit": "merchant", "credit": "customer", "amount": 5, "currency": "EUR",
        "recorded_at": Milliseconds(1_015),
    }  # fmt: skip
    order = order_row(status="rejected", reason="out_of_stock", settled_at=1_020)
    found = Found(
        order=order,
        payment=payment,
        ledger=[entry],
        records=REJECTION,
        parked=[PARKED],
        unread={"inventory": "\033[2J"},
    )
    show(tell(ORDER_ID, found))
    printed = capsys.readouterr().out
    for part in (
        "rejected (out_of_stock), settled after 20 ms", "1 x cup at 5", "payments/5@4", "refunded 5 EUR",
        "9: refund 5 EUR", "reservation unknown",
        "not read    the inventory database: ", "waits for orders/5@6", "redrive by ann: because",
    ):  # fmt: skip
        assert part in printed
    assert "\033" not in printed


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (Found(order=order_row()), "pending, not settled yet"),
        (
            Found(records=[PLACED], unread={"order": "gone"}),
            "its status is unknown: the order database could not be read",
        ),
        (Found(order=order_row(status="awaiting_placed")), "its results are known, and it was not placed yet"),
        (Found(records=[PLACED]), "in the log, and not yet stored by the saga"),
        (Found(parked=[PARKED]), "parked, and not stored by the saga"),
        (
            Found(request={"customer_id": "ann", "idempotency_key": "k"}),
            "stored under its key, and not in the log: its request got no answer, and a repeat places it",
        ),
    ],
)
def test_how_an_order_stands_is_said_in_words(found: Found, status: str) -> None:
    story = tell(ORDER_ID, found)
    assert not story.is_empty
    assert status_of(story) == status


def test_an_order_that_is_nowhere_is_said_to_be() -> None:
    assert tell(ORDER_ID, Found()).is_empty
    assert nowhere(ORDER_ID, {}) == (
        f"trace: order {ORDER_ID} (made at 2026-11-23 04:09:36 UTC, if Tandem made it) is nowhere: not in a database, "
        "not parked, and not in the log"
    )
    assert nowhere(ORDER_ID, {"log": "Kafka does not answer"}).endswith(
        "was not found, and may be where this could not look: the log could not be read: Kafka does not answer"
    )


def test_an_order_is_named_by_its_id_or_by_its_trace() -> None:
    assert order_named(ORDER_ID.upper()) == (ORDER_ID, False)
    assert order_named(ORDER_ID.replace("-", "")) == (ORDER_ID, True)
    with pytest.raises(argparse.ArgumentTypeError, match="'basket-17' is not an order's id, such as 01a20698"):
        order_named("basket-17")


class Orders:
    """A database with so many orders in every trace."""

    def __init__(self, *found: str) -> None:
        self._found = found

    def query(self, _: str, **__: object) -> list[dict[str, str]]:
        return [{"order_id": order_id} for order_id in self._found]


def test_the_order_of_a_trace_that_its_caller_began_is_found() -> None:
    named = Named(OrderId("0af76519-16cd-43dd-8448-eb211c80319c"), is_trace=True)
    assert order_meant(named, cast(Database, Orders(ORDER_ID))) == ORDER_ID
    assert order_meant(named, cast(Database, Orders())) == named.order_id
    assert order_meant(Named(OrderId(ORDER_ID), is_trace=False), cast(Database, Orders("another"))) == ORDER_ID
    with pytest.raises(Fatal, match=r"several orders have this trace.*: one, two$"):
        order_meant(named, cast(Database, Orders("one", "two")))
