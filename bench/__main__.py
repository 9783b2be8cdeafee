"""`python -m bench [--quick | --full]`: measure Tandem on a private stack, prove that nothing was lost, report.

Exit codes: 0 a result, 1 something was lost or not proven (no result then), 2 the bench itself could not run.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench import scenarios
from bench.load import GeneratorFailed
from bench.measure import Lost
from bench.plan import DEFAULT, FULL, QUICK
from bench.result import Run
from bench.scenarios import Refuted
from bench.stack import NotReady
from bench.system import System
from dev.settings import ROOT, Settings


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--quick", action="store_const", dest="plan", const=QUICK, default=DEFAULT)
    how_long.add_argument("--full", action="store_const", dest="plan", const=FULL)
    parser.add_argument("--out", type=Path, default=Settings.from_environment().home / "bench")
    chosen = parser.parse_args(arguments)
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=out))
    began = time.monotonic()
    try:
        with System(directory / "stack", root=ROOT) as system:
            say(f"the stack is up after {time.monotonic() - began:.0f} s")
            found = scenarios.run(chosen.plan, system, directory, say)
    except (Lost, Refuted) as error:
        say(f"NO RESULT: {error}")
        return 1
    except (GeneratorFailed, NotReady) as error:
        say(f"the bench could not run: {error}")
        return 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    say(table(found))
    with (out / "history.jsonl").open("ab") as history:
        history.write(msgspec.json.encode(found) + b"\n")
    return 0


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
