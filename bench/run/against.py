"""`just bench --against REV`: this checkout and another revision, measured in turn, A B A B.

First bursts: each on a stack that has just started, while nothing else runs. Other loads: both revisions run at once,
each with its own services, broker and databases, as that revision configures them. The load goes to one after the other
in short slices; the one that waits costs a few percent of a core, the same for both. Halfway both are started anew,
since some differences belong to one start only. This checkout's load generator drives both.
"""

import argparse
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.load.latency import Latency
from bench.measure import pairs
from bench.measure.measured import Measured
from bench.measure.meter import FIRST_RATE, Meter, Say, private_meter
from bench.measure.pairs import Change
from bench.report.tables import Table
from bench.run import cold
from bench.run.plan import Plan
from bench.stack import watched
from bench.stack.processes import GROUPS
from dev.settings import ROOT, Settings

STARTS: Final = 2
FIXED_PER_S: Final = (700.0, 1_500.0)
FIXED_SHARE: Final = 0.5
RATIO_MAX: Final = 100
"""An interval that reaches further says nothing, and is left out."""

Figures = Mapping[str, float | None]
Pair = tuple[Figures, Figures]


def revision(name: str) -> str:
    """A revision of this repository, by its name. Raises `ArgumentTypeError` if there is none."""
    command = ["git", "rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}"]
    if subprocess.run(command, cwd=ROOT, capture_output=True).returncode:
        raise argparse.ArgumentTypeError(f"{name!r} is no revision of this repository")
    return name


@contextmanager
def checked_out(revision: str, directory: Path) -> Iterator[Path]:
    """A worktree of the revision. Raises `subprocess.CalledProcessError`."""
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(directory), revision], cwd=ROOT, check=True)
    try:
        yield directory
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(directory)], cwd=ROOT, check=False)


def run(
    revision: str, plan: Plan, directory: Path, say: Say, settings: Mapping[str, str], *, is_watched: bool = False
) -> Table:
    """Compare the revision with this checkout under `settings`. Raises `NoResult`.

    If this checkout `is_watched`, what `bench.stack.watched` starts is beside it. There are no first bursts then:
    they are over before anybody watches.
    """
    home = {"TANDEM_HOME": str(Settings.from_environment().home)}  # this checkout keeps the jars for both

    def say_of(name: str) -> Say:
        return lambda text: say(f"{name} {text}")

    with ExitStack() as watching:
        other = watching.enter_context(checked_out(revision, directory / "revision"))
        if is_watched:
            settings = {**settings, **watching.enter_context(watched.tracing())}
        checkouts = (("A", other, home), ("B", ROOT, {**home, **settings}))

        def burst(name: str, root: Path, variables: Mapping[str, str], number: int) -> Figures:
            options = {"root": root, "settings": variables}
            path = directory / f"burst-{name}{number}"
            return burst_figures(cold.first_burst(path, plan.burst_orders, say_of(name), **options))

        bursts = []
        for number in range(0 if is_watched else plan.burst_pairs):
            a, b = (burst(*checkout, number) for checkout in checkouts)
            bursts.append((a, b))
        slices: list[Pair] = []
        for start in range(STARTS):
            with ExitStack() as stacks:
                meters = []
                for name, root, variables in checkouts:
                    stack = private_meter(directory / f"{name}{start}", say_of(name), root=root, settings=variables)
                    meters.append(stacks.enter_context(stack))
                if is_watched:
                    beside = watched.console(meters[1].system, directory / f"console{start}", say_of("B"))
                    stacks.enter_context(beside)
                say(f"both are up, start {start + 1} of {STARTS}")
                slices += measure_pairs(meters, plan)
                for meter in meters:
                    meter.verify()
    return table(revision, {**changes(bursts), **changes(slices)}, watched.TEXT if is_watched else "")


def measure_pairs(meters: Sequence[Meter], plan: Plan) -> Iterator[Pair]:
    """Measure slices on both meters in turn."""
    for meter in meters:
        meter.warm_broker(plan.warm_s_max)
    highest = min(m.governed("warm-up", FIRST_RATE, plan.warm_up_s).settled_late_per_s for m in meters)
    fixed = {f"{rate:g}/s": rate for rate in FIXED_PER_S} | {"half rate": highest * FIXED_SHARE}
    for _ in range(plan.pairs_a_start):
        a, b = (slice_figures(meter, fixed, highest, plan.slice_s) for meter in meters)
        yield a, b


def slice_figures(meter: Meter, fixed: Mapping[str, float], highest: float, seconds: float) -> Figures:
    """Measure each fixed rate, then the highest that is settled. Figures by name."""
    figures: dict[str, float | None] = {}
    for name, rate in fixed.items():
        load = meter.open(name, rate, seconds)
        figures[f"{name}: CPU µs an order"] = load.total_cpu_us
        figures |= latencies(name, accept=load.accept, settle=load.settle)
    load = meter.governed("governed", highest, seconds)
    figures["governed: confirmed/s"] = load.settled_late_per_s
    figures["governed: CPU µs an order"] = load.total_cpu_us
    return figures | {f"governed: {group} µs an order": load.cpu_us[group] for group in GROUPS}


def burst_figures(load: Measured) -> Figures:
    return {
        "first burst: accepted, % of the orders sent": load.orders / max(1, load.requests) * 100,
        "first burst: confirmed/s": load.confirmed_per_s,
        "first burst: settled/s, with the drain": load.settled_per_s,
        "first burst: CPU µs an order": load.total_cpu_us,
        **latencies("first burst", accept=load.accept),
    }


def latencies(load: str, **measured: Latency | None) -> Figures:
    return {
        f"{load}: {name} {percentile} ms": getattr(latency, percentile, None)
        for name, latency in measured.items()
        for percentile in ("p50", "p95", "p99")
    }


def changes(measured: Sequence[Pair]) -> dict[str, Change]:
    """How each figure changed, over the pairs that have it on both sides, if these are two or more."""
    changed = {}
    for name in measured[0][0] if measured else ():
        values = [(a, b) for before, after in measured if (a := before[name]) and (b := after[name])]
        if len(values) > 1:
            changed[name] = pairs.compare(*zip(*values, strict=True))
    return changed


def table(revision: str, changes: Mapping[str, Change], beside: str = "") -> Table:
    """The comparison. `beside` is what this checkout had beside it."""
    rows = []
    for name, c in changes.items():
        verdict = ("more" if c.ratio > 1 else "less") if c.real else "not shown"
        interval = f"{c.low:.3f} to {c.high:.3f}" if c.high < RATIO_MAX else "-"
        rows.append((name, f"{c.before:,.1f}", f"{c.after:,.1f}", f"{c.ratio:.3f}", interval, str(c.pairs), verdict))
    text = (
        f"Pairs were measured in turn. An interval holds the true ratio with {pairs.CONFIDENCE:.0%} confidence, so one "
        "row in a hundred shows a difference that is none."
    )
    header = ("", "before", "after", "ratio", "interval", "pairs", "")
    title = f"This checkout against `{revision}`"
    return Table(f"{title}, with {beside}" if beside else title, text, header, rows)
