"""`just bench --against REV`: this checkout and another revision, measured in turn, A B A B.

Both run at once, each with its own services, broker and databases, as that revision configures them; the load goes to
one after the other in short slices, and the one that waits costs a few percent of a core, the same for both. The load
generator is this checkout's for both. Halfway both are started anew, since some differences are those of one start.
"""

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench import scenarios
from bench.measure import pairs
from bench.measure.meter import Measured, Meter
from bench.measure.pairs import Change
from bench.measure.rates import FIRST_RATE, settled_late_per_s
from bench.stack import warm
from bench.stack.processes import GROUPS
from bench.stack.system import System
from dev.settings import ROOT, Settings

STARTS: Final = 2
FIXED_SHARE: Final = 0.5


class Slices(Struct, frozen=True, kw_only=True):
    """How long a comparison takes."""

    pairs_a_start: int
    warm_s_max: float
    warm_up_s: float
    slice_s: float


QUICK: Final = Slices(pairs_a_start=3, warm_s_max=20, warm_up_s=5, slice_s=5)
DEFAULT: Final = Slices(pairs_a_start=5, warm_s_max=45, warm_up_s=10, slice_s=8)
FULL: Final = Slices(pairs_a_start=10, warm_s_max=90, warm_up_s=20, slice_s=15)
BY_PLAN: Final = {"quick": QUICK, "default": DEFAULT, "full": FULL}


@contextmanager
def checked_out(revision: str, directory: Path) -> Iterator[Path]:
    """A worktree of the revision, with this checkout's bench in it."""
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(directory), revision], cwd=ROOT, check=True)
    try:
        shutil.rmtree(directory / "bench", ignore_errors=True)
        shutil.copytree(ROOT / "bench", directory / "bench")
        yield directory
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(directory)], cwd=ROOT, check=False)


def run(
    revision: str, slices: Slices, directory: Path, say: Callable[[str], None], settings: Mapping[str, str]
) -> dict[str, Change]:
    """Each figure's change from the revision to this checkout with `settings`. Raises `Lost` or `Refuted`."""
    # The jars are kept where this checkout has them.
    home = {"TANDEM_HOME": str(Settings.from_environment().home)}
    figures: tuple[dict[str, list[float]], dict[str, list[float]]] = (defaultdict(list), defaultdict(list))
    with checked_out(revision, directory / "revision") as other:
        for start in range(STARTS):
            with ExitStack() as stacks:
                meters = []
                for name, root, given in (("A", other, home), ("B", ROOT, {**home, **settings})):
                    own = directory / f"{name}{start}"
                    own.mkdir()
                    system = stacks.enter_context(System(own / "stack", root=root, settings=given))
                    meters.append(Meter(system, own, lambda text, name=name: say(f"{name} {text}")))  # type: ignore[misc]
                say(f"both are up, start {start + 1} of {STARTS}")
                _measure(meters, slices, figures)
                for meter in meters:
                    scenarios.verify(meter.system, meter.accepted_file, meter.orders)
    before, after = figures
    found = {}
    for name, values in before.items():
        if len(values) == len(after[name]) and min(*values, *after[name]) > 0:
            found[name] = pairs.compare(values, after[name])
    return found


def _measure(
    meters: list[Meter], slices: Slices, figures: tuple[dict[str, list[float]], dict[str, list[float]]]
) -> None:
    for meter in meters:
        warm.broker_of(meter.system, slices.warm_s_max)
    first = min(settled_late_per_s(m.governed("warm-up", FIRST_RATE, slices.warm_up_s)) for m in meters)
    rate = first * FIXED_SHARE
    for _ in range(slices.pairs_a_start):
        for meter, found in zip(meters, figures, strict=True):
            fixed = meter.open(f"{rate:.0f}/s", rate, slices.slice_s)
            governed = meter.governed("governed", first, slices.slice_s)
            _enter(found, fixed, governed)


def _enter(figures: dict[str, list[float]], fixed: Measured, governed: Measured) -> None:
    """The figures of one slice."""
    figures["confirmed/s, governed"].append(settled_late_per_s(governed))
    figures["CPU µs an order, governed"].append(governed.total_cpu_us)
    figures["CPU µs an order, fixed rate"].append(fixed.total_cpu_us)
    for group in GROUPS:
        figures[f"  {group}, governed"].append(governed.cpu_us[group])
    for name, latency in (("accept", fixed.accept), ("settle", fixed.settle)):
        for percentile in ("p50", "p95", "p99"):
            value = getattr(latency, percentile) if latency else None
            if value is not None:
                figures[f"{name} {percentile} ms, fixed rate"].append(value)


def markdown(revision: str, changes: dict[str, Change]) -> str:
    """The comparison as a table."""
    count = max((change.pairs for change in changes.values()), default=0)
    lines = [
        f"## This checkout against `{revision}`",
        "",
        f"{count} pairs, measured in turn; intervals hold the true ratio with {pairs.CONFIDENCE:.0%} confidence.",
        "",
        "| | before | after | ratio | interval | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, c in changes.items():
        verdict = ("more" if c.ratio > 1 else "less") if c.real else "not shown"
        lines.append(
            f"| {name.replace('  ', '&nbsp;&nbsp;')} | {c.before:,.1f} | {c.after:,.1f} | {c.ratio:.3f} "
            f"| {c.low:.3f} to {c.high:.3f} | {verdict} |"
        )
    return "\n".join(lines) + "\n"
