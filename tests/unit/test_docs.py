"""The documents are tidy: links lead somewhere, files, tests and names that a page mentions exist, and OPERATIONS
lists the log lines that the services write.

docs/evidence/ records runs of a day, on the code of that day: only its links are checked.
"""

import ast
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.alerts.faults import FAULTS as ALERT_FAULTS
from tests.chaos.schedule import NAMES
from tests.crash.points import POINTS
from tests.planted.bugs import BUGS

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?:[\w.-]+/)+|(?:[\w.-]+/)*[\w-]+\.(?:py|md|cfg|yml|toml|sql|html|txt|png)")
TEST = re.compile(r"(…|tests/[\w/]+\.py)::(\w+)")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
RECIPE = re.compile(r"^([a-z][a-z-]*)[^:\n]*:.*\n((?: {4}.*\n)+)", re.MULTILINE)
PROGRAM = re.compile(r"python -E -m (dev ops )?([\w.]+)")
COMMAND = re.compile(r"\bjust ([a-z][a-z-]*)([^\n|;&>#)]*)")
PLANNED: Final = {"just replay --mirrored"}
"""What a second region would need (docs/SCALING.md)."""
NAME_IN_FILE = re.compile(r"`(" + NAME.pattern + r")` \(`([\w/]+\.py)`[),]")


@cache
def tracked() -> frozenset[str]:
    """Every file of the repository and every folder that holds one, relative to its root."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [line for line in listed.stdout.splitlines() if (ROOT / line).exists()]
    return frozenset(files) | {f"{parent}/" for file in files for parent in Path(file).parents}


def pages() -> list[str]:
    return sorted(path for path in tracked() if re.fullmatch(r"(README|SECURITY|(docs|examples)/.+)\.md", path))


def living_pages() -> list[str]:
    """The pages that describe the code as it is."""
    return [page for page in pages() if not page.startswith("docs/evidence/")]


def prose(page: str) -> str:
    return FENCED.sub("", (ROOT / page).read_text())


def quoted(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(path: str) -> bool:
    """A path from the root, or the end of one: `migrations/` and `app.py` are in every service."""
    return any(there == path or there.endswith(f"/{path}") for there in tracked())


@cache
def words(path: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", (ROOT / path).read_text()))


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    """Outside of `tests/`, no folder has more than 16 files."""
    files = Counter(str(Path(path).parent) for path in tracked() if path[-1] != "/" and not path.startswith("tests/"))
    assert {folder: count for folder, count in files.items() if count > 16} == {}


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_somewhere(page: str) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", living_pages())
def test_every_file_and_folder_that_a_page_names_exists(page: str) -> None:
    named = [name for name in quoted(page) if PATH.fullmatch(name) and not name.startswith((".", "/"))]
    assert [name for name in named if not is_there(name)] == []


@pytest.mark.parametrize("page", living_pages())
def test_every_test_that_a_page_names_exists(page: str) -> None:
    missing, file = [], ""
    for path, test in TEST.findall((ROOT / page).read_text()):
        file = file if path == "…" else path
        if not (ROOT / file).exists() or test not in words(file):
            missing.append(f"{file}::{test}")
    assert missing == []


@pytest.mark.parametrize("page", living_pages())
def test_every_name_is_in_the_file_that_a_page_gives_for_it(page: str) -> None:
    missing = []
    for name, file in NAME_IN_FILE.findall(prose(page)):
        if not (ROOT / file).exists() or not set(name.split(".")) <= words(file):
            missing.append(f"{name} ({file})")
    assert missing == []


@cache
def programs() -> dict[str, str]:
    """The source of the program behind each recipe of the justfile; "" where it is not one of ours."""
    sources = {}
    for recipe, body in RECIPE.findall((ROOT / "justfile").read_text()):
        path, files = "", []
        if runs := PROGRAM.search(body):
            path = ("ops." * bool(runs[1]) + runs[2]).replace(".", "/")
            files = [file for file in tracked() if file.startswith((f"{path}.py", f"{path}/")) and file.endswith(".py")]
            files += ["ops/tool.py", "bench/command.py"]
        sources[recipe] = "".join((ROOT / file).read_text() for file in files)
    return sources


@pytest.mark.parametrize("page", living_pages())
def test_every_command_that_a_page_names_exists(page: str) -> None:
    """The recipe, its options, and the subcommands of the operator's tools."""
    unknown = set()
    blocks = [block[0] for block in FENCED.finditer((ROOT / page).read_text())]
    for recipe, rest in COMMAND.findall("\n".join(blocks + quoted(page))):
        source, arguments = programs().get(recipe), rest.split()
        if source is None:
            unknown.add(f"just {recipe}")
        elif source:
            options = set(re.findall(r"--[a-z][a-z-]*", rest)) - {"--help"}
            missing = [name for name in options if f'"{name.replace("--no-", "--")}"' not in source]
            subcommands = re.findall(r'add_parser\("([a-z-]+)"', source)
            if subcommands and arguments and re.fullmatch("[a-z-]+", arguments[0]) and arguments[0] not in subcommands:
                missing.append(arguments[0])
            unknown |= {f"just {recipe} {name}" for name in missing}
    assert unknown <= PLANNED


def test_architecture_names_only_what_the_code_has() -> None:
    code = [path for path in tracked() if path.endswith((".py", ".sql", ".yml")) and not path.startswith("tests/")]
    code_words = frozenset().union(*(words(path) for path in code))
    names = [name for name in quoted("docs/ARCHITECTURE.md") if NAME.fullmatch(name) and not PATH.fullmatch(name)]
    assert [name for name in names if not set(name.split(".")) <= code_words] == []


def test_architecture_says_what_each_table_is_for() -> None:
    migrations = [path for path in tracked() if re.fullmatch(r"\w+/migrations/\w+\.sql", path)]
    made = re.findall(
        r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", "".join((ROOT / path).read_text() for path in migrations)
    )
    section = prose("docs/ARCHITECTURE.md").split("\n## What each table is for\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \w+ \| ([^|]+) \|", section, re.MULTILINE)
    assert sorted(made) == sorted(name for row in rows for name in re.findall(r"`(\w+)`", row))


LOGGED: Final = {"info": "INFO", "warning": "WARNING", "error": "ERROR", "critical": "CRITICAL"}
SERVICES: Final = ("common/", "order/", "payment/", "inventory/")


def messages_in_code() -> set[tuple[str, str]]:
    """The level and the message of each line that the services log, with `…` for the values. Messages made elsewhere
    are left out."""
    messages = set()
    for path in tracked():
        if path.endswith(".py") and path.startswith(SERVICES):
            for node in ast.walk(ast.parse((ROOT / path).read_text())):
                match node:
                    case ast.Call(ast.Attribute(_, name), [ast.Constant(str(text)), *_]) if name in LOGGED:
                        messages.add((LOGGED[name], re.sub(r"\{[^}]*\}", "…", text)))
    return messages


def messages_in_operations() -> set[tuple[str, str]]:
    """The messages of the table of log lines. A level before a message counts for that message alone."""
    section = (ROOT / "docs/OPERATIONS.md").read_text().split("\n## Log lines\n")[1].split("\n## ")[0]
    listed = set()
    for row in re.findall(r"^\| (?=[A-Z]{2})(.+)$", section, re.MULTILINE):
        levels, messages, _ = row.split(" | ", 2)
        for level, message in re.findall(r"(?:\b([A-Z]{4,}) )?`([^`]+)`", messages):
            listed |= {(each, message) for each in ([level] if level else levels.split(", "))}
    return listed


def test_every_log_line_of_operations_is_logged() -> None:
    assert messages_in_operations() - messages_in_code() == set()


def test_every_warning_and_error_of_a_service_is_in_operations() -> None:
    problems = {(level, message) for level, message in messages_in_code() if level != "INFO"}
    assert problems - messages_in_operations() == set()


def test_operations_lists_the_metrics_of_the_code_and_no_others() -> None:
    sources = "".join(
        (ROOT / path).read_text() for path in tracked() if path.endswith(".py") and path.startswith((*SERVICES, "ops/"))
    )
    listed = re.findall(r"\btandem_\w+", (ROOT / "docs/OPERATIONS.md").read_text())
    assert set(re.findall(r'"(tandem_\w+)"', sources)) == set(listed)


def test_planted_bugs_points_and_faults_are_counted_right() -> None:
    guarantees, readme = prose("docs/GUARANTEES.md"), prose("README.md")
    assert f"plants {len(BUGS)} bugs" in guarantees
    assert f"({len(BUGS)} bugs that" in readme
    assert f"at {len(POINTS)} named points" in guarantees
    assert f"at {len(POINTS)} points" in readme
    assert f"There are {len(NAMES)} kinds." in guarantees
    assert f"in {len(ALERT_FAULTS)} ways" in prose("docs/OPERATIONS.md")


def test_decisions_are_numbered_without_gaps_and_all_indexed() -> None:
    decisions = sorted(Path(page) for page in pages() if re.search(r"/decisions/\w+/\d{4}-", page))
    numbers = sorted(int(path.name[:4]) for path in decisions)
    assert numbers == list(range(1, len(numbers) + 1))
    index = set(LINK.findall(prose("docs/decisions/README.md")))
    assert {f"{path.parent.name}/{path.name}" for path in decisions} <= index
