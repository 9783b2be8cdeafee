"""What only a full run measures: drain, recovery, instances, spread, growth. Each keeps to what it says it measures."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Final

from bench.load.runner import Board
from bench.load.wire import Population
from bench.measure.meter import Lost, Measured, Meter
from bench.measure.orders_log import OrdersLog
from bench.measure.rates import highest_held
from bench.measure.result import Drain, Recovery
from bench.plan import Plan
from bench.stack import processes, warm
from bench.stack.system import System
from dev.settings import DATABASES, HOST

ACCEPT_S_MAX: Final = 60.0
ACCEPT_CONNECTIONS: Final = 128
POLL_S: Final = 0.05
STUCK_S: Final = 20.0
INSTANCES: Final = (2, 3)
SERVICES: Final = ("order-api", "order-saga", "payment", "inventory")
BEFORE_S: Final = 10.0
AFTER_S: Final = 60.0
RECOVERY_SHARE: Final = 0.5
STORED_FEW: Final = 10_000
TRIMMED_PER_S: Final = 200.0
TRIMMED_S: Final = 3.0
COMMITTED_S: Final = 2.0
DEPOSIT: Final = 10**12
# Topic in which a consumer answers each order of its backlog with one record.
_ANSWERS: Final = (("payment", "payments"), ("inventory", "inventory"), ("order-saga", "orders"))


def drains(meter: Meter, plan: Plan, say: Callable[[str], None]) -> list[Drain]:
    """Each consumer alone on a backlog, its own alone: payment, then inventory, then the saga on both results."""
    system = meter.system
    for service, _ in _ANSWERS:
        system.stop(service)
    base = meter.log.records()

    def enough(board: Board, _: float) -> None:
        if board.accepted >= plan.drain_orders:
            board.stop()

    accepted = meter.closed("backlog", ACCEPT_CONNECTIONS, ACCEPT_S_MAX, settle=False, meanwhile=enough)
    found = []
    for service, topic in _ANSWERS:
        found.append(_drain(system, service, topic, accepted.orders))
        say(f"drain: {service} {found[-1].records_per_s:.0f} records/s")
        if service != "order-saga":
            system.stop(service)
    if meter.log.records() < base + 2 * accepted.orders:
        raise Lost(f"of {accepted.orders} acknowledged orders some have no outcome after the drain")
    for service, _ in _ANSWERS[:-1]:
        system.start(service)
    return found


def _drain(system: System, service: str, topic: str, orders: int) -> Drain:
    """Start a consumer, and time it from its first answer to its last."""
    log = OrdersLog(system.layout.variables["KAFKA_BOOTSTRAP_SERVERS"], topic)
    base = log.records()
    system.start(service)
    first, first_at = base, time.monotonic()
    while (first := log.records()) == base and time.monotonic() - first_at < STUCK_S:
        time.sleep(POLL_S)
    began, before = time.monotonic(), processes.sample(system.layout.pids)
    known, known_at = first, began
    while known < base + orders and time.monotonic() - known_at < STUCK_S:
        time.sleep(POLL_S)
        now = log.records()
        if now > known:
            known, known_at = now, time.monotonic()
    seconds = known_at - began
    used = processes.between(before, processes.sample(system.layout.pids), 0.0)
    records = known - first
    if known < base + orders:
        raise Lost(f"{service} answered {known - base} of {orders} orders of its backlog and then no more")
    group = processes.group_of(f"{service}-1")
    cpu_us = {name: cpu_s / max(1, records) * 1e6 for name, cpu_s in used.by_group.items()}
    return Drain(
        service=group, records=records, seconds=seconds, records_per_s=records / max(seconds, 1e-9), cpu_us=cpu_us
    )


def recovery(meter: Meter, confirmed_per_s: float, away_s: float) -> Recovery:
    """Payment away for a while at half load; how long its backlog lasts after it is back."""
    back: list[float] = []
    away: list[float] = []

    def meanwhile(_: Board, at_s: float) -> None:
        if not away and at_s >= BEFORE_S:
            meter.system.stop("payment")
            away.append(time.time())
        elif away and not back and time.time() >= away[0] + away_s:
            meter.system.start("payment")
            back.append(time.time())

    rate = confirmed_per_s * RECOVERY_SHARE
    load = meter.open("payment away", rate, BEFORE_S + away_s + AFTER_S, meanwhile=meanwhile)
    # The backlog is gone when no more orders wait than before payment went.
    series = load.series
    usual = max(series.backlog[2 : int(BEFORE_S / series.bucket_s)])
    back_at_s = back[0] - load.started_at_s
    first = int(back_at_s / series.bucket_s)
    gone = next((n for n in range(first, len(series.backlog)) if series.backlog[n] <= usual), len(series.backlog))
    return Recovery(
        offered_per_s=rate,
        away_s=back[0] - away[0],
        gone_within_s=max(0.0, (gone + 1) * series.bucket_s - back_at_s),
        load=load,
    )


def instances(meter: Meter, plan: Plan, rate: float) -> list[Measured]:
    """The confirmed rate with 1, 2 and 3 of each process, on the same cores."""
    found = [highest_held(meter, "1 instance each", rate, plan.breaking_s, plan.breaking_s)]
    for number in INSTANCES:
        for service in SERVICES:
            meter.system.start(service, number)
        name = f"{number} instances each"
        found.append(highest_held(meter, name, rate, plan.breaking_s, plan.breaking_s))
    for number in INSTANCES:
        for service in SERVICES:
            meter.system.stop(service, number)
    return found


def spread(meter: Meter, plan: Plan, rate: float) -> list[Measured]:
    """One customer, one product: everything locks the same row."""
    deposit(meter.system, "cust-000000", DEPOSIT)
    found = []
    for name, population in (
        ("1 customer, 1,000 products", Population(customers=1, seed=901)),
        ("100,000 customers, 1 product", Population(products=1, seed=902)),
    ):
        found.append(highest_held(meter, name, rate / 2, plan.breaking_s, plan.breaking_s, population=population))
    return found


def growth(meter: Meter, plan: Plan, rate: float, say: Callable[[str], None]) -> list[Measured]:
    """On a stack of its own: few orders stored, then many, loaded by COPY."""
    warm.broker_of(meter.system, plan.warm_s_max)
    # The orders stored next are not in the log, as those of last year are not: their part of it has been trimmed, in
    # every partition, which takes a record there.
    meter.open("a record in each partition", TRIMMED_PER_S, TRIMMED_S)
    time.sleep(COMMITTED_S)
    meter.system.run("ops.topics", "trim")
    found = []
    stored = 0
    for wanted in (STORED_FEW, plan.growth_orders):
        began = time.monotonic()
        store(meter.system, stored, wanted - stored)
        say(f"{wanted} orders stored after {time.monotonic() - began:.0f} s")
        stored = wanted
        name = f"{wanted:,} orders stored before"
        found.append(highest_held(meter, name, rate, plan.govern_s, plan.govern_s))
    return found


def store(system: System, first: int, count: int) -> None:
    """Fill the three databases, side by side."""
    environment = {**os.environ, **system.layout.variables}
    filling = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.stack.stored", database, str(first), str(count)],
            env=environment,
        )
        for database in DATABASES
    ]
    for process in filling:
        if process.wait():
            raise RuntimeError(f"filling the databases ended with {process.returncode}; what it said stands above")
    with system.connect(DATABASES[0]) as connection:
        connection.execute("CHECKPOINT")


def deposit(system: System, customer_id: str, amount: int) -> None:
    """Put money on an account."""
    url = f"http://{HOST}:{system.layout.ports['payment']}/api/v1/accounts/{customer_id}/deposits"
    body = json.dumps({"amount": amount, "currency": "EUR"}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
