"""Answers about orders on the real stack: Prefer: wait, event streams, many orders in one request, parked orders."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from dev.settings import HOST
from tests.integration.conftest import BALANCE, PRICE
from tests.stack import API, Instance, Stack, frozen
from tests.waiting import eventually

NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def second(stack: Stack) -> Iterator[Instance]:
    """Another api process, reached by its admin port."""
    instance = stack.launch("order-api", 8)
    stack.await_ready(instance.name)
    yield instance
    instance.stop()
    del stack.instances[instance.name]


def body(customer_id: str, product_id: str, **fields: Any) -> dict[str, Any]:
    return {"customer_id": customer_id, "product_id": product_id, "quantity": 1, **fields}


def at(instance: Instance, path: str) -> str:
    return f"http://{HOST}:{instance.admin_port}{API}{path}"


def events(response: httpx.Response) -> Iterator[dict[str, str]]:
    """The events of a stream until it ends."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if not line and "event" in fields:
            yield fields
            fields = {}
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value


# Prefer: wait


def test_a_client_that_prefers_to_wait_gets_the_outcome(stack: Stack, product: str, customer: str) -> None:
    url = stack.url("order-api", "/orders")
    for buyer, status in ((customer, "confirmed"), ("cust-nobody", "rejected")):
        answer = stack.http.post(url, json=body(buyer, product), headers={"prefer": "wait=10"})
        assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=10")
        assert answer.json()["status"] == status
        assert answer.headers["location"] == f"{API}/orders/{answer.json()['order_id']}"
        assert stack.order(answer.json()["order_id"])["status"] == status


def test_many_wait_at_once(stack: Stack, product: str, customer: str) -> None:
    url = stack.url("order-api", "/orders")
    headers = {"prefer": "wait=20"}
    with ThreadPoolExecutor(40) as clients:
        answers = list(
            clients.map(lambda _: stack.http.post(url, json=body(customer, product), headers=headers), range(80))
        )
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "confirmed")}
    assert len({answer.json()["order_id"] for answer in answers}) == 80


def test_a_wait_ends_with_202_in_time_and_at_once_when_the_process_drains(
    stack: Stack, product: str, customer: str
) -> None:
    leaving = stack.launch("order-api", 9)
    stack.await_ready(leaving.name)
    with frozen(stack["order-saga-1"]):
        began = time.monotonic()
        short = stack.http.post(
            at(leaving, "/orders"), json=body(customer, product), headers={"prefer": "wait=1", "idempotency-key": "w"}
        )
        assert (short.status_code, short.headers["preference-applied"]) == (202, "wait=1")
        assert time.monotonic() - began >= 1
        placed = threading.Event()

        def wait_long() -> httpx.Response:
            placed.set()
            return stack.http.post(at(leaving, "/orders"), json=body(customer, product), headers={"prefer": "wait=30"})

        with ThreadPoolExecutor() as client:
            waiting = client.submit(wait_long)
            placed.wait()
            counted = 'tandem_http_requests_total{method="POST",route="/api/v1/orders",status="202"} 1.0'
            assert counted in leaving.get("/metrics").text
            eventually(lambda: accepted(leaving) >= 2, "the order is accepted")
            leaving.stop()
            assert waiting.result().status_code == 202
    del stack.instances[leaving.name]
    again = stack.http.post(
        stack.url("order-api", "/orders"),
        json=body(customer, product),
        headers={"prefer": "wait=30", "idempotency-key": "w"},
    )
    assert (again.status_code, again.json()["order_id"]) == (200, short.json()["order_id"])
    assert again.headers["idempotency-replayed"] == "true"


def accepted(instance: Instance) -> int:
    """The number of orders that the log has taken from this process."""
    name = "tandem_order_accept_seconds_count "
    text = instance.get("/metrics").text
    return int(float(next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name)))


# Server-sent events


def test_the_events_of_an_order_are_its_timeline_and_resume_at_any_process(
    stack: Stack, second: Instance, product: str, customer: str
) -> None:
    order_id = stack.place(customer, (product, 1))
    with stack.http.stream("GET", stack.url("order-api", f"/orders/{order_id}/events")) as response:
        assert response.headers["content-type"] == "text/event-stream"
        received = list(events(response))
    order = stack.order(order_id)
    assert [event["event"] for event in received] == [entry["event"] for entry in order["timeline"]] + ["settled"]
    assert [json.loads(event["data"]) for event in received] == [*order["timeline"], order]
    path = f"/orders/{order_id}/events"
    for last, left in ((None, received), (received[1]["id"], received[2:])):
        headers = {} if last is None else {"last-event-id": last}
        with stack.http.stream("GET", at(second, path), headers=headers) as response:
            assert [event["id"] for event in events(response)] == [event["id"] for event in left]
    assert stack.http.get(at(second, path), headers={"last-event-id": received[-1]["id"]}).status_code == 204


def test_events_of_an_unknown_order_are_not_found(stack: Stack) -> None:
    assert stack.http.get(stack.url("order-api", f"/orders/{uuid.uuid4()}/events")).status_code == 404


def test_a_stream_ends_when_its_process_drains_and_goes_on_elsewhere(stack: Stack, product: str, customer: str) -> None:
    leaving = stack.launch("order-api", 10)
    stack.await_ready(leaving.name)
    with frozen(stack["payment-1"]):
        order_id = stack.place(customer, (product, 1))
        here = at(leaving, f"/orders/{order_id}")
        # The saga holds the order back, since its results do not come: until then it may be answered with 503.
        eventually(lambda: stack.http.get(here).status_code == 200, "the order can be read")
        with stack.http.stream("GET", f"{here}/events") as response:
            stream = events(response)
            first = next(stream)
            stopping = threading.Thread(target=leaving.stop)
            stopping.start()
            rest = list(stream)  # raises if the process has to cut it off
            stopping.join()
        del stack.instances[leaving.name]
    seen = [first, *rest]
    assert "settled" not in [event["event"] for event in seen]
    headers = {"last-event-id": seen[-1]["id"]}
    with stack.http.stream("GET", stack.url("order-api", f"/orders/{order_id}/events"), headers=headers) as response:
        seen += events(response)
    order = stack.await_settled(order_id)
    assert [event["event"] for event in seen] == [entry["event"] for entry in order["timeline"]] + ["settled"]


# Many orders in one request


def post_many(stack: Stack, *lines: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    answer = stack.http.post(stack.url("order-api", "/orders/batch"), content=content, headers=NDJSON)
    assert answer.status_code in (200, 422, 503), answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert answer.headers["x-request-id"]
    return [json.loads(line) for line in answer.text.splitlines()]


def await_all_settled(stack: Stack, ids: list[str]) -> None:
    settled = "SELECT count(*) FROM orders WHERE order_id = ANY(%s::uuid[]) AND settled_at IS NOT NULL"
    eventually(lambda: stack.query("order", settled, (ids,)) == [(len(ids),)], "all are settled")


def test_a_thousand_orders_in_one_request_are_accepted_settled_and_charged(
    stack: Stack, product: str, customer: str
) -> None:
    results = post_many(stack, *[body(customer, product)] * 1_000)
    assert [(result["line"], result["status"]) for result in results] == [(n, 202) for n in range(1, 1_001)]
    ids = [result["order_id"] for result in results]
    assert stack.order(ids[-1])["order_id"] == ids[-1]
    await_all_settled(stack, ids)
    assert stack.balance(customer) == BALANCE - 1_000 * PRICE
    offsets = stack.query(
        "order",
        "SELECT order_id::text FROM orders WHERE order_id = ANY(%s::uuid[]) ORDER BY (timeline->0->>'offset')::bigint",
        (ids,),
    )
    assert [row[0] for row in offsets] == ids, "a customer's lines are in the log in their order"


def test_a_bad_line_does_not_affect_the_others(stack: Stack, product: str, customer: str) -> None:
    results = post_many(
        stack, body(customer, product), b"{", body(customer, "no-such"), body(customer, product, idempotency_key="b")
    )
    assert [result["status"] for result in results] == [202, 400, 422, 202]
    assert [fault["pointer"] for fault in results[2]["problem"]["errors"]] == ["#/product_id"]
    for result in (results[0], results[3]):
        assert stack.await_settled(result["order_id"])["status"] == "confirmed"


def test_a_request_with_keyed_lines_can_be_sent_again_as_a_whole(stack: Stack, product: str, customer: str) -> None:
    lines = [body(customer, product, idempotency_key=f"line-{n}") for n in range(300)]
    with ThreadPoolExecutor() as clients:
        answers = list(clients.map(lambda _: post_many(stack, *lines), range(4)))
    ids = [[result["order_id"] for result in results] for results in answers]
    assert ids == [ids[0]] * 4
    assert sum("idempotency_replayed" not in result for results in answers for result in results) == 300
    for order_id in ids[0][-3:]:
        stack.await_settled(order_id)
    eventually(lambda: stack.balance(customer) == BALANCE - 300 * PRICE, "each is charged once")


def test_single_orders_are_accepted_beside_requests_with_many(stack: Stack, product: str) -> None:
    enough = threading.Event()

    def keep_sending() -> list[str]:
        lines = [body(f"cust-nobody-{n}", product) for n in range(1_000)]
        ids = []
        while not enough.is_set():
            ids += [result["order_id"] for result in post_many(stack, *lines) if result["status"] == 202]
        return ids

    def place_one() -> int:
        answer = stack.post(body("cust-nobody", product))
        assert answer.status_code in (202, 503), answer.text
        return answer.status_code

    with ThreadPoolExecutor() as clients:
        sending = [clients.submit(keep_sending) for _ in range(3)]
        try:
            for n in range(15):
                eventually(lambda: place_one() == 202, f"single order {n} is accepted")
        finally:
            enough.set()
    await_all_settled(stack, [order_id for sender in sending for order_id in sender.result()])


# Never 404 for an accepted order


def test_an_order_that_the_saga_has_parked_is_pending_at_any_process(
    stack: Stack, second: Instance, product: str, customer: str
) -> None:
    """Parked before it, another event of the customer keeps the saga from taking the order in."""
    with psycopg.connect(stack.variables["ORDER_ADMIN_URL"], dbname="order", autocommit=True) as owner:
        owner.execute(
            """INSERT INTO parked_events (topic, partition, "offset", topic_id, key, value, headers, record_time, root,
                 error) VALUES ('payments', 0, 1000000000, 'test', %b, 'not an event', '[]', now(), true, 'test')""",
            (customer.encode(),),
        )
        try:
            order_id = stack.place(customer, (product, 1))
            parked = "SELECT count(*) FROM parked_events WHERE topic = 'orders' AND key = %b"
            eventually(lambda: stack.query("order", parked, (customer.encode(),)) == [(1,)], "the order is parked")
            for instance in (second, stack["order-api-1"]):
                answer = instance.get(f"{API}/orders/{order_id}")
                assert (answer.status_code, answer.json()["status"]) == (200, "pending")
            cancel = stack.http.post(at(second, f"/orders/{order_id}/cancel"))
            assert cancel.status_code == 202
            answer = second.get(f"{API}/orders/{order_id}")
            assert (answer.status_code, answer.json()["status"]) == (200, "pending")
        finally:
            owner.execute("DELETE FROM parked_events WHERE topic = 'payments' AND key = %b", (customer.encode(),))

        def settled() -> bool:
            """An event that arrives while others are redriven is parked behind them, and has to be redriven too."""
            redrive = "UPDATE parked_events SET state = 'redrive' WHERE key = %b AND state = 'parked'"
            owner.execute(redrive, (customer.encode(),))
            return bool(stack.order(order_id)["settled"])

        eventually(settled, "the order is settled after all", every_s=0.5)
