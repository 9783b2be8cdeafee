"""The faults that change a stack for good, each on a stack of its own. They cannot be undone, so they are judged in
another way: the loss is detected and named where OPERATIONS says so, nothing is skipped, and the steps that OPERATIONS
describes repair it. Each act returns the problem as it was named, and raises `AssertionError` if any of this does not
hold.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final

import httpx
from confluent_kafka.admin import AdminClient

from common.errors import LOSS_HELP
from common.events import ORDERS
from common.kafka.broker import describe
from common.kafka.clients import client_config
from dev.environment import child
from dev.settings import DATABASES, HOST, PORT_SETTINGS, ROOT, Settings, free_ports
from tests.audit import assert_consistent, await_rest
from tests.backup import back_up, restore
from tests.faults.test_loss import read_to_its_end, recreate
from tests.progress import position
from tests.stack import Stack
from tests.truncation import delete_records, move
from tests.waiting import eventually

CUSTOMERS: Final = 30
CONSUMERS: Final = {"payment-1": "payment", "inventory-1": "inventory", "order-saga-1": "order"}
UP_S: Final = 240
SETTLE_S: Final = 60.0


@contextmanager
def _shop(directory: Path) -> Iterator[Stack]:
    """One of each process, and customers who have ordered."""
    directory.mkdir(parents=True)
    stack = Stack(directory)
    try:
        stack.start_infrastructure()
        stack.launch_all()
        stack.product("sku-a", price=100, pieces=10**6)
        for number in range(CUSTOMERS):
            stack.account(f"cust-{number}", 10**6)
        stack.await_orderable("sku-a")
        yield stack
    finally:
        stack.stop()


def _order(stack: Stack) -> list[str]:
    """Place an order for each customer, so in about every partition."""
    return [stack.place(f"cust-{number}", ("sku-a", 1)) for number in range(CUSTOMERS)]


def _settled(stack: Stack, ids: list[str]) -> None:
    assert {stack.await_settled(order_id)["status"] for order_id in ids} == {"confirmed"}


def _verified(stack: Stack, ids: list[str]) -> None:
    ids_file = stack.directory / "accepted.txt"
    ids_file.write_text("\n".join(ids))
    stack.run_tool("ops.verify", "--accepted", str(ids_file))


def truncated(directory: Path) -> str:
    """Records are deleted that payment has not read."""
    with _shop(directory) as shop:
        before = _order(shop)
        _settled(shop, before)
        admin = AdminClient(client_config(shop.brokers, "chaos"))
        where = read_to_its_end(shop, before[0])
        shop["payment-1"].stop()
        position_before = position(shop, "payment", where)
        lost = [shop.place("cust-0", ("sku-a", 1)) for _ in range(3)]
        for database in ("inventory", "order"):
            eventually(lambda d=database: position(shop, d, where) == position_before + 3, f"{database} has read them")  # type: ignore[misc]
        delete_records(admin, where, position_before + 3)
        after = _order(shop)
        shop["payment-1"].launch()
        problem = shop["payment-1"].await_unready(str(where), "3 records were deleted unread")
        assert "loss detected" in shop["payment-1"].log.read_text()
        assert position(shop, "payment", where) == position_before, "nothing was skipped"
        # As docs/OPERATIONS.md says: accept it, then cancel what this side will never answer.
        shop["payment-1"].stop()
        move(shop, "payment", where, position_before + 3)
        shop["payment-1"].launch()
        _settled(shop, after)
        for order_id in lost:
            shop.http.post(shop.url("order-api", f"/orders/{order_id}/cancel")).raise_for_status()
            assert shop.await_settled(order_id)["status"] == "cancelled"
        shop.await_ready()
        _verified(shop, [*before, *lost, *after])
        return _named(problem)


def created_anew(directory: Path) -> str:
    """The topic of orders is deleted and made again."""
    with _shop(directory) as shop:
        _settled(shop, _order(shop))
        await_rest(shop, ())
        recreate(shop, [ORDERS])
        shop.await_orderable("sku-a")  # the api may have seen that the topic was away
        waiting = _order(shop)
        problems = [shop[instance].await_unready(ORDERS, "created anew") for instance in CONSUMERS]
        assert all("loss detected" in shop[instance].log.read_text() for instance in CONSUMERS)
        for instance in CONSUMERS:
            shop[instance].stop()
        admin = AdminClient(client_config(shop.brokers, "chaos"))
        _begin_anew(shop, admin)
        for instance in CONSUMERS:
            shop[instance].launch()
        shop.await_ready()
        _settled(shop, [*waiting, *_order(shop)])
        assert_consistent(shop)
        return _named(problems[0])


def _begin_anew(shop: Stack, admin: AdminClient) -> None:
    """Each service that reads the topic begins at its start, as docs/OPERATIONS.md says."""
    topic_id = describe(admin, [ORDERS])[ORDERS].topic_id
    for database in DATABASES:
        with shop.postgres.connect(database) as owner:
            owner.execute("DELETE FROM parked_events WHERE topic = %s AND state = 'done'", (ORDERS,))
            owner.execute(
                "UPDATE positions SET topic_id = %s, next_offset = 0, record_time = NULL WHERE topic = %s",
                (topic_id, ORDERS),
            )
    # A consumer may commit what it has passed of the old topic when the new one is there already.
    eventually(lambda: shop.tool("ops.topics", "rewind", ORDERS).returncode == 0, "the groups are rewound")


def restored(directory: Path) -> str:
    """Payment's database comes back from a backup, with orders decided since."""
    with _shop(directory) as shop:
        before = _order(shop)
        _settled(shop, before)
        await_rest(shop, ())
        back_up(shop, "payment")
        shop.await_ready()
        since = _order(shop)
        _settled(shop, since)
        await_rest(shop, ())
        restore(shop, "payment")
        problem = shop["payment-1"].await_unready("lost transactions", "just replay")
        assert "loss detected" in shop["payment-1"].log.read_text()
        meanwhile = _order(shop)
        shop.run_tool("ops.replay", "payment", "--why", "chaos", "--actor", "chaos")
        _settled(shop, meanwhile)
        shop.await_ready()
        _verified(shop, [*before, *since, *meanwhile])
        return _named(problem)


def _named(missing: str) -> str:
    """The problem that /readyz names, without the rest of the document."""
    return missing.split("consumer: ")[-1].split(LOSS_HELP)[0].rstrip("; ")[:60] + "…"


class Native:
    """What `just up` runs, in a folder and on ports of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ports = dict(
            zip([name.upper() for name in PORT_SETTINGS], map(str, free_ports(len(PORT_SETTINGS))), strict=True)
        )
        # A block of 500 admin ports begins there.
        ports["ADMIN_PORT_BASE"] = str(12_000 + os.getpid() % 7 * 1_000)
        self.environment = child() | {**ports, "TANDEM_HOME": str(home), "STACK": "native"}
        self.api = f"http://{HOST}:{ports['ORDER_API_PORT']}/api/v1/orders"
        home.mkdir(parents=True)
        (home / "cache").symlink_to(Settings.from_environment().cache)

    def just(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dev", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=UP_S,
        )
        assert done.returncode == 0, f"just {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    @cached_property
    def headers(self) -> dict[str, str]:
        """Those of a merchant."""
        return {"authorization": f"Bearer {self.just('ops', 'people.token', 'merchant', 'chaos').strip()}"}

    @property
    def supervisor(self) -> int:
        return int((self.home / "supervisor/supervisord.pid").read_text())

    def order(self) -> list[str]:
        """An order of each customer. Each is confirmed when this returns."""
        ids = []
        for number in range(CUSTOMERS):
            body = {"customer_id": f"cust-{number:06d}", "product_id": "sku-0001", "quantity": 1}
            answer = httpx.post(self.api, json=body, headers=self.headers)
            assert answer.status_code == 202, answer.text
            ids.append(str(answer.json()["order_id"]))
        for order_id in ids:
            url = f"{self.api}/{order_id}"
            eventually(lambda u=url: httpx.get(u, headers=self.headers).json()["settled"], "settled", SETTLE_S)  # type: ignore[misc]
        return ids


def supervisor_killed(directory: Path) -> str:
    """The supervisor of a native stack is killed. Its children go on as orphans until `just up` ends them."""
    native = Native(directory)
    try:
        native.just("up")
        ids = native.order()
        os.kill(native.supervisor, signal.SIGKILL)
        ids += native.order()
        printed = native.just("up")
        assert "that an earlier run left" in printed, printed
        ids += native.order()
        ids_file = directory / "accepted.txt"
        ids_file.write_text("\n".join(ids))
        native.just("ops", "verify", "--accepted", str(ids_file))
        return next(line for line in printed.splitlines() if "left" in line)
    finally:
        native.just("down")


ACTS: Final[dict[str, Callable[[Path], str]]] = {
    "log-truncated": truncated,
    "topic-created-anew": created_anew,
    "database-restored": restored,
    "kill-supervisor": supervisor_killed,
}
TARGETS: Final = {
    "log-truncated": "orders",
    "topic-created-anew": "orders",
    "database-restored": "payment",
    "kill-supervisor": "supervisord",
}
