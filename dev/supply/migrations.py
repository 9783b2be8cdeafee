"""`python -m dev.supply.migrations`: checks that instances of the older revision can go on while a migration
runs and after it, by what squawk finds in it.

A rolling upgrade runs the migrations first, and then both revisions side by side. So a migration only adds (expand);
what nobody uses any more goes in a later release (contract). OPERATIONS describes it under "Upgrade".

Only `migrate:up` is checked: `migrate:down` is for development. A finding that is right in its place stands in
`EXPLAINED` with the reason, since old files are never edited.
"""

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from common.errors import Fatal
from common.terminal import complain
from dev.settings import ROOT

SQUAWK: Final = Path(sysconfig.get_path("scripts")) / "squawk"
FAILED: Final = 1
UP: Final = re.compile(r"-- migrate:up(?P<options>[^\n]*)\n.*?(?=^-- migrate:down|\Z)", re.DOTALL | re.MULTILINE)
_NEW_TABLE: Final = "the table was new in the same release, so it was empty and nobody used it"
EXPLAINED: Final = {
    ("20261128000011_skipped_records.sql", "ban-drop-constraint"): "the next statement sets a wider one",
    (
        "20261128000011_skipped_records.sql",
        "constraint-missing-not-valid",
    ): "it has a row for each act of an operator",
    ("20261123000005_parked_orders.sql", "require-concurrent-index-creation"): _NEW_TABLE,
    ("20261128000001_orders_by_placed_at.sql", "require-concurrent-index-creation"): "ran before rolling upgrades",
    ("20261128000001_orders_by_placed_at.sql", "require-concurrent-index-deletion"): "ran before rolling upgrades",
}
"""Findings that are no fault, by file and rule."""


class Finding(NamedTuple):
    """What squawk says of one statement."""

    path: Path
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"

    @property
    def is_explained(self) -> bool:
        return (self.path.name, self.rule) in EXPLAINED


class _Reported(msgspec.Struct):
    line: int
    rule_name: str
    message: str
    help: str | None


def migrations(root: Path = ROOT) -> list[Path]:
    """Those of services, common and examples."""
    return sorted([*root.glob("*/migrations/*.sql"), *root.glob("examples/*/migrations/*.sql")])


def findings(path: Path) -> list[Finding]:
    """What squawk finds in a migration, explained or not. Raises `Fatal` if it is no migration, or if squawk fails."""
    text = path.read_text()
    up = UP.search(text)
    if up is None:
        raise Fatal(f"migrations: {path} has no line '-- migrate:up', so dbmate would run nothing of it")
    wrapped = "--no-assume-in-transaction" if "transaction:false" in up["options"] else "--assume-in-transaction"
    done = subprocess.run(
        [SQUAWK, "--config", ROOT / ".squawk.toml", "--reporter", "json", wrapped, "--stdin-filepath", path.name],
        input=text[: up.end()],
        capture_output=True,
        text=True,
    )
    try:
        reported = msgspec.json.decode(done.stdout, type=list[_Reported])
    except msgspec.DecodeError:
        raise Fatal(f"migrations: squawk failed at {path}: {done.stderr.strip() or done.stdout}") from None
    return [Finding(path, r.line + 1, r.rule_name, " ".join(filter(None, (r.message, r.help)))) for r in reported]


def unexplained(paths: Iterable[Path]) -> list[Finding]:
    """What must be mended. Raises `Fatal`."""
    return [finding for path in paths for finding in findings(path) if not finding.is_explained]


def main() -> int:
    try:
        faults = unexplained(migrations())
    except Fatal as error:
        complain(str(error))
        return FAILED
    for fault in faults:
        print(fault)
    if faults:
        complain(
            "migrations: instances of the older revision would not bear this while it runs, or after it; see 'Upgrade' "
            "in docs/OPERATIONS.md, and what is right in its place goes into EXPLAINED in dev/supply/migrations.py"
        )
    return FAILED if faults else 0


if __name__ == "__main__":
    sys.exit(main())
