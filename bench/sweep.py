"""What a setting costs: `python -m bench.sweep NAME=VALUE,VALUE [NAME=VALUE,VALUE …]`.

A name is a variable of the services (`TOPIC_PARTITIONS`, `ORDER_LINGER_MS`), or a property of a server
(`kafka.num.io.threads`, `postgres.wal_compression`). Each value gets a stack of its own with a warm broker, then single
orders and batches at fixed rates. Prints a row of Markdown for each. The first row and the last are of Tandem as it is:
what these two differ by is what the machine's drift alone does.
"""

import argparse
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Final

from bench.measure import ceilings
from bench.measure.meter import Measured, Meter
from bench.stack import warm
from bench.stack.system import System, run_directory
from dev.settings import ROOT

WARM_S_MAX: Final = 60.0
ECHO_S: Final = 1.5
SINGLES_PER_S: Final = 1_000.0
BATCHES_PER_S: Final = 20.0
LINES: Final = 100
LOAD_S: Final = 8.0
AS_IT_IS: Final = "as it is"


def main(settings: Iterable[str]) -> None:
    print(
        "| setting | echo, us | 1,000/s: CPU (broker, PostgreSQL), us | settle p50 / p99, ms "
        "| batches, 2,000/s: CPU (broker, PostgreSQL), us | settle p50 / p99, ms |\n|---|---|---|---|---|---|"
    )
    for setting in (AS_IT_IS, *settings, AS_IT_IS):
        with run_directory() as directory:
            print(row(setting, directory), flush=True)


def row(setting: str, directory: Path) -> str:
    name, _, value = setting.partition("=")
    of_a_server = name.startswith(("kafka.", "postgres."))
    settings = {} if of_a_server or setting == AS_IT_IS else {name: value}
    with System(directory / "stack", root=ROOT, settings=settings, servers=[setting] if of_a_server else []) as system:
        warm.broker_of(system, WARM_S_MAX)
        meter = Meter(system, directory, lambda text: print(text, file=sys.stderr, flush=True))
        meter.open("warm-up, batches", BATCHES_PER_S, LOAD_S, lines=LINES)
        echo = ceilings.echo(directory, ECHO_S)
        singles = meter.open(f"{setting}, singles", SINGLES_PER_S, LOAD_S)
        batches = meter.open(f"{setting}, batches", BATCHES_PER_S, LOAD_S, lines=LINES)
    return f"| {setting} | {echo.cpu_us:.0f} | {figures(singles)} | {figures(batches)} |"


def figures(measured: Measured) -> str:
    cpu, settle = measured.cpu_us, measured.settle
    latency = f"{settle.p50:.0f} / {settle.p99:.0f}" if settle and settle.p50 and settle.p99 else "-"
    return f"{measured.total_cpu_us:.0f} ({cpu['broker']:.0f}, {cpu['postgres']:.0f}) | {latency}"


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="just sweep", description=(__doc__ or "").splitlines()[0])
    described.add_argument("sweeps", nargs="+", metavar="NAME=VALUE,VALUE", type=sweep)
    return described


def sweep(text: str) -> list[str]:
    """`NAME=1,2` as `NAME=1` and `NAME=2`."""
    name, _, given = text.partition("=")
    if not name or not given:
        raise argparse.ArgumentTypeError(f"{text!r} is not like TOPIC_PARTITIONS=3,6")
    return [f"{name}={value}" for value in given.split(",")]


if __name__ == "__main__":
    main(chain.from_iterable(parser().parse_args().sweeps))
