"""`python -m tests.examples.chaos [SEED] [MINUTES]`: the examples under chaos. Not in the suite: it takes minutes.

Payment by card runs in payment's place, notify and the plain consumer read along, and the shops' Python client places
baskets. Notify and the plain consumer are killed every few seconds as well. At the end every basket is one order, every
outcome in the log is one mail in both, and the gateway has charged each confirmed order once and holds nothing else.
"""

import itertools
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from common.events import OUTCOMES
from common.secrets.passwords import write_password
from dev.environment import child
from dev.settings import HOST, ROOT, Service, Settings, environment, free_ports
from examples import notify_plain
from examples.gateway.fake import FakeGateway
from examples.shop.shop import Shop
from ops.log import Log
from tests.chaos.arena import BALANCE, Arena
from tests.chaos.run import Run
from tests.chaos.schedule import NAMES, deal
from tests.examples.test_gateway import check_book
from tests.examples.test_notify import NOTIFY
from tests.stack import Instance
from tests.waiting import eventually

KINDS: Final = [name for name in NAMES if name not in ("poison", "two-owners")]
"""Poison is also parked by notify, and nobody redrives it there; two owners needs a handler that it knows."""
FAULTS: Final = ("", "-declines", "-drops", "-fails", "-twice", "-slow")
KILL_EVERY_S: Final = 7.0
ORDERS_PER_S: Final = 40


class Beside(Arena):
    """The arena with payment by card, and with what runs beside Tandem."""

    def __init__(self, directory: Path, gateway: FakeGateway) -> None:
        super().__init__(directory)
        self.gateway = gateway
        self.variables["CARD_GATEWAY_URL"] = f"http://{HOST}:{gateway.server_port}"
        write_password(self.secrets, "notify", "x")
        known = environment(
            kafka_servers="-", postgres_port=self.postgres_port, folder=self.secrets, databases=["notify"]
        )
        self.variables |= {name: value for name, value in known.items() if name.startswith("NOTIFY_")}

    def start_infrastructure(self) -> None:
        super().start_infrastructure()
        self.run_tool("ops.migrate", "notify=examples.notify", "payment=examples.gateway")

    def make(self, service: Service, number: int) -> Instance:
        return super().make(
            replace(service, arguments=("examples.gateway",)) if service.name == "payment" else service, number
        )


class Readers(threading.Thread):
    """Runs notify and the plain consumer, and kills them again and again."""

    def __init__(self, arena: Beside) -> None:
        super().__init__()
        self.stopping = threading.Event()
        self.kills = 0
        self.path = arena.directory / "mails.db"
        [port] = free_ports(1)
        self.notify = Instance(arena.directory, NOTIFY, 1, port, arena.variables)
        servers = arena.brokers.servers
        self._program = [sys.executable, str(Path(notify_plain.__file__)), servers, str(self.path)]
        self._plain: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        while not self.stopping.is_set():
            self.launch()
            self.stopping.wait(KILL_EVERY_S)
            self.kill()
            self.kills += 1

    def launch(self) -> None:
        self.notify.launch()
        self._plain = subprocess.Popen(self._program, cwd=ROOT, env=child(), stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.notify.kill()
        if self._plain is not None:
            self._plain.kill()
            self._plain.wait()

    def mails(self) -> list[str]:
        with sqlite3.connect(self.path, timeout=60) as database:
            return [event_id for (event_id,) in database.execute("SELECT event_id FROM mails")]


class Baskets(threading.Thread):
    """Places baskets by the shops' client, for customers whose cards have every fault."""

    def __init__(self, arena: Beside) -> None:
        super().__init__()
        self.orders: dict[str, str] = {}
        self.stopping = threading.Event()
        self.failure: Exception | None = None
        self._shop = Shop(f"http://{HOST}:{arena.ports['order-api']}", patience_s=300)
        self.customers = [f"shop-{number}{fault}" for number, fault in itertools.product(range(8), FAULTS)]
        for customer_id in self.customers:
            arena.account(customer_id, BALANCE)

    def run(self) -> None:
        try:
            for number, customer_id in enumerate(itertools.cycle(self.customers)):
                if self.stopping.wait(0.1):
                    break
                basket = {"customer_id": customer_id, "product_id": "sku-1", "quantity": 1}
                self.orders[f"basket-{number}"] = self._shop.place(basket, f"basket-{number}")["order_id"]
        except Exception as error:
            self.failure = error


class RunBeside(Run):
    """A run in which baskets are placed too."""

    def __init__(self, arena: Beside, seed: int, baskets: Baskets) -> None:
        super().__init__(arena, seed, ORDERS_PER_S)
        self._baskets = baskets

    def _prove(self) -> None:
        self._baskets.stopping.set()
        self._baskets.join()
        super()._prove()
        self.report.totals.pop("cancelled before their time")  # a slow card has the same reason


def outcomes(arena: Beside) -> set[str]:
    """The ids of all outcomes in the log."""
    log = Log(arena.brokers, "test")
    events = (json.loads(message.value() or b"") for message in log.read(log.bounds([OUTCOMES])))
    return {event["id"] for event in events if event["type"] in notify_plain.KINDS}


def check(arena: Beside, readers: Readers, baskets: Baskets) -> dict[str, int]:
    """Fails unless all that ran beside Tandem agrees with it. Returns what was counted."""
    assert baskets.failure is None, baskets.failure
    query = "SELECT order_id::text FROM orders WHERE customer_id = ANY(%s)"
    placed = sorted(order_id for (order_id,) in arena.query("order", query, (baskets.customers,)))
    assert placed == sorted(baskets.orders.values()), "a basket is no order, or two"
    happened = outcomes(arena)

    def notified() -> list[str]:
        return [event_id for (event_id,) in arena.query("notify", "SELECT event_id FROM mails")]

    eventually(lambda: len(notified()) >= len(happened), "notify has read all", last_words=readers.notify.last_words)
    eventually(lambda: len(readers.mails()) >= len(happened), "the plain consumer has read all")
    assert sorted(notified()) == sorted(readers.mails()) == sorted(happened)
    book, status = arena.gateway.book, dict(arena.query("order", "SELECT order_id::text, status FROM orders"))

    check_book(book, status)
    return {
        "baskets": len(placed),
        "mails": len(happened),
        "cards asked": len(book.payments),
        **Counter(f"cards {payment['state']}" for payment in book.payments.values()),
        "kills of the readers": readers.kills,
    }


def main(seed: int = 7, minutes: float = 4.0) -> int:
    directory = Settings.from_environment().home / "chaos" / f"examples-{seed}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    gateway = FakeGateway()
    threading.Thread(target=gateway.serve_forever, daemon=True).start()
    arena = Beside(directory / "arena", gateway)
    arena.directory.mkdir()
    readers = None
    try:
        arena.start()
        readers, baskets = Readers(arena), Baskets(arena)
        run = RunBeside(arena, seed, baskets)
        for thread in (readers, baskets):
            thread.start()
        try:
            run.play(deal(seed, KINDS), seconds=60 * minutes, orders=0)
        finally:
            for thread in (baskets, readers):
                thread.stopping.set()
            readers.join()
        run.report.show()
        readers.launch()
        print(check(arena, readers, baskets))
        return int(bool(run.report.failures))
    finally:
        if readers is not None:
            readers.kill()
        arena.stop()
        arena.unmount()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("chaos: ended by SIGTERM"))
    sys.exit(main(*map(int, sys.argv[1:])))
