"""The pages: what is vendored is unchanged, and its files keep the rules of its content security policy."""

import hashlib
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
STATIC: Final = ("ops/console/static", "common/http/contract/static", "common/asyncapi")
OWN: Final = sorted(
    path
    for folder in STATIC
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".js", ".html", ".css", ".svg") and path.parent.name != "vendor"
)
FORBIDDEN: Final = {
    "html made of a text": r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySetInnerHTML",
    "code made of a text": r"\beval\(|new Function\b|set(?:Timeout|Interval)\(\s*[\"'`]",
    "an address outside": r"https?://(?!www\.w3\.org/2000/svg)|[\"'`(]//",
    "a style or a script in the page": r"<[^>]*\s(?:style|on[a-z]+)=\"|<style|<script>",
}


VENDORED: Final = (
    *(f"{folder}/vendor" for folder in STATIC),
    "tests/browser/vendor",
    "tests/charts/vendor",
    "tests/unit/vendor",
)


@pytest.mark.parametrize("folder", [ROOT / folder for folder in VENDORED], ids=VENDORED)
def test_vendored_files_are_as_listed(folder: Path) -> None:
    listed = dict(
        re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.MULTILINE)
    )
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "README.md"
    }
    assert there == listed
    assert any("LICENSE" in name for name in there)


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_the_page_keeps_the_rules(rule: str) -> None:
    assert {path.parent.relative_to(ROOT).as_posix() for path in OWN} >= set(STATIC)
    broken = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in OWN
        for match in re.finditer(FORBIDDEN[rule], path.read_text())
    ]
    assert broken == []
