"""A database that is there, and yet cannot do what a request wants: locked rows, and a server that is read-only."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from common.postgres import HTTP_LOCK_TIMEOUT_MS, POOL_TIMEOUT_S
from tests.integration.conftest import draw
from tests.stack import Stack
from tests.waiting import eventually

EURO = {"amount": 5, "currency": "EUR"}
NDJSON = {"content-type": "application/x-ndjson"}


@contextmanager
def locked(stack: Stack, database: str, table: str, column: str, name: str) -> Iterator[Callable[[], int]]:
    """Somebody has locked this row. Yields how many sessions wait for a lock."""
    with stack.postgres.connect(database) as owner, stack.postgres.connect(database) as observer:
        observer.autocommit = True
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        with owner.transaction():
            owner.execute(f"SELECT FROM {table} WHERE {column} = %s FOR UPDATE", (name,))
            yield lambda: int(observer.execute(waiting, (database,)).fetchall()[0][0])


@pytest.mark.parametrize("service", ["payment", "inventory"])
def test_those_who_wait_for_a_locked_row_keep_no_other_waiting(stack: Stack, service: str) -> None:
    mine, yours = draw("lock"), draw("lock")
    if service == "payment":
        stack.account(mine, 100)
        stack.account(yours, 100)
        table, column, path, change, body = "accounts", "customer_id", "/accounts", "deposits", EURO
    else:
        stack.product(mine)
        stack.product(yours)
        # Until it has marked both as published, the relay locks them together.
        behind = "SELECT FROM products WHERE product_id = ANY(%s) AND published_version < version"
        eventually(lambda: not stack.query("inventory", behind, ([mine, yours],)), "both products are published")
        table, column, path, change, body = "products", "product_id", "/products", "restocks", {"quantity": 5}

    def post(name: str) -> httpx.Response:
        return httpx.post(stack.url(service, f"{path}/{name}/{change}"), json=body, timeout=15)

    with ThreadPoolExecutor(8) as clients, locked(stack, service, table, column, mine) as waiting:
        mine_waiting = [clients.submit(post, mine) for _ in range(8)]
        eventually(lambda: waiting() == 1, "one of them waits for the row, and the others for their turn")
        assert post(yours).status_code == 201
        for name in (mine, yours) * 5:
            assert stack.http.get(stack.url(service, f"{path}/{name}")).status_code == 200
            assert waiting() <= 1
        answers = [answer.result() for answer in mine_waiting]
    for answer in answers:
        assert answer.status_code == 503
        assert "busy" in answer.json()["detail"]
        assert "nothing was changed" in answer.json()["detail"]
        assert answer.elapsed.total_seconds() < POOL_TIMEOUT_S + HTTP_LOCK_TIMEOUT_MS / 1000 + 5
    assert post(mine).status_code == 201


@pytest.fixture
def read_only(stack: Stack) -> Iterator[Callable[[str, bool], None]]:
    """Makes a database read-only for new sessions, and ends those that are there: what clients see of a failover."""

    def switch(database: str, on: bool) -> None:
        with stack.postgres.connect() as admin:
            admin.autocommit = True
            admin.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = {"on" if on else "off"}')
            if on:  # when it is off again, nobody ends the sessions that are read-only
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))

    yield switch
    for database in ("payment", "inventory", "order"):
        switch(database, False)


def test_a_read_only_database_answers_every_change_with_503_and_recovers_with_its_cause(
    stack: Stack, read_only: Callable[[str, bool], None]
) -> None:
    customer, product = draw("cust"), draw("sku")
    stack.account(customer, 10**6)
    stack.product(product, pieces=10**5)
    stack.await_orderable(product)
    order: dict[str, Any] = {"customer_id": customer, "product_id": product, "quantity": 1}
    attributes = {"name": "Cup", "unit_price": 100, "currency": "EUR", "active": True}

    def send(method: str, service: str, path: str, **body: Any) -> httpx.Response:
        return stack.http.request(method, stack.url(service, path), **body)

    def keyed(path: str, **body: Any) -> httpx.Response:
        headers = {"idempotency-key": draw("key"), **body.pop("headers", {})}
        return send("POST", "order-api", path, headers=headers, **body)

    changes: dict[str, list[Callable[[], httpx.Response]]] = {
        "payment": [
            lambda: send("POST", "payment", f"/accounts/{customer}/deposits", json=EURO),
            lambda: send("POST", "payment", f"/accounts/{draw('cust')}/deposits", json=EURO),
        ],
        "inventory": [
            lambda: send("POST", "inventory", f"/products/{product}/restocks", json={"quantity": 1}),
            lambda: send("PUT", "inventory", f"/products/{draw('sku')}", json=attributes),
        ],
        "order": [
            lambda: keyed("/orders", json=order),
            lambda: keyed("/orders/batch", headers=NDJSON, content=json.dumps(order)),
        ],
    }

    def refused(change: Callable[[], httpx.Response]) -> str | None:
        answer = change()
        assert answer.is_success or answer.status_code == 503, answer.text
        return answer.text if "read-only" in answer.text else None

    placed = []
    for database, changes_of in changes.items():
        read_only(database, True)
        for change in changes_of:
            answer = eventually(lambda: refused(change), f"the {database} database is read-only")  # noqa: B023
            assert "nothing" in answer
        # The log takes orders meanwhile. The consumers of the database wait for it.
        placed.append(stack.place(customer, (product, 1)))
        assert stack.http.get(stack.url("payment", f"/accounts/{customer}")).status_code == 200
        read_only(database, False)
        for change in changes_of:
            eventually(lambda: change().is_success, "changes are made again")  # noqa: B023
    # Soon no connection from the time before is met by chance, either.
    with ThreadPoolExecutor(8) as clients:
        for change, *_ in changes.values():
            eventually(
                lambda: all(answer.is_success for answer in clients.map(lambda _: change(), range(24))),  # noqa: B023
                "all connections are new",
            )
    # The consumers have new sessions as well, and took none of the orders for one that cannot be processed.
    assert [stack.await_settled(order_id)["status"] for order_id in placed] == ["confirmed"] * len(placed)
    for service in changes:
        assert not stack.query(service, "SELECT FROM parked_events WHERE key = %s", (customer.encode(),))
