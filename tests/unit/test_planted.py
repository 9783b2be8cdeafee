"""The planted bugs keep up with the code: `just planted-bugs` runs them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dev.settings import ROOT
from tests.planted.bugs import BUGS, Bug
from tests.planted.plant import NotPlanted, plant


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_a_bug_can_be_planted_and_its_checks_exist(bug: Bug, tmp_path: Path) -> None:
    """A change of a line in which a bug is planted fails here, with the request to carry the bug along."""
    (tmp_path / bug.file).parent.mkdir(parents=True)
    (tmp_path / bug.file).write_text((ROOT / bug.file).read_text())
    plant(bug, tmp_path)
    ast.parse((tmp_path / bug.file).read_text(), bug.file)
    for check in bug.checks:
        file, _, test = check.partition("::")
        assert f"def {test}" in (ROOT / file).read_text(), f"{bug.name}: there is no {check}"


def test_a_text_that_does_not_occur_exactly_once_cannot_be_replaced(tmp_path: Path) -> None:
    bug = Bug("twice", "nothing", "file", "text", "other", ())
    for text in ("", "text text"):
        (tmp_path / "file").write_text(text)
        with pytest.raises(NotPlanted, match="carry the bug along"):
            plant(bug, tmp_path)


def test_a_bug_names_nothing_that_does_not_exist(tmp_path: Path) -> None:
    """Otherwise a test would fail for the missing name and not for the bug."""
    for bug in BUGS:
        path = tmp_path / bug.name / bug.file
        path.parent.mkdir(parents=True)
        path.write_text((ROOT / bug.file).read_text())
        plant(bug, tmp_path / bug.name)
    undefined = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821", str(tmp_path)]
    done = subprocess.run(undefined, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_names_are_unique() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)
