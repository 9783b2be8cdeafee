"""Measure one product against a thousand: `python -m bench.hot [--seconds S] [--orders N]`.

With one instance of inventory and then with three, orders go to a thousand products and to one; with three, also to
one, and then to a thousand, that are split in as many buckets as there are partitions. Each is measured twice on the
same stack: the highest rate that the whole system holds, and how fast inventory alone works off a backlog, where
nothing but its rows limits it. Prints a row of Markdown for each, and what one product does as a share of a thousand.

With three instances, a thousand products come twice: the two rows differ by the machine's drift alone.
"""

import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Final, NamedTuple

from bench.command import parser, run
from bench.load.wire import Population
from bench.measure.meter import Meter, private_meter
from bench.measure.orders_log import OrdersLog
from bench.stack.private import System
from inventory.buckets import split

PARTITIONS: Final = 6
INSTANCES: Final = (1, 3)
PIECES: Final = 10**9
WARM_UP_PER_S: Final = 1_000.0
WARM_UP_S: Final = 8.0
SERVICE: Final = "inventory"
OTHERS: Final = ("payment", "order-saga")
WAITING: Final = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'inventory' AND wait_event_type = 'Lock'"
SAMPLE_S: Final = 0.02
BACKLOG_S_MAX: Final = 60.0
STOPPED_S: Final = 2.0
"""A consumer reads once a second whether it is stopped."""


class Case(NamedTuple):
    """Which products are ordered: so many, from this one on. `in_buckets` says what they are split in; 0 is whole."""

    name: str
    products: int
    first: int = 0
    in_buckets: int = 0


class Row(NamedTuple):
    """What was measured."""

    held_per_s: float
    """Orders a second of the whole system."""
    drained_per_s: float
    """Records a second of inventory alone."""
    waiting: float
    """How many instances waited for a lock meanwhile, on average."""
    cpu_us: float
    """Of inventory and PostgreSQL, an order, at the rate that was held."""


MANY: Final = Case("1,000 products", 1_000)
ONE: Final = Case("1 product", 1)


def cases(instances: int, partitions: int) -> list[Case]:
    """What is measured, in order. One instance waits for no other. What is split stays so, and all are at the end."""
    if instances == 1:
        return [MANY, ONE]
    split = Case("1 product in buckets", 1, first=1, in_buckets=partitions)
    return [MANY, ONE, split, MANY, Case("1,000 products in buckets", 1_000, in_buckets=partitions)]


def measure(meter: Meter, case: Case, instances: int, seconds: float, orders: int) -> Row:
    if case.in_buckets:
        with meter.system.connect(SERVICE) as connection, connection.transaction():
            for number in range(case.first, case.first + case.products):
                split(connection, f"sku-{number:04}", case.in_buckets)
    population = Population(products=case.products, first=case.first, seed=950 + instances)
    name = f"{case.name}, {instances} of inventory"
    held = meter.highest_held(name, WARM_UP_PER_S, seconds, seconds, population=population)
    drained, waiting = drain(meter, name, population, orders)
    return Row(held.confirmed_per_s, drained, waiting, held.cpu_us[SERVICE] + held.cpu_us["postgres"])


def drain(meter: Meter, name: str, population: Population, orders: int) -> tuple[float, float]:
    """Records a second that all instances of inventory answer together while nothing else runs, and how many of them
    wait for a lock on average.

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
    waiting: list[int] = []
    ended_sampling = threading.Event()
    sampler = threading.Thread(target=sample_waiting, args=(system, waiting, ended_sampling))
    sampler.start()
    last, ended = log.await_records(before + placed.orders)
    ended_sampling.set()
    sampler.join()
    outcomes = meter.log.records() + placed.orders
    for service in OTHERS:
        system.start(service)
    meter.log.await_records(outcomes)
    return (last - first) / max(ended - began, 1e-9), mean(waiting or [0])


def sample_waiting(system: System, waiting: list[int], ended: threading.Event) -> None:
    """Count the sessions that wait for a lock, until the event is set."""
    with system.connect(SERVICE) as connection:
        while not ended.wait(SAMPLE_S):
            [count] = connection.execute(WAITING).fetchone() or (0,)
            waiting.append(int(str(count)))


def restock(meter: Meter, product: str) -> None:
    """Stock that lasts."""
    meter.system.post(SERVICE, f"/products/{product}/restocks", {"quantity": PIECES})


def main(seconds: float, orders: int, directory: Path) -> None:
    say = partial(print, file=sys.stderr, flush=True)
    with private_meter(directory / "hot", say) as meter:
        for product in ("sku-0000", "sku-0001"):
            restock(meter, product)
        meter.warm_broker()
        meter.open("warm-up", WARM_UP_PER_S, WARM_UP_S)
        print("| ordered | instances | held, orders/s | alone, records/s | of them wait for a lock | CPU, us |")
        print("|---|---:|---:|---:|---:|---:|", flush=True)
        for instances in INSTANCES:
            for number in range(2, instances + 1):
                meter.system.start(SERVICE, number)
            rows = []
            for case in cases(instances, PARTITIONS):
                row = measure(meter, case, instances, seconds, orders)
                rows.append((case, row))
                print(f"| {case.name} | {instances} | {row.held_per_s:,.0f} | {row.drained_per_s:,.0f} | "
                      f"{row.waiting:.1f} | {row.cpu_us:.0f} |", flush=True)  # fmt: skip
            print(shares(rows), flush=True)
        meter.verify()


def shares(rows: Sequence[tuple[Case, Row]]) -> str:
    """What one product does as a share of a thousand."""
    many = [row for case, row in rows if case == MANY]
    held, drained = (mean(row[i] for row in many) for i in range(2))
    ones = [(case, row) for case, row in rows if case.products == 1]
    return "\n".join(
        f"{case.name}: held {row.held_per_s / held:.2f} of a thousand, alone {row.drained_per_s / drained:.2f}"
        for case, row in ones
    )


if __name__ == "__main__":
    options = parser("hot", __doc__)
    options.add_argument("--seconds", type=float, default=10.0, help="the length of each load (default: 10)")
    options.add_argument("--orders", type=int, default=100_000, help="the backlog that inventory works off")
    chosen = options.parse_args()
    sys.exit(run(partial(main, chosen.seconds, chosen.orders)))
