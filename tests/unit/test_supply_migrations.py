"""A migration that an instance of the older revision would not bear is found before it runs."""

from pathlib import Path

import pytest

from common.errors import Fatal
from dev.settings import ROOT
from dev.supply import migrations


def write(folder: Path, statements: str, options: str = "") -> Path:
    path = folder / "20991231000000_planted.sql"
    path.write_text(f"-- migrate:up{options}\n\n{statements}\n\n-- migrate:down\n\nDROP TABLE orders;\n")
    return path


def test_every_migration_of_the_checkout_is_borne_by_the_older_revision() -> None:
    paths = migrations.migrations()
    assert {path.relative_to(ROOT).parts[0] for path in paths} >= {
        "common",
        "order",
        "payment",
        "inventory",
        "examples",
    }
    assert migrations.unexplained(paths) == []


def test_nothing_is_explained_that_is_not_found() -> None:
    found = {(f.path.name, f.rule) for path in migrations.migrations() for f in migrations.findings(path)}
    assert migrations.EXPLAINED.keys() <= found


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("ALTER TABLE orders RENAME COLUMN status TO state;", "renaming-column"),
        ("ALTER TABLE orders RENAME TO bookings;", "renaming-table"),
        ("ALTER TABLE orders DROP COLUMN timeline;", "ban-drop-column"),
        ("DROP TABLE requests;", "ban-drop-table"),
        ("ALTER TABLE orders ADD COLUMN note text NOT NULL;", "adding-required-field"),
        ("ALTER TABLE orders ALTER COLUMN reason SET NOT NULL;", "adding-not-nullable-field"),
        ("ALTER TABLE orders ALTER COLUMN partition TYPE bigint;", "changing-column-type"),
        ("CREATE INDEX orders_by_reason ON orders (reason);", "require-concurrent-index-creation"),
        ("ALTER TABLE orders ADD CONSTRAINT dear CHECK (amount > 1);", "constraint-missing-not-valid"),
        (
            "ALTER TABLE orders ADD COLUMN note text; CREATE INDEX CONCURRENTLY by_note ON orders (note);",
            "ban-concurrent-index-creation-in-transaction",
        ),
    ],
)
def test_a_bad_migration_is_found(tmp_path: Path, statement: str, rule: str) -> None:
    found = migrations.unexplained([write(tmp_path, statement)])
    assert rule in {finding.rule for finding in found}
    assert all(finding.line == 3 for finding in found)


@pytest.mark.parametrize(
    ("statements", "options"),
    [
        ("ALTER TABLE orders ADD COLUMN note text;", ""),
        ("ALTER TABLE orders ADD CONSTRAINT dear CHECK (amount > 1) NOT VALID;", ""),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_by_reason ON orders (reason);", " transaction:false"),
    ],
)
def test_a_migration_that_only_adds_is_fine(tmp_path: Path, statements: str, options: str) -> None:
    assert migrations.findings(write(tmp_path, statements, options)) == []


def test_what_cannot_be_checked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "20991231000000_planted.sql"
    path.write_text("CREATE TABLE notes (note text);\n")
    with pytest.raises(Fatal, match=r"has no line '-- migrate:up', so dbmate would run nothing of it"):
        migrations.findings(path)
    monkeypatch.setattr(migrations, "SQUAWK", "false")
    with pytest.raises(Fatal, match="squawk failed at"):
        migrations.findings(write(tmp_path, "CREATE TABLE notes (note text);"))
