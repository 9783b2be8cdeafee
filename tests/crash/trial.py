"""Kills a process of a stack at each crash point, under load, and judges the result each time."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import Producer

from common.events import ORDERS
from common.kafka.clients import producer_config
from dev.settings import ROOT
from tests.audit import assert_consistent, await_rest
from tests.backup import back_up, restore
from tests.clients import PLENTY, Book, Clients, Keyed, ManyOrders, Plain, furnish
from tests.crash.launch import SAID
from tests.crash.points import Point, Scene
from tests.servers import Servers
from tests.stack import Instance, Stack
from tests.waiting import eventually

DEADLINE_S: Final = "2"
BACKLOG: Final = 150
"""Orders that come between a backup and the loss of the database."""
SERVICES: Final = ("payment", "inventory", "order")
"""The services that park events, by the names operators use."""

Arm = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a stack whose process was killed."""

    point: Point
    ready_s: float | None
    """From its restart until the process was ready; None for a tool."""
    recovered_s: float
    """From the kill until every order accepted before the restart was settled. For a tool: its second run."""
    accepted: int
    """The number of orders answered with 202 in this trial."""
    fault: str = ""
    """What was wrong afterwards; empty if nothing."""


class Trials:
    """A stack of their own, the clients' book, and a trial for each point."""

    def __init__(self, directory: Path, servers: Servers | None = None) -> None:
        self.stack = Stack(directory, servers=servers)
        self.book = Book(directory.with_name(f"{directory.name}.accepted"))
        self._open = False
        self.stack.start_servers()

    def run(self, point: Point) -> Outcome:
        """Run a trial. After one with a fault, the stack is not fit for another."""
        before = len(self.book.accepted)
        ready_s, recovered_s, fault = None, 0.0, ""
        try:
            if point.scene == "fresh":
                recovered_s = self._kill_tool(point)
            else:
                self._open_once()
                if point.scene in TOOL_SCENES:
                    with TOOL_SCENES[point.scene](self):
                        recovered_s = self._kill_tool(point)
                else:
                    ready_s, recovered_s = self._kill_service(point)
                self._judge()
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        return Outcome(point, ready_s, recovered_s, len(self.book.accepted) - before, fault)

    def _open_once(self) -> None:
        """Bring the services up, with a catalogue that takes a moment to read."""
        if not self._open:
            for tool in (["ops.migrate"], ["ops.topics", "create"], ["inventory", "load-demo"]):
                self.stack.run_tool(*tool)
            self.stack.launch_all()
            furnish(self.stack)
            self._open = True

    def _kill_tool(self, point: Point) -> float:
        done = subprocess.run(
            [sys.executable, *by(point), "-m", *point.process.split()],
            cwd=ROOT,
            env=self.stack.tool_environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        check_died(point, done.returncode, done.stdout + done.stderr)
        killed_at = time.monotonic()
        self.stack.run_tool(*point.process.split())
        return time.monotonic() - killed_at

    def _kill_service(self, point: Point) -> tuple[float, float]:
        instance = self.stack[f"{point.process}-1"]

        def arm() -> None:
            instance.stop()
            instance.launcher = by(point)
            instance.launch()

        with Clients(self.stack, self.book):
            with SCENES[point.scene](self.stack, instance, arm):
                code = eventually(
                    lambda: exit_code(instance), f"{point.name} is reached", last_words=instance.last_words
                )
                check_died(point, code, instance.log.read_text(errors="replace"))
                killed_at = time.monotonic()
                instance.launcher = ()
                instance.launch()
                accepted = self.book.accepted.copy()
                launched_at = time.monotonic()
                instance.await_ready()
                ready_s = time.monotonic() - launched_at
            eventually(lambda: are_settled(self.stack, accepted), "what was accepted is settled")
            recovered_s = time.monotonic() - killed_at
        return ready_s, recovered_s

    def _judge(self) -> None:
        """Fails unless all promises were kept: to clients, in the databases, and in the log."""
        stack, book = self.stack, self.book
        stack.await_ready()
        book.order_new_products(stack)
        await_rest(stack, book.accepted)
        book.check(stack)
        assert_consistent(stack)
        stack.run_tool("ops.verify", "--accepted", str(book.file))

    def stop(self) -> None:
        self.stack.stop()
        self.book.close()


def by(point: Point) -> tuple[str, ...]:
    """The arguments of Python for a process that dies at the point."""
    return ("-m", "tests.crash.launch", point.name)


def exit_code(instance: Instance) -> int | None:
    """The exit code of the process, if it has ended."""
    assert instance.process is not None
    return instance.process.poll()


def check_died(point: Point, code: int, log: str) -> None:
    """Fails unless the process killed itself at the point."""
    assert code == -signal.SIGKILL, f"it ended by itself with {code}: {log[-2_000:]}"
    assert SAID.format(point.name) in log, "it was killed, but not at its point"


def are_settled(stack: Stack, orders: Collection[str]) -> bool:
    counted = "SELECT count(*) FROM orders WHERE order_id = ANY(%s::uuid[]) AND settled_at IS NOT NULL"
    return stack.query("order", counted, (list(orders),)) == [(len(orders),)]


# How each scene leads a service to its point, and what it mends after the restart


@contextmanager
def load(_: Stack, __: Instance, arm: Arm) -> Iterator[None]:
    arm()
    yield


@contextmanager
def join(stack: Stack, instance: Instance, arm: Arm) -> Iterator[None]:
    arm()
    stack.await_ready(instance.name)
    other = stack.launch(instance.service.name, 2)
    yield
    other.stop()
    del stack.instances[other.name]


@contextmanager
def stop(stack: Stack, instance: Instance, arm: Arm) -> Iterator[None]:
    arm()
    stack.await_ready(instance.name)
    assert instance.process is not None
    instance.process.send_signal(instance.stop_signal)
    yield


@contextmanager
def poison(stack: Stack, instance: Instance, arm: Arm) -> Iterator[None]:
    customer = f"poisoned-{time.monotonic_ns()}"
    arm()
    stack.await_ready(instance.name)
    follower = spoil(stack, customer)
    yield
    discard_root(stack, customer)
    redrive_rest(stack, customer)
    stack.await_settled(follower)


@contextmanager
def redrive(stack: Stack, instance: Instance, arm: Arm) -> Iterator[None]:
    customer = f"poisoned-{time.monotonic_ns()}"
    follower = spoil(stack, customer)
    arm()
    discard_root(stack, customer)
    redrive_rest(stack, customer)
    yield
    stack.await_settled(follower)


@contextmanager
def overdue(stack: Stack, instance: Instance, arm: Arm) -> Iterator[None]:
    stack["payment-1"].stop()
    instance.variables["ORDER_SETTLE_DEADLINE_S"] = DEADLINE_S
    arm()
    yield
    passed = "SELECT FROM orders WHERE status = 'cancelled' AND reason = 'deadline' LIMIT 1"
    eventually(lambda: stack.query("order", passed), "orders are cancelled for their deadline")
    stack["payment-1"].launch()
    del instance.variables["ORDER_SETTLE_DEADLINE_S"]
    instance.stop()
    instance.launch()
    stack.await_ready("payment-1", instance.name)


@contextmanager
def outbox(stack: Stack, instance: Instance, arm: Arm) -> Iterator[None]:
    arm()
    yield
    service = instance.service.name
    eventually(lambda: not stack.query(service, "SELECT FROM outbox"), f"the log has what {service} has entered")


SCENES: Final[Mapping[Scene, Callable[[Stack, Instance, Arm], AbstractContextManager[None]]]] = {
    "load": load,
    "join": join,
    "stop": stop,
    "poison": poison,
    "redrive": redrive,
    "outbox": outbox,
    "overdue": overdue,
}


def spoil(stack: Stack, customer: str) -> str:
    """Write a record that is no event into a customer's partition, then place an order that is parked behind it.
    Returns the order's id."""
    stack.account(customer, 10**6)
    producer = Producer(producer_config(stack.brokers, "crash", linger_ms=0))
    producer.produce(ORDERS, b"no event", customer)
    assert producer.flush(10) == 0
    return stack.place(customer, (PLENTY[0], 1))


def discard_root(stack: Stack, customer: str) -> None:
    """Discard the record that is no event, in each service, and wait until that is done."""
    root = 'SELECT topic, partition, "offset", state FROM parked_events WHERE key = %s AND root'
    for service in SERVICES:
        [(topic, partition, offset, _)] = eventually(
            lambda s=service: stack.query(s, root, (customer.encode(),)) or None,  # type: ignore[misc]
            f"{service} has parked what is no event",
        )
        place = f"{topic}/{partition}@{offset}"
        stack.run_tool("ops.dead_letters", "discard", place, "--service", service, "--why", "no event")
        eventually(
            lambda s=service: stack.query(s, root, (customer.encode(),))[0][3] == "done",  # type: ignore[misc]
            f"{service} has discarded it",
        )


def redrive_rest(stack: Stack, customer: str) -> None:
    stack.run_tool("ops.dead_letters", "redrive", "--customer", customer, "--why", "the event before it is discarded")


# How each scene leads a tool to its point


@contextmanager
def restored(trials: Trials) -> Iterator[None]:
    stack, book = trials.stack, trials.book
    back_up(stack, "payment")
    stack.await_ready()
    enough = len(book.accepted) + BACKLOG
    with Clients(stack, book, (Keyed, Plain, ManyOrders)):  # no shopkeeper: its deposits would be lost
        eventually(lambda: len(book.accepted) > enough, "orders come after the backup")
    await_rest(stack, book.accepted)
    restore(stack, "payment")
    stack["payment-1"].await_unready("lost transactions")
    yield
    stack.await_ready()


@contextmanager
def rest(trials: Trials) -> Iterator[None]:
    stack = trials.stack
    await_rest(stack, trials.book.accepted)
    yield
    # The log is empty now, and `verify` proves nothing about no orders.
    stack.account("after-the-trim", 10**6)
    stack.await_settled(stack.place("after-the-trim", (PLENTY[0], 1)))


TOOL_SCENES: Final[Mapping[Scene, Callable[[Trials], AbstractContextManager[None]]]] = {
    "restored": restored,
    "rest": rest,
}
