"""What only a full run measures: drain, recovery, instances, spread and growth."""

import time
from typing import Final

from bench.load.spec import Board
from bench.load.wire import Population
from bench.measure.measured import Measured, NoResult
from bench.measure.meter import Meter
from bench.measure.orders_log import OrdersLog
from bench.measure.result import Drain, Recovery
from bench.run.plan import Plan
from bench.stack.private import System, side_by_side
from bench.stack.processes import group_of
from dev.settings import DATABASES, SERVICES

ACCEPT_S_MAX: Final = 60.0
INSTANCES: Final = (2, 3)
BEFORE_S: Final = 10.0
AFTER_S: Final = 60.0
RECOVERY_SHARE: Final = 0.5
STORED_FEW: Final = 10_000
TEMPLATE_PER_S: Final = 1_000.0
TEMPLATE_S: Final = 5.0
COMMITTED_S: Final = 2.0
DEPOSIT: Final = 10**12
_ANSWERS: Final = {"payment": "payments", "inventory": "inventory", "order-saga": "outcomes"}
"""The topic in which a consumer answers each order of its backlog with one record."""


def drains(meter: Meter, plan: Plan) -> list[Drain]:
    """Each consumer alone on its backlog: payment, then inventory, then the saga with the results of both."""
    system = meter.system
    for service in _ANSWERS:
        system.stop(service)
    before = meter.log.records()
    accepted = meter.closed("backlog", ACCEPT_S_MAX, settle=False, requests_max=plan.drain_orders)
    drains = []
    for service, topic in _ANSWERS.items():
        drains.append(drain(system, service, topic, accepted.orders))
        meter.say(f"drain: {service} {drains[-1].records_per_s:.0f} records/s")
        if service != "order-saga":
            system.stop(service)
    if meter.log.records() < before + 2 * accepted.orders:
        raise NoResult(f"some of {accepted.orders} acknowledged orders have no outcome after the drain")
    for service in ("payment", "inventory"):
        system.start(service)
    return drains


def drain(system: System, service: str, topic: str, orders: int) -> Drain:
    """Start a consumer, and time it from its first answer to its last."""
    log = OrdersLog(system.brokers, topic)
    before = log.records()
    system.start(service)
    first, began = log.await_records(before + 1)
    window = system.window()
    last, ended = log.await_records(before + orders)
    cpu = window.end()
    if last < before + orders:
        raise NoResult(f"{service} answered {last - before} of the {orders} orders of its backlog, then stopped")
    records = last - first
    return Drain(
        service=group_of(service),
        records=records,
        records_per_s=records / max(ended - began, 1e-9),
        cpu_us={group: cpu_s / max(1, records) * 1e6 for group, cpu_s in cpu.seconds.items()},
    )


def recovery(meter: Meter, confirmed_per_s: float, away_s: float) -> Recovery:
    """Payment is away for a while at half load; how long its backlog lasts after its return."""
    times: list[float] = []

    def meanwhile(_: Board, at_s: float) -> None:
        if not times and at_s >= BEFORE_S:
            meter.system.stop("payment")
            times.append(time.time())
        elif len(times) == 1 and time.time() >= times[0] + away_s:
            meter.system.start("payment")
            times.append(time.time())

    rate = confirmed_per_s * RECOVERY_SHARE
    load = meter.open("payment away", rate, BEFORE_S + away_s + AFTER_S, meanwhile=meanwhile)
    left_at, back_at = times
    # The backlog is gone when no more orders wait than before payment went away.
    series = load.series
    usual = max(series.backlog[2 : int(BEFORE_S / series.bucket_s)])
    back_s = back_at - load.started_at_s
    buckets = range(int(back_s / series.bucket_s), len(series.backlog))
    gone = next((number for number in buckets if series.backlog[number] <= usual), len(series.backlog))
    return Recovery(
        offered_per_s=rate,
        away_s=back_at - left_at,
        gone_within_s=max(0.0, (gone + 1) * series.bucket_s - back_s),
        load=load,
    )


def instances(meter: Meter, plan: Plan, rate: float) -> list[Measured]:
    """The confirmed rate with 1, 2 and 3 of each process, on the same cores."""
    loads = [meter.highest_held("1 instance each", rate, plan.comparison_s, plan.comparison_s)]
    for number in INSTANCES:
        for service in SERVICES:
            meter.system.start(service.name, number)
        loads.append(meter.highest_held(f"{number} instances each", rate, plan.comparison_s, plan.comparison_s))
    for number in INSTANCES:
        for service in SERVICES:
            meter.system.stop(service.name, number)
    return loads


def spread(meter: Meter, plan: Plan, rate: float) -> list[Measured]:
    """One customer, then one product: every order locks the same row."""
    meter.system.post("payment", "/accounts/cust-000000/deposits", {"amount": DEPOSIT, "currency": "EUR"})
    return [
        meter.highest_held(name, rate / 2, plan.comparison_s, plan.comparison_s, population=population)
        for name, population in (
            ("1 customer, 1,000 products", Population(customers=1, seed=901)),
            ("100,000 customers, 1 product", Population(products=1, seed=902)),
        )
    ]


def growth(meter: Meter, plan: Plan, rate: float) -> list[Measured]:
    """The highest rate with few orders stored, then with many. On a stack of its own."""
    meter.warm_broker(plan.warm_s_max)
    # The stored orders are copies of these, and are not in the log. `verify` accepts that if the log has been trimmed
    # in every partition, as it has been for the orders of last year.
    meter.open("templates", TEMPLATE_PER_S, TEMPLATE_S)
    time.sleep(COMMITTED_S)
    meter.system.tool("ops.topics", "trim")
    loads = []
    stored = 0
    for orders in (STORED_FEW, plan.growth_orders):
        began = time.monotonic()
        store(meter.system, stored, orders - stored)
        meter.say(f"{orders:,} orders stored after {time.monotonic() - began:.0f} s")
        stored = orders
        loads.append(meter.highest_held(f"{orders:,} orders stored before", rate, plan.govern_s, plan.govern_s))
    return loads


def store(system: System, first: int, count: int) -> None:
    """Fill the three databases, side by side."""
    side_by_side(lambda database: system.tool("bench.stack.stored", database, str(first), str(count)), DATABASES)
    with system.connect(DATABASES[0]) as connection:
        connection.execute("CHECKPOINT")
