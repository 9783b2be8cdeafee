"""The result of a run: a row for each fault, the totals, and the evidence kept after a failure."""

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dev.servers.postgres import binary
from dev.settings import DATABASES
from ops.tool import print_table
from tests.chaos.arena import Arena

DUMP_S: Final = 300
WRONG_SHOWN: Final = 10


@dataclass
class Row:
    """One fault, as it went. Times in seconds; `at_s` from the start of the run."""

    kind: str
    target: str
    at_s: float
    lasted_s: float = 0.0
    recovered_s: float | None = None
    effect: str = ""
    verdict: str = ""
    failed: bool = False

    def cells(self) -> tuple[str, ...]:
        recovered = "-" if self.recovered_s is None else f"{self.recovered_s:.1f}"
        verdict = f"FAILED: {self.verdict}" if self.failed else self.verdict
        return (self.kind, self.target, f"{self.at_s:.0f}", f"{self.lasted_s:.1f}", recovered, self.effect, verdict)


@dataclass
class Report:
    rows: list[Row] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    """Totals that have to be 0."""
    answers: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    verified: str = ""
    documented: str = ""
    """What of the log was compared with the AsyncAPI document."""
    proved: bool = False

    @property
    def failures(self) -> list[str]:
        messages = [f"{row.kind} {row.target}: {row.verdict}" for row in self.rows if row.failed]
        messages += [f"{count} {label}" for label, count in self.totals.items() if count]
        messages += self.wrong[:WRONG_SHOWN]
        if len(self.wrong) > WRONG_SHOWN:
            messages.append(f"… and {len(self.wrong) - WRONG_SHOWN} more wrong answers")
        return messages if self.proved else [*messages, "verify did not prove it"]

    def show(self) -> None:
        show_rows(self.rows)
        print(self.verified.rstrip())
        print(f"as documented: {self.documented}")
        print("clients: " + ", ".join(f"{count} {label}" for label, count in self.answers.items()))
        times = sorted(row.recovered_s for row in self.rows if row.recovered_s is not None)
        if times:
            kinds = len({row.kind for row in self.rows})
            print(
                f"{len(self.rows)} faults of {kinds} kinds; time to recover: median {times[len(times) // 2]:.1f} s, "
                f"longest {times[-1]:.1f} s"
            )
        print(", ".join(f"{count} {label}" for label, count in self.totals.items()), flush=True)


def show_rows(rows: Iterable[Row]) -> None:
    heading = ("fault", "target", "at s", "lasted s", "recovered s", "effect", "verdict")
    print_table(heading, [row.cells() for row in rows])


def keep_evidence(arena: Arena, report: Report, command: str) -> None:
    """Write beside the logs what is needed to look into a failure."""
    _write(arena.directory, "verify.txt", [report.verified])
    _write(arena.directory, "faults.txt", [" | ".join(row.cells()) for row in report.rows])
    _write(arena.directory, "failures.txt", [*report.failures, *report.wrong, f"again: {command}"])
    for database in DATABASES:
        dump = ["--format=custom", f"--file={arena.directory / database}.dump", arena.postgres.url(database)]
        subprocess.run([str(binary("pg_dump")), *dump], timeout=DUMP_S, check=False)


def _write(directory: Path, name: str, lines: Sequence[str]) -> None:
    (directory / name).write_text("".join(f"{line}\n" for line in lines))
