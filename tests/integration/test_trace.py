"""The trace of an order: told by `just trace` from what is stored, and sent live by the services."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from common.tracing.ids import processed_span_id, sent_span_id
from dev.settings import HOST
from order.api.place.ids import new_order_id
from tests.integration.conftest import BALANCE, PRICE, draw
from tests.otlp import CONSUMER, PRODUCER, Collector
from tests.stack import STOP_S, Stack
from tests.waiting import eventually

CALLER = f"00-{secrets.token_hex(16)}-b7ad6b7169203331-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def story(stack: Stack, order_id: str, *options: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(stack.run_tool("ops.trace", order_id, "--json", *options))
    return told


def test_the_story_of_a_rejected_order_is_told_and_sent_as_a_trace(
    stack: Stack, customer: str, product: str, collector: Collector
) -> None:
    scarce = draw("sku")
    stack.product(scarce, price=PRICE, pieces=1)
    stack.await_orderable(scarce)
    order_id = stack.place(customer, (product, 1), (scarce, 2))
    stack.await_settled(order_id)

    told = story(stack, order_id, "--otlp", collector.url)
    events = [stage["event"] for stage in told["stages"]]
    # Payment answers both events of the order. If they come in one batch, both answers say how it ended.
    answers = [event for event in events if event.startswith("payment.")]
    assert answers in (["payment.completed", "payment.refunded"], ["payment.refunded", "payment.refunded"])
    others = sorted(event for event in events if event not in answers)
    assert others == ["inventory.rejected", "inventory.rejected", "order.placed", "order.rejected"]
    assert all(stage["in_log"] and stage["offset"] is not None and not stage["unread_by"] for stage in told["stages"])
    assert len({stage["partition"] for stage in told["stages"]}) == 1
    assert [entry["kind"] for entry in told["ledger"]] == ["capture", "refund"]
    assert (told["status"], told["reason"], told["payment"]["state"]) == ("rejected", "out_of_stock", "refunded")
    assert (told["reservation"]["state"], told["movements"], told["parked"], told["unread"]) == ("rejected", [], [], {})

    trace_id = order_id.replace("-", "")
    spans = {span["span_id"]: span for span in collector.spans(trace_id)}
    assert len(spans) == len(collector.spans())
    placed = spans[sent_span_id(f"{order_id}:order.placed:1")]
    assert (placed["service"], placed["name"], placed["parent_id"]) == ("order-api", "send orders", "")
    refund = spans[sent_span_id(f"{order_id}:payment.refunded:7")]
    assert spans[refund["parent_id"]]["name"] == "process orders"
    assert spans[spans[refund["parent_id"]]["parent_id"]]["service"] == "order-saga"

    printed = stack.run_tool("ops.trace", trace_id)
    assert "rejected (out_of_stock), settled after" in printed


def test_a_confirmed_orders_movements_its_key_and_its_callers_trace_are_told(
    stack: Stack, customer: str, product: str
) -> None:
    body = {"customer_id": customer, "product_id": product, "quantity": 2}
    headers = {"idempotency-key": "basket-17", "traceparent": CALLER}
    order_id = stack.http.post(stack.url("order-api", "/orders"), json=body, headers=headers).json()["order_id"]
    stack.await_settled(order_id)
    told = story(stack, order_id)
    assert [(m["kind"], m["quantity"], m["product_id"]) for m in told["movements"]] == [("reserve", 2, product)]
    assert (told["idempotency_key"], told["amount"], told["payment"]["amount"]) == ("basket-17", 2 * PRICE, 2 * PRICE)
    assert told["trace_id"] == CALLER.split("-")[1]
    assert told["caller_span_id"] == CALLER.split("-")[2]
    assert story(stack, told["trace_id"])["order_id"] == order_id


def test_an_event_that_only_the_dead_letters_have_is_told_with_what_it_waits_for(stack: Stack) -> None:
    order_id, key = new_order_id(), draw("cust").encode()
    value = f'{{"subject":"{order_id}"'.encode()
    with stack.postgres.connect("payment") as owner:
        insert = """INSERT INTO parked_events
                      (topic, partition, "offset", topic_id, key, value, record_time, root, error)
                    VALUES ('trace-test', 0, %s, 'now', %s, %s, now(), %s, 'is no event')"""
        owner.execute(insert, (1, key, b"", True))
        owner.execute(insert, (2, key, value, False))
        acted = """INSERT INTO dead_letter_acts (act, topic, partition, "offset", actor, why)
                   VALUES ('redrive', 'trace-test', 0, 2, 'ann', 'mended')"""
        owner.execute(acted)
        try:
            told = story(stack, order_id)
        finally:
            owner.execute("DELETE FROM parked_events WHERE topic = 'trace-test'")
            owner.execute("DELETE FROM dead_letter_acts WHERE topic = 'trace-test'")
    [parked] = told["parked"]
    assert (parked["record"], parked["event"], parked["root"]) == ("trace-test/0@2#now", "(not an event)", False)
    assert (parked["blocked_by"], parked["acts"]) == (["trace-test/0@1"], ["redrive by ann: mended"])


def test_an_order_that_is_nowhere_and_a_collector_that_is_away_are_errors(
    stack: Stack, customer: str, product: str
) -> None:
    unknown = stack.tool("ops.trace", new_order_id())
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "is nowhere: not in a database, not parked, and not in the log" in unknown.stderr
    order_id = stack.place(customer, (product, 1))
    away = stack.tool("ops.trace", order_id, "--otlp", f"http://{HOST}:1")
    assert away.returncode == 2
    assert f"http://{HOST}:1 did not take the spans" in away.stderr


def test_sampled_orders_are_traced_live_through_the_services(stack: Stack, product: str, collector: Collector) -> None:
    """Beside the instances that do not trace run two that do. Some orders are in the partitions of that consumer."""
    settings = {"TRACE_SAMPLE": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    api, payment = stack.launch("order-api", 2, settings), stack.launch("payment", 2, settings)
    try:
        stack.await_ready(api.name, payment.name)
        url = f"http://{HOST}:{api.admin_port}/api/v1/orders"
        payment.await_answer(lambda: "assigned" in payment.log.read_text(), "has partitions")
        placed = []
        for _ in range(12):
            customer = draw("cust")
            stack.account(customer, BALANCE)
            answer = stack.http.post(url, json={"customer_id": customer, "product_id": product, "quantity": 1})
            placed.append(answer.json()["order_id"])
        for order_id in placed:
            stack.await_settled(order_id)
    finally:
        for instance in (api, payment):
            instance.stop(STOP_S)
            del stack.instances[instance.name]

    def sent(order_id: str) -> dict[str, Any]:
        [span] = [s for s in collector.spans(order_id.replace("-", "")) if s["name"] == "send orders"]
        return span

    eventually(lambda: len([s for s in collector.spans() if s["name"] == "send orders"]) == 12, "12 orders are traced")
    assert {(sent(o)["service"], sent(o)["kind"], sent(o)["parent_id"]) for o in placed} == {
        ("order-api", PRODUCER, "")
    }
    paid = [s for s in collector.spans() if s["name"] == "send payments"]
    assert paid
    for result in paid:
        order_id = next(o for o in placed if o.replace("-", "") == result["trace_id"])
        [process] = [s for s in collector.spans(result["trace_id"]) if s["span_id"] == result["parent_id"]]
        assert (process["name"], process["kind"]) == ("process orders", CONSUMER)
        assert process["span_id"] == processed_span_id("payment", f"{order_id}:order.placed:1")
        assert process["parent_id"] == sent(order_id)["span_id"]
        assert any((result["trace_id"], process["span_id"]) in span["links"] for span in collector.spans())
