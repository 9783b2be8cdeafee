"""`python -m bench [--quick | --full] [--against REV]`: measure Tandem, prove that nothing was lost, report.

Exit codes: 0 a result, 1 something was lost or not proven (no result then), 2 the bench itself could not run.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bench import against, full, planted, scenarios
from bench.load.runner import GeneratorFailed
from bench.measure import replaced
from bench.measure.meter import Lost, Meter
from bench.measure.result import Run
from bench.plan import DEFAULT, FULL, QUICK, Plan
from bench.report import html, markdown
from bench.scenarios import Refuted
from bench.stack.private import NotReady
from bench.stack.system import System
from dev.settings import ROOT, Settings

HISTORY_SHOWN = 30
DOCS = ROOT / "docs"
FIGURES_BEGIN = "<!-- figures: written by `just bench --full --docs` -->"
FIGURES_END = "<!-- end of figures -->"


_began = time.monotonic()


def say(text: str) -> None:
    """A line on the terminal, with the seconds since the start."""
    print(f"{time.monotonic() - _began:5.0f} s  {text}", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--quick", action="store_const", dest="plan", const=QUICK, default=DEFAULT)
    how_long.add_argument("--full", action="store_const", dest="plan", const=FULL)
    parser.add_argument("--against", metavar="REV", help="compare this checkout with a revision, A B A B")
    parser.add_argument("--planted", choices=planted.FAULTS, help="with a fault in this checkout, which must be caught")
    parser.add_argument("--docs", action="store_true", help="also put the result into docs/")
    parser.add_argument("--out", type=Path, default=Settings.from_environment().home / "bench")
    chosen = parser.parse_args(arguments)
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=out))
    try:
        if chosen.against:
            slices = against.BY_PLAN[chosen.plan.name]
            changes = against.run(chosen.against, slices, directory, say, planted.settings(chosen.planted))
            comparison = against.markdown(chosen.against, changes)
            (out / "against.md").write_text(comparison)
            print(comparison)
            return 0
        found = measure(chosen.plan, directory, planted.settings(chosen.planted))
    except (Lost, Refuted) as error:
        say(f"NO RESULT: {error}")
        return 1
    except (GeneratorFailed, NotReady) as error:
        say(f"the bench could not run: {error}")
        return 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(table(found))
    if chosen.planted:
        say(f"not kept: these are figures with a {chosen.planted} in it")
        return 0
    write(found, out)
    if chosen.docs:
        put_into_docs(out)
    return 0


def measure(plan: Plan, directory: Path, settings: Mapping[str, str]) -> Run:
    """All parts of a plan, each on the stack it needs, one stack at a time."""
    with System(directory / "stack", root=ROOT, settings=settings) as system:
        say("the stack is up")
        found = scenarios.run(plan, system, directory, say)
    if not plan.chain_s:
        return found
    (directory / "growth").mkdir()
    with System(directory / "growth/stack", root=ROOT, settings=settings) as system:
        meter = Meter(system, directory / "growth", say)
        grown = full.growth(meter, plan, found.confirmed.confirmed_per_s, say)
        scenarios.verify(system, meter.accepted_file, meter.orders)
    chain = replaced.measure(directory, ROOT, plan.chain_s, say)
    return msgspec.structs.replace(found, growth=grown, chain=chain, seconds=time.monotonic() - _began)


def write(found: Run, out: Path) -> None:
    """The line in the history, the Markdown summary, the HTML report."""
    path = out / "history.jsonl"
    before = runs_before(path, found.plan)
    with path.open("ab") as history:
        history.write(msgspec.json.encode(found) + b"\n")
    (out / "summary.md").write_text(markdown.summary(found, before[-1] if before else None))
    (out / "report.html").write_text(html.page(found, before))
    say(f"\nwritten to {out}: report.html, summary.md, and a line in history.jsonl")


def put_into_docs(out: Path) -> None:
    """Make this the run that docs/PERFORMANCE.md shows, with its report as the example."""
    page = DOCS / "PERFORMANCE.md"
    before, _, rest = page.read_text().partition(FIGURES_BEGIN)
    _, _, after = rest.partition(FIGURES_END)
    summary = (out / "summary.md").read_text()
    page.write_text(f"{before}{FIGURES_BEGIN}\n\n{summary}\n{FIGURES_END}{after}")
    shutil.copyfile(out / "report.html", DOCS / "bench-report.html")
    say(f"put into {page} and bench-report.html beside it")


def runs_before(path: Path, plan: str) -> list[Run]:
    """The last runs of a plan in the history, oldest first; lines that another revision wrote differently are left."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(msgspec.ValidationError):
            found.append(msgspec.json.decode(line, type=Run))
    return [run for run in found if run.plan == plan][-HISTORY_SHOWN:]


def table(run: Run) -> str:
    """The figures that matter most, as text."""
    c, r = run.confirmed, run.ratios
    rows = [
        ("echo", f"{run.ceilings.echo.per_s:,.0f}/s", f"{run.ceilings.echo.cpu_us:.1f} us"),
        ("accept, consumers stopped", f"{run.accept.accepted_per_s:,.0f}/s", f"{r.accept_to_echo:.2f} of echo"),
        ("confirmed", f"{c.confirmed_per_s:,.0f}/s", f"{r.confirmed_to_echo:.2f} of echo"),
        ("CPU of a confirmed order", f"{c.total_cpu_us:.0f} us", f"{r.cpu_of_confirmed_to_echo:.1f} x echo"),
        *((f"  {group}", f"{us:.1f} us", "") for group, us in c.cpu_us.items()),
    ]
    return "\n".join(f"{name:<28} {figure:>14}  {of}" for name, figure, of in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
