"""`just bench --against REV`: this checkout and another revision, measured in turn, A B A B.

Both run at once, each with its own services, broker and databases, as that revision configures them. The load goes to
one after the other in short slices; the one that waits costs a few percent of a core, the same for both. This
checkout's load generator drives both. Halfway both are started anew, since some differences belong to one start only.
"""

import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.measure import pairs
from bench.measure.measured import Measured
from bench.measure.meter import FIRST_RATE, Meter, Say, private_meter
from bench.measure.pairs import Change
from bench.report.tables import Table
from bench.run.plan import Plan
from bench.stack.processes import GROUPS
from dev.settings import ROOT, Settings

STARTS: Final = 2
FIXED_SHARE: Final = 0.5

Figures = defaultdict[str, list[float]]


@contextmanager
def checked_out(revision: str, directory: Path) -> Iterator[Path]:
    """A worktree of the revision. Raises `subprocess.CalledProcessError`."""
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(directory), revision], cwd=ROOT, check=True)
    try:
        yield directory
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(directory)], cwd=ROOT, check=False)


def run(revision: str, plan: Plan, directory: Path, say: Say, settings: Mapping[str, str]) -> Table:
    """Compare the revision with this checkout under `settings`. Raises `NoResult`."""
    home = {"TANDEM_HOME": str(Settings.from_environment().home)}  # this checkout keeps the jars for both
    before, after = Figures(list), Figures(list)

    def say_of(name: str) -> Say:
        return lambda text: say(f"{name} {text}")

    with checked_out(revision, directory / "revision") as other:
        for start in range(STARTS):
            with ExitStack() as stacks:
                meters = []
                for name, root, variables in (("A", other, home), ("B", ROOT, {**home, **settings})):
                    stack = private_meter(directory / f"{name}{start}", say_of(name), root=root, settings=variables)
                    meters.append(stacks.enter_context(stack))
                say(f"both are up, start {start + 1} of {STARTS}")
                measure_pairs(meters, plan, (before, after))
                for meter in meters:
                    meter.verify()
    return table(
        revision,
        {
            name: pairs.compare(values, after[name])
            for name, values in before.items()
            if len(values) == len(after[name]) and min(*values, *after[name]) > 0
        },
    )


def measure_pairs(meters: list[Meter], plan: Plan, figures: tuple[Figures, Figures]) -> None:
    """Measure slices on both meters in turn."""
    for meter in meters:
        meter.warm_broker(plan.warm_s_max)
    highest = min(m.governed("warm-up", FIRST_RATE, plan.warm_up_s).settled_late_per_s for m in meters)
    rate = highest * FIXED_SHARE
    for _ in range(plan.pairs_a_start):
        for meter, own in zip(meters, figures, strict=True):
            fixed = meter.open(f"{rate:.0f}/s", rate, plan.slice_s)
            governed = meter.governed("governed", highest, plan.slice_s)
            add_figures(own, fixed, governed)


def add_figures(figures: Figures, fixed: Measured, governed: Measured) -> None:
    """Add the figures of one slice."""
    figures["confirmed/s, governed"].append(governed.settled_late_per_s)
    figures["CPU µs an order, governed"].append(governed.total_cpu_us)
    figures["CPU µs an order, fixed rate"].append(fixed.total_cpu_us)
    for group in GROUPS:
        figures[f"{group} µs an order, governed"].append(governed.cpu_us[group])
    for name, latency in (("accept", fixed.accept), ("settle", fixed.settle)):
        for percentile in ("p50", "p95", "p99"):
            value = getattr(latency, percentile) if latency else None
            if value is not None:
                figures[f"{name} {percentile} ms, fixed rate"].append(value)


def table(revision: str, changes: dict[str, Change]) -> Table:
    """The comparison."""
    count = max((change.pairs for change in changes.values()), default=0)
    rows = []
    for name, c in changes.items():
        verdict = ("more" if c.ratio > 1 else "less") if c.real else "not shown"
        interval = f"{c.low:.3f} to {c.high:.3f}"
        rows.append((name, f"{c.before:,.1f}", f"{c.after:,.1f}", f"{c.ratio:.3f}", interval, verdict))
    text = f"{count} pairs, measured in turn. Intervals hold the true ratio with {pairs.CONFIDENCE:.0%} confidence."
    header = ("", "before", "after", "ratio", "interval", "")
    return Table(f"This checkout against `{revision}`", text, header, rows)
