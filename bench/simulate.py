"""Simulate Tandem at rates and sizes that no machine here has: `python -m bench.simulate [check|draw|size|measure]`.

    check     fit the costs, and hold the model against loads that the fit has not seen; fails beyond 15 % (default)
    draw      draw the curves into docs/images, and print the highest rate by the number of instances
    size      print what 1,000 to 1,000,000 orders a second take, by arithmetic (`bench.model.sizes`)
    measure   measure the loads anew, on a stack of its own, in about three minutes

What was measured is in `bench/model/calibration.json`: CPU and latencies of loads of several rates and instances in
one run. The model is `bench.model.tandem`.
"""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from bench.command import parser, run, say, shown
from bench.measure import ceilings
from bench.measure.measured import Measured
from bench.measure.meter import Meter, private_meter
from bench.model import sizes, tandem
from bench.model.charts import COLOURS, Series, line_chart
from bench.model.costs import ERROR_MAX, KINDS, Calibration, Comparison, Load, compare, fit, read
from bench.model.tandem import GROUPS, Costs, Shape
from bench.run.scenarios import idle_cpu
from bench.stack import machine
from bench.stack.processes import CORES
from dev.settings import ROOT, SERVICES

CALIBRATION: Final = ROOT / "bench/model/calibration.json"
IMAGES: Final = ROOT / "docs/images"
CALIBRATED: Final = {1: (300.0, 700.0, 1_500.0, 3_000.0), 3: (700.0, 2_500.0)}
"""Rates by the number of instances of every process."""
CHECKED: Final = {1: (2_000.0,), 2: (1_000.0,), 3: (1_500.0,)}
WARM_UP_PER_S: Final = 1_500.0
LOAD_S: Final = 10.0
ECHO_S: Final = 2.0
DRAWN_RATES: Final = (100.0, 200.0, 300.0, 500.0, 700.0, 1_000.0, 1_500.0, 2_000.0, 2_500.0, 3_000.0, 4_000.0)
DRAWN_INSTANCES: Final = (1, 2, 3, 6, 12)
HELD_SHARE: Final = 0.97
"""A rate is held when so much of what arrives is settled meanwhile."""
STEP: Final = 1.04


def measure(path: Path, directory: Path) -> None:
    """Measure all loads on one stack: instances are only ever added."""
    with private_meter(directory / "main", say) as meter:
        meter.warm_broker()
        meter.open("warm-up", WARM_UP_PER_S, LOAD_S)
        idle = idle_cpu(meter.system)
        echo = ceilings.echo(ECHO_S)
        calibration: list[Load] = []
        checks: list[Load] = []
        for instances in sorted({*CALIBRATED, *CHECKED}):
            if instances > 1:
                for service in SERVICES:
                    meter.system.start(service.name, instances)
            for loads, rates in ((calibration, CALIBRATED), (checks, CHECKED)):
                loads += [load_of(meter, rate, instances) for rate in rates.get(instances, ())]
        meter.verify()
    measured = Calibration(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.describe(),
        echo_us=echo.cpu_us,
        cores=CORES,
        partitions=6,
        idle=idle,
        calibration=calibration,
        checks=checks,
    )
    path.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")
    say(f"written to {shown(path)}")


def load_of(meter: Meter, rate: float, instances: int) -> Load:
    measured = meter.open(f"{rate:,.0f}/s, {instances} of each", rate, LOAD_S)
    return as_load(measured, rate, instances)


def as_load(measured: Measured, rate: float, instances: int) -> Load:
    """What the fit needs of a load. Its latencies exist: it has thousands of orders."""
    assert measured.settle is not None
    return Load(
        rate=rate,
        apis=instances,
        instances=instances,
        cpu_us=measured.cpu_us,
        accept_p50=measured.accept.p50 or 0.0,
        settle_p50=measured.settle.p50 or 0.0,
        others_share=measured.others_share,
        held=not measured.why_not_held(),
    )


def check(calibration: Calibration, costs: Costs, fitted: str = "fitted") -> bool:
    """Print the loads beside the model. Returns whether it holds for those that the fit has not seen. `fitted` is what
    the table calls the others."""
    print(f"Measured on {calibration.at[:10]}, on {calibration.cores} cores, echo {calibration.echo_us:.1f} us\n")
    print("| us of CPU | a second of being there | a batch | a partition sent to | an order |")
    print("|---|---:|---:|---:|---:|")
    for group in GROUPS:
        each = [getattr(costs, kind)[group] * 1e6 for kind in KINDS]
        print(f"| {group} | {costs.idle[group] * 1e6:,.0f} | " + " | ".join(f"{us:,.1f}" for us in each) + " |")
    print(f"\nA message takes {costs.hop_s * 1e3:.1f} ms to the next process.\n")
    print("| load | | CPU, us | model | off | settle p50, ms | model | off |\n|---|---|---:|---:|---:|---:|---:|---:|")
    checked = [compare(load, calibration, costs) for load in calibration.checks]
    rows = [row(fitted, compare(load, calibration, costs)) for load in calibration.calibration]
    print("\n".join(rows + [row("**checked**", comparison) for comparison in checked]))
    held = sum(comparison.holds for comparison in checked)
    print(f"\n{held} of {len(checked)} checked loads are within {ERROR_MAX:.0%}.")
    return held == len(checked)


def row(kind: str, comparison: Comparison) -> str:
    load, model = comparison.load, comparison.model
    cpu, settle = comparison.cpu_error, comparison.settle_error
    return (
        f"| {load.name} | {kind} | {load.total_cpu_us:,.0f} | {model.total_cpu_us:,.0f} | {cpu:+.0%} | "
        f"{load.settle_p50:.0f} | {model.settle_p50:.0f} | {settle:+.0%} |"
    )


def highest(shape: Shape, costs: Costs) -> float:
    """The highest rate that a shape holds, to 4 %, in orders a second."""

    def holds(rate: float) -> bool:
        return tandem.run(replace(shape, rate=rate), costs).settled_share >= HELD_SHARE

    least = 500.0
    while holds(least * 2):
        least *= 2
    most = least * 2
    while most / least > STEP:
        middle = (least * most) ** 0.5
        least, most = (middle, most) if holds(middle) else (least, middle)
    return least


def draw(calibration: Calibration, costs: Costs) -> None:
    """Draw the curves, and print the highest rates."""
    measured = [*calibration.calibration, *calibration.checks]
    shape = Shape(rate=1, cores=calibration.cores, partitions=calibration.partitions, seconds=4)

    def by_rate(name: str, unit: str, of_model: Callable[[tandem.Outcome], float], of: Callable[[Load], float]) -> str:
        series: list[Series] = []
        for instances, colour in zip((1, 2, 3), COLOURS, strict=False):
            outcomes = (
                (rate, tandem.run(replace(shape, rate=rate, apis=instances, instances=instances), costs))
                for rate in DRAWN_RATES
            )
            label = f"{instances} of each"
            held = [(rate, of_model(outcome)) for rate, outcome in outcomes if outcome.settled_share >= HELD_SHARE]
            series.append(Series(label, held, colour))
            dots = [(load.rate, of(load)) for load in measured if load.instances == instances]
            series.append(Series(label, dots, colour, dots=True))
        title = f"{name} on {calibration.cores} cores: simulated (lines), measured (dots)"
        return line_chart(title, "orders/s", unit, series)

    written = {
        "scaling-cpu.svg": by_rate("CPU of an order", "µs", lambda o: o.total_cpu_us, lambda load: load.total_cpu_us),
        "scaling-settle.svg": by_rate("Settle p50", "ms", lambda o: o.settle_p50, lambda load: load.settle_p50),
        "scaling-instances.svg": by_instances(costs),
    }
    for name, svg in written.items():
        (IMAGES / name).write_text(svg)
        print(f"drawn: {shown(IMAGES / name)}")


def by_instances(costs: Costs) -> str:
    """The highest rate by the number of instances, with a core for each process, and 24 partitions."""
    series = []
    print("| instances | every product in buckets, orders/s | stock not split |\n|---:|---:|---:|")
    rates = [[highest_apart(costs, n, is_split=is_split) for n in DRAWN_INSTANCES] for is_split in (True, False)]
    for n, split, whole in zip(DRAWN_INSTANCES, *rates, strict=True):
        print(f"| {n} | {split:,.0f} | {whole:,.0f} |", flush=True)
    for name, colour, each in zip(("stock in buckets", "stock not split"), COLOURS, rates, strict=False):
        series.append(Series(name, list(zip(map(float, DRAWN_INSTANCES), each, strict=True)), colour))
    return line_chart("Highest rate, each process on cores of its own: simulated", "instances", "orders/s", series)


def highest_apart(costs: Costs, instances: int, *, is_split: bool) -> float:
    shape = Shape(
        rate=1, seconds=8, apis=instances, instances=instances, partitions=24, cores=8, apart=True, brokers=3,
        copies=3, is_split=is_split,
    )  # fmt: skip
    return highest(shape, replace(costs, generator=0.0))


def main(arguments: Sequence[str]) -> int:
    options = parser("simulate", __doc__)
    options.add_argument("what", nargs="?", choices=("check", "draw", "size", "measure"), default="check")
    options.add_argument("--file", type=Path, default=CALIBRATION, help="what was measured (%(default)s)")
    options.add_argument(
        "--against", type=Path, help="check the model, fitted to the loads of --file, against the loads of this one"
    )
    chosen = options.parse_args(arguments)
    if chosen.what == "measure":
        return run(lambda directory: measure(chosen.file, directory))
    if chosen.what == "size":
        print(sizes.table())
        return 0
    for file in (chosen.file, chosen.against or chosen.file):
        if not file.exists():
            made = "just simulate measure" if file == CALIBRATION else f"just simulate measure --file {file}"
            options.error(f"{file} does not exist; '{made}' makes it in about three minutes")
    calibration = read(chosen.file)
    costs = fit(calibration)
    if chosen.what == "draw":
        draw(calibration, costs)
        return 0
    if chosen.against:
        return 0 if check(read(chosen.against), costs, "measured again") else 1
    return 0 if check(calibration, costs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
