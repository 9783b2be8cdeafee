"""Measure what a setting costs: `python -m bench.sweep NAME=VALUE,VALUE [NAME=VALUE,VALUE …]`.

A name is a variable of the services (`TOPIC_PARTITIONS`, `ORDER_LINGER_MS`), or a property of a server
(`kafka.num.io.threads`, `postgres.wal_compression`). Each value gets a stack of its own with a warm broker, then loads
at fixed rates: single orders, and 100 orders a request. Prints a row of Markdown for each value. The first row and the
last are Tandem as it is: they differ by the machine's drift alone.
"""

import argparse
import sys
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from bench.command import parser, run
from bench.measure import ceilings
from bench.measure.measured import Measured
from bench.measure.meter import private_meter
from dev.settings import PROCESS_SETTINGS

ECHO_S: Final = 1.5
SINGLES_PER_S: Final = 1_000.0
MANY_PER_S: Final = 20.0
LINES: Final = 100
LOAD_S: Final = 8.0
AS_IT_IS: Final = "as it is"
SWEPT: Final = PROCESS_SETTINGS | {"TOPIC_PARTITIONS"}


def sweep(settings: list[str], directory: Path) -> None:
    print(
        "| setting | echo, us | 1,000/s: CPU (broker, PostgreSQL), us | settle p50 / p99, ms "
        "| 2,000/s, 100 a request: CPU (broker, PostgreSQL), us | settle p50 / p99, ms |\n|---|---|---|---|---|---|"
    )
    for number, setting in enumerate((AS_IT_IS, *settings, AS_IT_IS)):
        print(row(setting, directory / str(number)), flush=True)


def row(setting: str, directory: Path) -> str:
    name, _, value = setting.partition("=")
    of_a_server = name.startswith(("kafka.", "postgres."))
    variables = {} if of_a_server or setting == AS_IT_IS else {name: value}
    options = [setting] if of_a_server else []
    say = partial(print, file=sys.stderr, flush=True)
    with private_meter(directory, say, settings=variables, options=options) as meter:
        meter.warm_broker()
        meter.open("warm-up", MANY_PER_S, LOAD_S, lines=LINES)
        echo = ceilings.echo(ECHO_S)
        singles = meter.open(f"{setting}, single orders", SINGLES_PER_S, LOAD_S)
        many = meter.open(f"{setting}, {LINES} a request", MANY_PER_S, LOAD_S, lines=LINES)
    return f"| {setting} | {echo.cpu_us:.0f} | {figures(singles)} | {figures(many)} |"


def figures(measured: Measured) -> str:
    cpu, settle = measured.cpu_us, measured.settle
    latency = f"{settle.p50:.0f} / {settle.p99:.0f}" if settle and settle.p50 and settle.p99 else "-"
    return f"{measured.total_cpu_us:.0f} ({cpu['broker']:.0f}, {cpu['postgres']:.0f}) | {latency}"


def values_of(text: str) -> list[str]:
    """`NAME=1,2` as `NAME=1` and `NAME=2`. Raises `ArgumentTypeError`."""
    name, _, values = text.partition("=")
    if not name or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is not like TOPIC_PARTITIONS=3,6")
    if not name.startswith(("kafka.", "postgres.")) and name not in SWEPT:
        raise argparse.ArgumentTypeError(f"{name!r} is no setting of a service; these are: {', '.join(sorted(SWEPT))}")
    return [f"{name}={value}" for value in values.split(",")]


if __name__ == "__main__":
    options = parser("sweep", __doc__)
    options.add_argument("settings", nargs="+", metavar="NAME=VALUE,VALUE", type=values_of)
    chosen = options.parse_args()
    sys.exit(run(lambda directory: sweep(list(chain.from_iterable(chosen.settings)), directory)))
