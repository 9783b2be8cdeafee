"""Measure one product against a thousand: `python -m bench.hot [--seconds S] [--orders N]`.

With one instance of inventory and then with three, orders go to a thousand products, to one product, and to one whose
stock is split in as many buckets as there are partitions. Each load is measured twice on the same stack: the highest
rate that the whole system holds, and how fast inventory alone works off a backlog, where nothing but its rows limits
it. Prints a row of Markdown for each, and at the end the worst share of the split product in the thousand.

A thousand products come first and last: the two differ by the machine's drift alone.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from bench.command import parser, run
from bench.load.wire import Population
from bench.measure.meter import Meter, private_meter
from bench.measure.orders_log import OrdersLog
from dev.settings import HOST

INSTANCES: Final = (1, 3)
PIECES: Final = 10**9
WARM_UP_PER_S: Final = 1_000.0
WARM_UP_S: Final = 8.0
SERVICE: Final = "inventory"
OTHERS: Final = ("payment", "order-saga")
BACKLOG_S_MAX: Final = 60.0
STOPPED_S: Final = 2.0
"""A consumer reads once a second whether it is stopped."""


class Case(NamedTuple):
    """Which products are ordered, and in how many buckets each is."""

    name: str
    products: int
    buckets: int


class Row(NamedTuple):
    """What was measured: orders a second held, records a second of inventory alone, and its CPU an order in µs."""

    held_per_s: float
    drained_per_s: float
    cpu_us: float


def cases(partitions: int) -> list[Case]:
    """What is measured, in order."""
    many = Case("1,000 products", 1_000, 0)
    return [many, Case("1 product", 1, 0), Case(f"1 product in {partitions} buckets", 1, partitions), many]


def measure(meter: Meter, case: Case, instances: int, seconds: float, orders: int) -> Row:
    """A load of one case. Which product is the one differs by case: a split is not undone."""
    population = Population(products=case.products, first=1 if case.buckets else 0, seed=950 + instances)
    name = f"{case.name}, {instances} of inventory"
    held = meter.highest_held(name, WARM_UP_PER_S, seconds, seconds, population=population)
    drained = drain(meter, name, population, orders)
    return Row(held.confirmed_per_s, drained, held.cpu_us[SERVICE] + held.cpu_us["postgres"])


def drain(meter: Meter, name: str, population: Population, orders: int) -> float:
    """Records a second that all instances of inventory answer together while nothing else runs.

    They stay in their group meanwhile, stopped as an operator's `resume` finds them, so that all begin at once.
    """
    system = meter.system
    for service in OTHERS:
        system.stop(service)
    with system.connect(SERVICE) as connection:
        connection.execute("INSERT INTO stops (reason) VALUES ('bench.hot')")
    time.sleep(STOPPED_S)
    log = OrdersLog(system.brokers, SERVICE)
    before = log.records()
    placed = meter.closed(f"{name}, backlog", BACKLOG_S_MAX, settle=False, requests_max=orders, population=population)
    system.tool("ops.dead_letters", "resume", "--service", SERVICE, "--why", "bench.hot")
    first, began = log.await_records(log.records() + 1)
    last, ended = log.await_records(before + placed.orders)
    outcomes = meter.log.records() + placed.orders
    for service in OTHERS:
        system.start(service)
    meter.log.await_records(outcomes)
    return (last - first) / max(ended - began, 1e-9)


def prepare(meter: Meter, partitions: int) -> None:
    """Stock that lasts, and the product that is split."""
    inventory = f"http://{HOST}:{meter.system.layout.ports[SERVICE]}/api/v1/products"
    for product in ("sku-0000", "sku-0001"):
        restocks = httpx.post(f"{inventory}/{product}/restocks", json={"quantity": PIECES}, trust_env=False)
        restocks.raise_for_status()
    meter.system.tool("ops.split", "sku-0001", str(partitions), "--why", "bench")


def main(seconds: float, orders: int, directory: Path) -> None:
    say = partial(print, file=sys.stderr, flush=True)
    with private_meter(directory / "hot", say) as meter:
        partitions = int(meter.system.layout.variables.get("TOPIC_PARTITIONS", "6"))
        prepare(meter, partitions)
        meter.warm_broker()
        meter.open("warm-up", WARM_UP_PER_S, WARM_UP_S)
        print("| ordered | inventory | held, orders/s | inventory alone, records/s | CPU of inventory and PostgreSQL |")
        print("|---|---:|---:|---:|---:|", flush=True)
        shares = []
        running = 1
        for instances in INSTANCES:
            for number in range(running + 1, instances + 1):
                meter.system.start(SERVICE, number)
            running = instances
            rows = []
            for case in cases(partitions):
                row = measure(meter, case, instances, seconds, orders)
                rows.append(row)
                print(f"| {case.name} | {instances} | {row.held_per_s:,.0f} | {row.drained_per_s:,.0f} | "
                      f"{row.cpu_us:.0f} us |", flush=True)  # fmt: skip
            many = [(rows[0][i] + rows[-1][i]) / 2 for i in range(2)]
            for row, name in ((rows[1], "whole"), (rows[2], "split")):
                shares.append(f"{instances} of inventory, {name}: held {row.held_per_s / many[0]:.2f}, "
                              f"alone {row.drained_per_s / many[1]:.2f}")  # fmt: skip
        meter.verify()
    print("\nOne product as a share of a thousand:", *shares, sep="\n- ")


if __name__ == "__main__":
    options = parser("hot", __doc__)
    options.add_argument("--seconds", type=float, default=10.0, help="the length of each load (default: 10)")
    options.add_argument("--orders", type=int, default=100_000, help="the backlog that inventory works off")
    chosen = options.parse_args()
    sys.exit(run(partial(main, chosen.seconds, chosen.orders)))
