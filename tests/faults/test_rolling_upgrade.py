"""An older revision is upgraded under load: the schema first, then one process after the other, each beside the older
one. No request fails twice, no order is lost or decided twice."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.settings import SERVICES
from tests.audit import assert_consistent, await_rest
from tests.conftest import Premises
from tests.golden import older
from tests.load import Clients, await_settled_from_now
from tests.stack import Stack

CUSTOMERS = 48
"""Enough for orders in every partition."""
ROLLED = ("payment", "inventory", "order-saga", "order-api")


@pytest.fixture(scope="module")
def shop(premises: Premises, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """One of each process, of the older revision, on tables and topics of its making."""
    code, stack = tmp_path_factory.mktemp("older"), premises.let()
    print(f"the older revision is {older.unpack(code)}")
    for tool in (["ops.migrate"], ["ops.topics", "create"]):
        command = [sys.executable, "-m", *tool]
        done = subprocess.run(command, cwd=code, env=stack.tool_environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for service in SERVICES:
        launch_older(stack, code, service.name)
    for name in ("inventory-1", "payment-1"):
        stack[name].await_answer(stack[name].listening, "listens")
    stack.product("sku-a", price=1, pieces=10**7)
    stack.accounts((f"cust-{i}" for i in range(CUSTOMERS)), 10**7)
    stack.await_ready()
    stack.await_orderable("sku-a")
    return stack


def launch_older(stack: Stack, code: Path, name: str) -> None:
    instance = stack.make(next(s for s in SERVICES if s.name == name), 1)
    instance.workplace = code
    stack.instances[instance.name] = instance
    instance.launch()


Request = Callable[[httpx.Client, int], httpx.Response]


class Tally:
    """Sends requests, and each that fails once more, under the same key, after the time that the answer names."""

    def __init__(self, request: Request, stopping: threading.Event) -> None:
        self.sent = 0
        self.repeated: list[str] = []
        self.failed: list[str] = []
        """Those that failed the second time, too."""
        self._request = request
        self._stopping = stopping

    def send(self, client: httpx.Client, number: int) -> None:
        problem, retry_after_s = self._try(client, number)
        if problem:
            self.repeated.append(problem)
            self._stopping.wait(retry_after_s)
            problem, _ = self._try(client, number)
        if problem:
            self.failed.append(problem)
        self.sent = number + 1

    def _try(self, client: httpx.Client, number: int) -> tuple[str, float]:
        """What went wrong, if anything, and when to try again, in seconds."""
        try:
            answer = self._request(client, number)
        except httpx.TransportError as error:
            return f"{number}: {error!r}", 0
        problem = "" if answer.is_success else f"{number}: {answer.status_code} {answer.text}"
        return problem, float(answer.headers.get("retry-after", 0))


class Load(Clients):
    """Orders, lookups, deposits and restocks, each by a client of its own, and the ids of the accepted orders."""

    def __init__(self, stack: Stack) -> None:
        self.accepted: list[str] = []
        self._stack = stack
        requests: Mapping[str, Request] = {
            "orders": self._order,
            "lookups": lambda client, _: client.get(stack.url("order-api", f"/orders/{self.accepted[0]}")),
            "deposits": self._posting("payment", "/accounts/cust-{}/deposits", {"amount": 1, "currency": "EUR"}),
            "restocks": self._posting("inventory", "/products/sku-a/restocks", {"quantity": 1}),
        }
        stopping = threading.Event()
        self.tallies = {name: Tally(request, stopping) for name, request in requests.items()}
        super().__init__(*(tally.send for tally in self.tallies.values()), stopping=stopping)

    def _order(self, client: httpx.Client, n: int) -> httpx.Response:
        body = {"customer_id": f"cust-{n % CUSTOMERS}", "product_id": "sku-a", "quantity": 1}
        answer = client.post(self._stack.url("order-api", "/orders"), json=body, headers={"idempotency-key": f"o-{n}"})
        if answer.is_success:
            self.accepted.append(answer.json()["order_id"])
        return answer

    def _posting(self, service: str, path: str, body: Mapping[str, Any]) -> Request:
        def post(client: httpx.Client, n: int) -> httpx.Response:
            url = self._stack.url(service, path.format(n % CUSTOMERS))
            return client.post(url, json=body, headers={"idempotency-key": f"{service}-{n}"})

        return post

    def flows(self, when: str) -> None:
        await_settled_from_now(self._stack, self.accepted, CUSTOMERS, when)


def test_every_process_is_replaced_and_no_request_fails_twice(shop: Stack) -> None:
    load = Load(shop)
    load.accepted.append(shop.place("cust-0", ("sku-a", 1)))
    with load:
        load.flows("by the older revision")
        shop.run_tool("ops.migrate")
        shop.run_tool("ops.topics", "create")
        load.flows("by the older revision with the newer schema")
        for name in ROLLED:
            shop.launch(name, 2)
        shop.await_ready()  # the api is ready when it listens
        load.flows("by both revisions")
        for name in ROLLED:
            shop[f"{name}-1"].stop()
            load.flows(f"after the older {name} has ended")
    for name, tally in load.tallies.items():
        print(f"{name}: {tally.sent} sent, {len(tally.repeated)} repeated: {tally.repeated[:5]}")
        assert tally.sent > CUSTOMERS
        assert tally.failed == []
    await_rest(shop, load.accepted)
    assert len(set(load.accepted)) == len(load.accepted)
    assert_consistent(shop)
    shop.run_tool("ops.verify")
