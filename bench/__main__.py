"""Measure Tandem, prove that nothing was lost, and report: `python -m bench [--quick | --full] [--against REV]`."""

import contextlib
import sys
from pathlib import Path
from typing import Final

import msgspec

from bench import planted
from bench.command import out_directory, parser, run, say, shown
from bench.measure.result import Run
from bench.report.tables import markdown, page, tables_of
from bench.run import against, scenarios
from bench.run.plan import DEFAULT, FULL, QUICK
from bench.stack import watched

HISTORY_SHOWN: Final = 30
PRINTED: Final = ("headline", "cold", "by_rate")


def main(arguments: list[str]) -> int:
    options = parser("bench", __doc__)
    how_long = options.add_mutually_exclusive_group()
    how_long.add_argument(
        "--quick",
        action="store_const",
        dest="plan",
        const=QUICK,
        default=DEFAULT,
        help="about three minutes instead of nine",
    )
    how_long.add_argument("--full", action="store_const", dest="plan", const=FULL, help="about forty minutes")
    options.add_argument(
        "--against",
        metavar="REV",
        type=against.revision,
        help="compare this checkout with a revision, both measured in turn",
    )
    options.add_argument(
        "--watched",
        action="store_true",
        help=f"with --against: put {watched.TEXT} beside this checkout",
    )
    options.add_argument("--planted", choices=planted.FAULTS, help="plant a fault in this checkout, to see it caught")
    options.add_argument(
        "--out", type=Path, default=out_directory(), help="where the report goes (bench in TANDEM_HOME)"
    )
    chosen = options.parse_args(arguments)
    if chosen.watched and not chosen.against:
        options.error("--watched compares, so it needs --against REV")
    settings = planted.settings(chosen.planted)

    def measure(directory: Path) -> None:
        result = scenarios.run(chosen.plan, directory, say, settings)
        tables = tables_of(result)
        print(markdown(tables[name] for name in PRINTED))
        if chosen.planted:
            say(f"no report: these are the figures with a {chosen.planted} planted")
        else:
            write(result, chosen.out)

    def compare(directory: Path) -> None:
        compared = against.run(chosen.against, chosen.plan, directory, say, settings, is_watched=chosen.watched)
        comparison = markdown([compared])
        (chosen.out / "against.md").write_text(comparison)
        print(comparison)

    return run(compare if chosen.against else measure, chosen.out)


def write(result: Run, out: Path) -> None:
    """Write the line in the history, the Markdown summary and the HTML report."""
    path = out / "history.jsonl"
    before = runs_before(path, result.plan)
    with path.open("ab") as history:
        history.write(msgspec.json.encode(result) + b"\n")
    (out / "summary.md").write_text(markdown(tables_of(result, before[-1] if before else None).values()))
    (out / "report.html").write_text(page(result, before))
    say(f"written to {shown(out)}: report.html, summary.md, and a line in history.jsonl")


def runs_before(path: Path, plan: str) -> list[Run]:
    """The last runs of a plan in the history, oldest first, without those that another revision wrote differently."""
    runs = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(msgspec.ValidationError):
            runs.append(msgspec.json.decode(line, type=Run))
    return [run for run in runs if run.plan == plan][-HISTORY_SHOWN:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
