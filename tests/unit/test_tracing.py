"""Which traces and spans an order has, live and after the fact, and what the SDK makes of them."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from common.codec import encode
from common.config.env import Env
from common.config.telemetry import Tracing, tracing
from common.consume.records import Received
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
    OrderRejected,
    OutcomeData,
    PaymentCompleted,
    PaymentData,
    PaymentDeclined,
    PlacedData,
    StockData,
    StockReserved,
    make,
)
from common.kafka.broker import Partition
from common.kafka.produce.batch import Acknowledged
from common.tracing import export
from common.tracing.ids import Sampling, Trace, own_traceparent, sampling, sent_span_id, trace_of
from common.tracing.live import Tracer
from common.tracing.spans import Span
from ops.trace.spans import spans_of
from ops.trace.story import Found, LogRecord, tell
from order.api.place.ids import new_order_id

ORDER_ID = OrderId("01a20698-5702-759d-bf21-11993ae5d7ab")
DIGITS = ORDER_ID.replace("-", "")
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ANN = CustomerId("ann")
ALL, NONE = sampling(1), Sampling("g")
PAYMENTS_PART = ("payment", "process orders", DIGITS)


def events(traceparent: str) -> list[Event]:
    """An order's way to its confirmation."""
    of: Any = {"order_id": ORDER_ID, "customer_id": ANN}
    placed = PlacedData(**of, items=(Item("apple", 2, 150),), amount=300, currency="EUR")
    at = Milliseconds(1_000)
    return [
        make(OrderPlaced, placed, at=at, traceparent=traceparent),
        make(StockReserved, StockData(**of), at=at, traceparent=traceparent),
        make(PaymentCompleted, PaymentData(**of), at=at, traceparent=traceparent),
        make(OrderConfirmed, OutcomeData(**of), at=at, traceparent=traceparent),
    ]


# Ids


def test_the_share_of_sampled_orders_is_the_one_asked_for_also_within_a_millisecond() -> None:
    sampled = sampling(0.1)
    ids = [new_order_id() for _ in range(20_000)]  # hundreds in each millisecond
    recorded = [sampled.includes(order_id) for order_id in ids]
    assert 1_700 < sum(recorded) < 2_300
    flags = [own_traceparent(order_id, sampled)[-2:] == "01" for order_id in ids]
    assert flags == recorded
    in_a_row = sum(first and second for first, second in pairwise(recorded))
    assert 100 < in_a_row < 320, "two orders in a row are both sampled as often as any two are"


@pytest.mark.parametrize(("share", "threshold"), [(1, "00000000"), (0.5, "80000000"), (1e-15, "ffffffff")])
def test_the_threshold_is_the_rejected_share_of_32_bits(share: float, threshold: str) -> None:
    assert sampling(share).threshold == threshold


def test_an_orders_trace_is_its_id_or_its_callers() -> None:
    assert trace_of(ORDER_ID, own_traceparent(ORDER_ID, None)) == Trace(DIGITS, None)
    assert trace_of(ORDER_ID, CALLER) == Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    for invalid in ("", "00-\0", CALLER.upper(), "00-" + "0" * 32 + CALLER[35:], CALLER + "-x"):
        assert trace_of(ORDER_ID, invalid) == Trace(DIGITS, None)


def test_the_span_that_places_an_order_is_the_one_in_its_traceparent() -> None:
    assert own_traceparent(ORDER_ID, None).split("-")[2] == sent_span_id(f"{ORDER_ID}:order.placed:1")


# Live


class Spans(list[Span]):
    def add(self, span: Span) -> None:
        self.append(span)


def processed(tracer: Tracer, event: Event, result: Event | None, topic: str = "orders") -> None:
    """A batch of one record, and what it leads to."""
    tracer.watched([] if result is None else [(3, result)])
    tracer.published()
    tracer.processed([Received(Partition(topic, 3), 17, Milliseconds(1), event)], 1, {"store": 0.002, "publish": 0.001})


def live(traceparent: str, sampled: Sampling = ALL) -> Spans:
    """The spans of an order's way through all services."""
    spans = Spans()
    placed, reserved, paid, confirmed = events(traceparent)
    if sampled.includes(ORDER_ID):
        delivered = Tracer("order-api", sampled, spans).sending("orders", encode(placed), None)
        assert delivered is not None
        delivered(Acknowledged(3, 17, Milliseconds(1)))
    processed(Tracer("payment", sampled, spans), placed, paid)
    processed(Tracer("inventory", sampled, spans), placed, reserved)
    saga = Tracer("order-saga", sampled, spans)
    processed(saga, reserved, None, "inventory")
    processed(saga, paid, confirmed, "payments")
    return spans


def tree(spans: Iterator[Span] | list[Span], trace_id: str) -> list[str]:
    """The spans of a trace, each with those above it."""
    by_id = {span.span_id: span for span in spans if span.trace_id == trace_id}

    def path(span: Span) -> str:
        above = by_id.get(span.parent_id or "")
        name = f"{span.service}: {span.name}"
        return name if above is None else f"{path(above)} > {name}"

    return sorted(path(span) for span in by_id.values())


PLACED = "order-api: send orders"
PAID = f"{PLACED} > payment: process orders > payment: send payments"
RESERVED = f"{PLACED} > inventory: process orders > inventory: send inventory"
WAY = sorted(
    [
        PLACED, PAID.rpartition(" > ")[0], PAID, RESERVED.rpartition(" > ")[0], RESERVED,
        f"{PAID} > order-saga: process payments", f"{PAID} > order-saga: process payments > order-saga: send outcomes",
    ]
)  # fmt: skip


def test_the_spans_of_all_services_make_one_tree() -> None:
    assert tree(live(own_traceparent(ORDER_ID, ALL)), DIGITS) == WAY


def test_results_that_the_log_did_not_take_have_no_spans() -> None:
    spans = Spans()
    placed, _, paid, _ = events(own_traceparent(ORDER_ID, ALL))
    tracer = Tracer("payment", ALL, spans)
    tracer.watched([(3, paid)])  # and publishing failed
    processed(tracer, placed, None)
    assert spans == []


def test_an_answer_that_is_given_again_has_a_span_of_its_own() -> None:
    spans = Spans()
    traceparent = own_traceparent(ORDER_ID, ALL)
    placed, *_ = events(traceparent)
    of: Any = {"order_id": ORDER_ID, "customer_id": ANN}
    declined = make(PaymentDeclined, PaymentData(**of), at=Milliseconds(1_000), traceparent=traceparent)
    rejected = make(OrderRejected, OutcomeData(**of), at=Milliseconds(1_000), traceparent=traceparent)
    payment = Tracer("payment", ALL, spans)
    processed(payment, placed, declined)
    processed(payment, rejected, declined)
    sent = [span for span in spans if span.kind == "producer"]
    assert sent[0].span_id == sent_span_id(declined.id)
    assert len({span.span_id for span in sent}) == 2


def test_the_result_of_a_redriven_event_has_no_batch() -> None:
    spans = Spans()
    placed, _, paid, _ = events(own_traceparent(ORDER_ID, ALL))
    tracer = Tracer("payment", ALL, spans)
    assert tracer.watched(iter([(3, paid)])) == [(3, paid)]
    tracer.published()
    processed(tracer, placed, None)
    assert [(span.name, span.parent_id) for span in spans] == [("send payments", DIGITS[16:])]


def test_what_a_timer_sends_has_the_span_that_it_has_after_the_fact() -> None:
    traceparent = own_traceparent(ORDER_ID, ALL)
    placed, *_ = events(traceparent)
    data = DeadlineData(order_id=ORDER_ID, customer_id=ANN, reason="deadline")
    passed = make(OrderDeadlinePassed, data, at=Milliseconds(9_000), traceparent=traceparent)
    spans = Spans()
    timer = Tracer("order-saga", ALL, spans)
    timer.watched([(3, passed)])
    timer.published()
    timer.end_without_batch()
    records = [LogRecord("orders", 3, at, at, encode(event)) for at, event in enumerate((placed, passed))]
    after = spans_of(tell(ORDER_ID, Found(records=records)))[-1]
    assert [(span.name, span.span_id, span.parent_id) for span in spans] == [
        (after.name, after.span_id, after.parent_id)
    ]


def test_a_batch_is_linked_to_its_orders() -> None:
    spans = live(own_traceparent(ORDER_ID, ALL))
    batches = [span for span in spans if span.trace_id != DIGITS]
    assert [span.name for span in batches] == ["process orders", "process orders", "process payments"]
    [in_order] = [span for span in spans if (span.service, span.name, span.trace_id) == PAYMENTS_PART]
    assert batches[0].links == ((DIGITS, in_order.span_id),)
    assert batches[0].attributes["messaging.batch.message_count"] == 1


def test_a_callers_trace_is_kept_and_its_span_is_the_parent() -> None:
    [placed] = [span for span in live(CALLER) if span.service == "order-api"]
    assert (placed.trace_id, placed.parent_id) == tuple(CALLER.split("-")[1:3])


def test_orders_that_are_not_sampled_have_no_spans() -> None:
    assert live(own_traceparent(ORDER_ID, NONE), NONE) == []


def test_an_order_without_a_valid_trace_has_one_of_its_own() -> None:
    assert tree(live("", ALL), DIGITS) == WAY


def test_an_order_that_the_log_does_not_take_has_a_span_with_an_error() -> None:
    spans = Spans()
    called: list[Acknowledged | None] = []
    placed = encode(events(own_traceparent(ORDER_ID, ALL))[0])
    delivered = Tracer("order-api", ALL, spans).sending("orders", placed, called.append)
    assert delivered is not None
    delivered(None)
    assert called == [None]
    assert [span.error for span in spans] == ["the log did not take it"]


# After the fact


def test_the_trace_after_the_fact_has_the_ids_of_the_live_one() -> None:
    traceparent = own_traceparent(ORDER_ID, ALL)
    records = [
        LogRecord(event.topic, 3, 17, at, encode(event))
        for at, event in zip((2_000, 2_030, 2_034, 2_040), events(traceparent), strict=True)
    ]
    after = spans_of(tell(ORDER_ID, Found(records=records)))
    assert tree(after, DIGITS) == WAY
    ids = {span.span_id: span.name for span in live(traceparent)}
    assert all(ids[span.span_id] == span.name for span in after)


# The SDK


def test_the_sdk_has_every_part_of_a_span() -> None:
    spans = live(CALLER)
    made = export.readable(spans[0])
    assert made.parent is not None
    assert made.context is not None
    assert f"{made.context.trace_id:032x}-{made.parent.span_id:016x}" in CALLER
    assert made.resource.attributes["service.name"] == "order-api"
    assert (made.kind.name, made.name) == ("PRODUCER", "send orders")
    assert made.attributes is not None
    assert made.attributes["messaging.kafka.offset"] == 17
    linked = export.readable(next(span for span in spans if span.trace_id not in CALLER))
    assert [f"{link.context.trace_id:032x}" in CALLER for link in linked.links] == [True]


# Settings


def test_tracing_is_off_unless_asked_for() -> None:
    assert tracing(Env("payment", {"OTEL_EXPORTER_OTLP_ENDPOINT": "not ours"})) is None
    assert tracing(Env("payment", {"TRACE_SAMPLE": "0"})) is None
    assert tracing(Env("payment", {"TRACE_SAMPLE": "0.01"})) == Tracing(0.01, "http://127.0.0.1:4318")


@pytest.mark.parametrize("share", ["1.1", "-1", "1%", "nan", "1e-2", "2"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(Fatal, match=re.escape(f"payment: TRACE_SAMPLE={share!r} must be a number from 0 to 1")):
        tracing(Env("payment", {"TRACE_SAMPLE": share}))


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(Fatal, match=r"OTEL_EXPORTER_OTLP_ENDPOINT='localhost:4317' must be like http://HOST:PORT"):
        tracing(Env("payment", {"TRACE_SAMPLE": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4317"}))


def test_without_opentelemetry_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(Fatal, match=r"payment: TRACE_SAMPLE=1 needs OpenTelemetry, .*requirements-otel.txt"):
        tracing(Env("payment", {"TRACE_SAMPLE": "1"}))
