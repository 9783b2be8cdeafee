"""A campaign: many attacks at once on a stack of its own, a polite client beside them, and what is left afterwards."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import psutil
from msgspec import Struct

from bench.stack.processes import pss_bytes
from dev.settings import HOST
from tests.fuzz import oracle, requests
from tests.fuzz.attack import Attack
from tests.fuzz.attacks import draw
from tests.fuzz.credentials import People
from tests.fuzz.requests import CUSTOMERS, DOLLARS, INACTIVE, PRODUCTS
from tests.fuzz.runner import Finding, Runner
from tests.fuzz.wire import Connection, Gone, Target
from tests.guarded import SERVICES, Guarded
from tests.stack import Stack

CLIENTS: Final = 48
SLOW_CLIENTS_MAX: Final = 400
PACE_S: Final = 0.1
"""The polite client's pause between two orders."""
BALANCE: Final = 10**12
PIECES: Final = 10**9
FOREGOING: Final = 20
MINIMISED_MAX: Final = 3
LOOK_EVERY_S: Final = 0.5
LOOKS_SAME: Final = 6
LOOKS_MAX: Final = 40
WARM_SHARE: Final = 0.2
"""Memory is compared from here on: by then every path has been taken and every buffer has grown."""


class Held(NamedTuple):
    """What a process holds."""

    pss_bytes: int
    descriptors: int
    connections: int


class Campaign(Struct):
    """The results of a campaign."""

    requests: int
    seconds: float
    counts: dict[tuple[str, str], int]
    findings: list[Finding]
    accepted: set[str]
    cut: list[bytes]
    held: dict[str, dict[str, Held]]
    """By instance, and then before, warm and after."""
    polite_ms: list[float]
    polite_refused: int
    slow_s: list[float]


def targets(ports: Mapping[str, int]) -> dict[str, Target]:
    return {name: Target(HOST, ports[name]) for name in SERVICES}


def stock(stack: Stack) -> list[str]:
    """Make the accounts, products and orders that the attacks refer to; returns the ids of the orders."""
    for product_id in PRODUCTS:
        stack.product(product_id, price=100, pieces=PIECES)
    stack.product(INACTIVE, active=False)
    url = stack.url("inventory", f"/products/{DOLLARS}")
    product = {"name": DOLLARS, "unit_price": 5, "currency": "USD", "active": True}
    stack.http.put(url, json=product).raise_for_status()
    for customer_id in CUSTOMERS:
        stack.account(customer_id, BALANCE)
    for product_id in (*PRODUCTS, DOLLARS):
        stack.await_orderable(product_id)
    return [stack.place(CUSTOMERS[number % len(CUSTOMERS)], (PRODUCTS[0], 1)) for number in range(FOREGOING)]


def held(stack: Stack) -> dict[str, Held]:
    by_name = {}
    for name, instance in stack.instances.items():
        assert instance.process is not None
        process = psutil.Process(instance.process.pid)
        open_ = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
        by_name[name] = Held(pss_bytes([process]), process.num_fds(), len(open_))
    return by_name


async def run(
    stack: Stack,
    order_ids: list[str],
    seed: int,
    numbers: Iterable[int],
    say: Callable[[str], None] = lambda _: None,
    guarded: Guarded | None = None,
) -> Campaign:
    """Run these attacks of the seed: at the stack's instances, or at those that ask for credentials beside them."""
    people = None if guarded is None else People(guarded, seed)
    at = targets(stack.ports if guarded is None else guarded.ports)
    runner = Runner(at, order_ids, say, people=people)
    numbers = list(numbers)
    held_at = {"before": held(stack)}
    began = time.monotonic()
    warm = int(len(numbers) * WARM_SHARE)
    polite = Polite(at["order-api"], runner, people)
    ordering = asyncio.create_task(polite.order_until_stopped())
    try:
        await _all(runner, seed, numbers[:warm], say)
        held_at["warm"] = await _at_rest(stack)
        await _all(runner, seed, numbers[warm:], say)
    finally:
        polite.stop()
        await ordering
    seconds = time.monotonic() - began
    least = [await runner.minimised(seed, finding) for finding in runner.findings[:MINIMISED_MAX]]
    findings = least + runner.findings[MINIMISED_MAX:]
    held_at["after"] = await _at_rest(stack)
    return Campaign(
        requests=sum(runner.counts.values()),
        seconds=seconds,
        counts=dict(runner.counts),
        findings=findings,
        accepted=runner.accepted | set(order_ids),
        cut=runner.cut,
        held={name: {when: held_at[when][name] for when in held_at} for name in stack.instances},
        polite_ms=polite.took_ms,
        polite_refused=polite.refused,
        slow_s=runner.slow_s,
    )


async def _all(runner: Runner, seed: int, numbers: list[int], say: Callable[[str], None]) -> None:
    """Attack with all clients at once; slow ones run beside them."""
    left = iter(numbers)
    slow: set[asyncio.Task[object]] = set()
    room = asyncio.Semaphore(SLOW_CLIENTS_MAX)

    async def slowly(attack: Attack) -> None:
        async with room:
            await runner.attack(attack, {})

    async def client() -> None:
        kept: dict[str, Connection] = {}
        for number in left:
            attack = draw(seed, number)
            if attack.ending == "slow":
                task = asyncio.create_task(slowly(attack))
                slow.add(task)
                task.add_done_callback(slow.discard)
            else:
                await runner.attack(attack, kept)
        for connection in kept.values():
            connection.close()

    async def progress() -> None:
        while True:
            await asyncio.sleep(10)
            say(f"{sum(runner.counts.values()):,} requests, {len(runner.findings)} findings, {len(slow)} slow clients")

    reporting = asyncio.create_task(progress())
    try:
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        await asyncio.gather(*slow)
    finally:
        reporting.cancel()


async def _at_rest(stack: Stack) -> dict[str, Held]:
    """What the processes hold once unused connections have been closed and nothing has changed for a while."""
    current, same = held(stack), 0
    for _ in range(LOOKS_MAX):
        await asyncio.sleep(LOOK_EVERY_S)
        previous, current = current, held(stack)
        same = same + 1 if all(current[n].descriptors == previous[n].descriptors for n in current) else 0
        if same == LOOKS_SAME:
            break
    return current


class Polite:
    """A client that orders now and then on a connection of its own, as one should, and notes how long it takes."""

    def __init__(self, target: Target, runner: Runner, people: People | None) -> None:
        self._target = target
        self._people = people
        self._runner = runner
        self._enough = asyncio.Event()
        self.took_ms: list[float] = []
        self.refused = 0

    def stop(self) -> None:
        self._enough.set()

    async def order_until_stopped(self) -> None:
        connection = await Connection.open(self._target)
        body = {"customer_id": CUSTOMERS[0], "product_id": PRODUCTS[0], "quantity": 1}
        sent = requests.posted("order-api", "/orders", body).rendered()
        if self._people is not None:
            [sent] = self._people.polite.put_into([sent])
        while not self._enough.is_set():
            began = time.perf_counter()
            connection.send(sent)
            try:
                answer = await connection.answer()
            except Gone:
                self._runner.report(Finding(-1, "polite client", "closed without an answer", sent))
                connection = await Connection.open(self._target)
                continue
            if answer.status == 503:  # a client more than there is room for
                self.refused += 1
            elif answer.status == 202:
                self.took_ms.append((time.perf_counter() - began) * 1000)
                self._runner.accepted.update(oracle.accepted(answer))
            else:
                self._runner.report(Finding(-1, "polite client", f"status {answer.status}: {answer.body!r}", sent))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), PACE_S)
        connection.close()
