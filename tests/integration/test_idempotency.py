"""Idempotency keys on the real log, database and saga: over two processes, restarts, a crash and a price change."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from dev.settings import HOST
from tests.integration.conftest import BALANCE, PRICE, draw
from tests.stack import API, Instance, Stack
from tests.waiting import eventually


@pytest.fixture(scope="module")
def second(stack: Stack) -> Iterator[Instance]:
    """Another api process, reached by its admin port."""
    instance = stack.launch("order-api", 4)
    stack.await_ready(instance.name)
    yield instance
    instance.stop()
    del stack.instances[instance.name]


def post(stack: Stack, instance: Instance, key: str, body: dict[str, Any]) -> httpx.Response:
    url = f"http://{HOST}:{instance.admin_port}{API}/orders"
    return stack.http.post(url, json=body, headers={"idempotency-key": key})


def order_of(customer: str, product: str, quantity: int = 1) -> dict[str, Any]:
    return {"customer_id": customer, "product_id": product, "quantity": quantity}


def owner_of(stack: Stack) -> psycopg.Connection[Any]:
    """A connection to the order database as its owner, who may do what no service may."""
    return psycopg.connect(stack.variables["ORDER_ADMIN_URL"], dbname="order")


def placed_by(stack: Stack, customer: str) -> list[str]:
    return [
        row[0] for row in stack.query("order", "SELECT order_id::text FROM orders WHERE customer_id = %s", (customer,))
    ]


def test_fifty_at_once_over_two_processes_are_one_order_and_one_charge(
    stack: Stack, second: Instance, product: str, customer: str
) -> None:
    processes = (stack["order-api-1"], second)
    body = order_of(customer, product)
    with ThreadPoolExecutor(25) as clients:
        answers = list(clients.map(lambda n: post(stack, processes[n % 2], "fifty", body), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    [order_id] = {answer.json()["order_id"] for answer in answers}
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert stack.await_settled(order_id)["status"] == "confirmed"
    assert post(stack, second, "fifty", body).json()["order_id"] == order_id
    assert placed_by(stack, customer) == [order_id]
    assert stack.balance(customer) == BALANCE - PRICE


def test_many_keys_racing_over_two_processes_are_an_order_each(
    stack: Stack, second: Instance, product: str, customer: str
) -> None:
    keys = [f"race-{n}" for n in range(60)]
    body = order_of(customer, product)
    with ThreadPoolExecutor(40) as clients:
        forth = [clients.submit(post, stack, stack["order-api-1"], key, body) for key in keys]
        back = [clients.submit(post, stack, second, key, body) for key in reversed(keys)]
        first = [answer.result() for answer in forth]
        other = [answer.result() for answer in reversed(back)]
    assert {answer.status_code for answer in first + other} == {202}
    ids = [answer.json()["order_id"] for answer in first]
    assert ids == [answer.json()["order_id"] for answer in other]
    assert len(set(ids)) == len(keys)
    for order_id in ids:
        stack.await_settled(order_id)
    assert stack.balance(customer) == BALANCE - len(keys) * PRICE


def test_keys_are_stored_in_one_order_so_that_two_processes_never_wait_for_each_other(
    stack: Stack, product: str, customer: str
) -> None:
    insert = "INSERT INTO requests VALUES (%s, %s, '', gen_random_uuid(), '')"
    lines = [{**order_of(customer, product), "idempotency_key": key} for key in ("z", "m", "a")]
    content = "\n".join(map(json.dumps, lines))
    url = stack.url("order-api", "/orders/batch")
    with owner_of(stack) as other, owner_of(stack) as third, ThreadPoolExecutor(1) as client:
        other.execute(insert, (customer, "m"))
        headers = {"content-type": "application/x-ndjson"}
        posting = client.submit(stack.http.post, url, content=content, headers=headers)
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
        eventually(lambda: other.execute(waits).fetchone() == (1,), "the batch waits for the key in the middle")
        third.execute("SET lock_timeout = '1s'")
        third.execute(insert, (customer, "z"))  # would wait if the batch had locked its last key already
        third.rollback()
        other.rollback()
        results = [json.loads(line) for line in posting.result().text.splitlines()]
    assert [result["status"] for result in results] == [202] * 3


def test_an_order_named_by_a_keyed_202_is_found_at_once_by_any_process(
    stack: Stack, second: Instance, product: str, customer: str
) -> None:
    for n in range(20):
        for instance in (stack["order-api-1"], second):
            placed = post(stack, instance, f"answer-{n}", order_of(customer, product))
            assert placed.status_code == 202
            for reader in (second, stack["order-api-1"]):
                answer = reader.get(placed.headers["location"])
                assert answer.status_code == 200, answer.text


def test_another_body_under_the_key_is_refused_by_any_process(
    stack: Stack, second: Instance, product: str, customer: str
) -> None:
    assert post(stack, stack["order-api-1"], "other", order_of(customer, product)).status_code == 202
    for instance in (stack["order-api-1"], second):
        answer = post(stack, instance, "other", order_of(customer, product, 2))
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert len(placed_by(stack, customer)) <= 1


def test_an_order_keeps_its_price_and_its_id_over_a_price_change_and_a_restart(stack: Stack, customer: str) -> None:
    product_id = draw("key")
    stack.product(product_id, price=PRICE, pieces=10)
    stack.await_orderable(product_id)
    body = {**order_of(customer, product_id), "expected_amount": PRICE}
    leaving = stack.launch("order-api", 5)
    stack.await_ready(leaving.name)
    first = post(stack, leaving, "price", body)
    assert first.status_code == 202
    leaving.stop()
    stack.product(product_id, price=2 * PRICE)
    unkeyed = {**body, "customer_id": "cust-nobody"}
    eventually(lambda: stack.post(unkeyed).status_code == 409, "the new price is known")
    leaving.launch()
    stack.await_ready(leaving.name)
    again = post(stack, leaving, "price", body)
    leaving.stop()
    del stack.instances[leaving.name]
    assert (again.status_code, again.json()) == (202, first.json())
    assert stack.await_settled(first.json()["order_id"])["amount"] == PRICE
    assert stack.balance(customer) == BALANCE - PRICE


def test_a_process_killed_between_storing_and_publishing_loses_nothing(
    stack: Stack, product: str, customer: str
) -> None:
    body = order_of(customer, product)
    dying = stack.launch("order-api", 6)
    stack.await_ready(dying.name)
    with owner_of(stack) as blocker, ThreadPoolExecutor(1) as client:
        # While the table is locked the process waits for its INSERT. Frozen then, it does not learn that the INSERT
        # succeeded.
        blocker.execute("LOCK TABLE requests IN SHARE MODE")
        unanswered = client.submit(post, stack, dying, "killed", body)
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 'requests'::regclass AND NOT granted"
        eventually(lambda: blocker.execute(waits).fetchone() == (1,), "the request is being stored")
        dying.pause()
        blocker.commit()
        stored = "SELECT order_id::text FROM requests WHERE customer_id = %s"
        [(order_id,)] = eventually(lambda: stack.query("order", stored, (customer,)), "the request is stored")
        dying.kill()
        with pytest.raises(httpx.HTTPError):
            unanswered.result()
    answer = stack.http.get(stack.url("order-api", f"/orders/{order_id}"))
    assert answer.status_code == 404, "it was stored, not published"
    dying.launch()
    stack.await_ready(dying.name)
    again = post(stack, dying, "killed", body)
    assert (again.status_code, again.json()["order_id"]) == (202, order_id)
    assert again.headers["idempotency-replayed"] == "true"
    dying.stop()
    del stack.instances[dying.name]
    assert stack.await_settled(order_id)["status"] == "confirmed"
    assert placed_by(stack, customer) == [order_id]
    assert stack.balance(customer) == BALANCE - PRICE


def test_keys_are_deleted_when_they_are_old_and_not_before(stack: Stack, product: str, customer: str) -> None:
    instance = stack.launch("order-api", 7)
    stack.await_ready(instance.name)
    for key in ("old", "young"):
        assert post(stack, instance, key, order_of(customer, product)).status_code == 202
    instance.stop()
    with owner_of(stack) as owner:
        age = "UPDATE requests SET created_at = now() - %s::interval WHERE (customer_id, idempotency_key) = (%s, %s)"
        owner.execute(age, ("7 days 1 second", customer, "old"))
        owner.execute(age, ("6 days 23 hours 59 minutes", customer, "young"))
    instance.launch()
    left = "SELECT idempotency_key FROM requests WHERE customer_id = %s"
    eventually(lambda: stack.query("order", left, (customer,)) == [("young",)], "the old key is deleted")
    instance.stop()
    del stack.instances[instance.name]
