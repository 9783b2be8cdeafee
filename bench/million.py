"""Place a million orders over HTTP on a stack of its own, and prove every one: `python -m bench.million [ORDERS]`.

They are sent 100 to a request, as fast as they are settled, in loads of a minute. With `--brokers 3`, Kafka is three
brokers, and one of them is killed in each of these minutes.
"""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Final

from bench.command import parser, run, say
from bench.load.runner import GeneratorFailed
from bench.measure.measured import Measured
from bench.measure.meter import private_meter
from bench.stack.private import System
from ops.tool import print_table

LOAD_S: Final = 60.0
FIRST_REQUESTS_PER_S: Final = 10.0
LINES: Final = 100
KILL_AFTER_S: Final = 15.0
AWAY_S: Final = 10.0


def place_and_prove(orders: int, directory: Path, brokers: int = 1) -> None:
    """Raises `NoResult`."""
    killed: list[str] = []
    with private_meter(directory, say, settings={"BROKERS": str(brokers)}) as meter:
        requests_per_s = FIRST_REQUESTS_PER_S
        while meter.orders < orders:
            victim = f"kafka-{len(killed) % brokers + 1}" if brokers > 1 else ""
            with killing(meter.system, victim):
                load = meter.governed(f"{meter.orders:,} of {orders:,}", requests_per_s, LOAD_S, lines=LINES)
            killed.append(victim)
            if not load.orders:
                raise GeneratorFailed("no order was accepted")
            requests_per_s = max(requests_per_s, load.confirmed_per_s / LINES)
        took_s = sum(load.duration_s + load.drain_s for load in meter.measured)
        confirmed = sum(load.confirmed for load in meter.measured)
        say(f"{meter.orders:,} orders, {confirmed:,} confirmed, in {took_s:.0f} s: {meter.orders / took_s:,.0f}/s")
        proof = meter.verify()
        if brokers > 1:
            heading = ("minute", "killed", "orders", "requests", "503", "unanswered", "pause s", "accept p99 ms")
            rows = enumerate(zip(killed, meter.measured, strict=True), 1)
            print_table(heading, [(number, victim, *cells(load)) for number, (victim, load) in rows])
        print(proof)


@contextmanager
def killing(system: System, broker: str) -> Iterator[None]:
    """Meanwhile, kill a broker as a loss of power would, and start it again; none if it has no name."""
    if not broker:
        yield
        return
    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(_kill, system, broker)
        yield
        killed.result()


def _kill(system: System, broker: str) -> None:
    time.sleep(KILL_AFTER_S)
    system.kill(broker)
    time.sleep(AWAY_S)
    system.revive(broker)


def cells(load: Measured) -> tuple[object, ...]:
    """A load as a row of the table."""
    p99 = "-" if load.accept.p99 is None else f"{load.accept.p99:.0f}"
    return (load.orders, load.requests, load.refused, load.by_status.get("0", 0), f"{pause_s(load):.1f}", p99)


def pause_s(load: Measured) -> float:
    """The longest time in which no order was acknowledged, of those that were due then."""
    during = load.series.accepted[: int(load.duration_s / load.series.bucket_s)]
    silent = [len(list(run)) for accepted, run in groupby(during) if accepted == 0]
    return max(silent, default=0) * load.series.bucket_s


if __name__ == "__main__":
    options = parser("million", __doc__)
    options.add_argument(
        "orders", type=int, nargs="?", default=1_000_000, help="place at least this many (%(default)s)"
    )
    options.add_argument(
        "--brokers", type=int, choices=[1, 3], default=1, help="with 3, a broker is killed in each minute"
    )
    chosen = options.parse_args()
    sys.exit(run(lambda directory: place_and_prove(chosen.orders, directory, chosen.brokers)))
