"""Plants a bug in a copy of the checkout and runs the checks that have to find it. The checkout itself is not touched.

A bug is found when a test fails. A test that cannot be collected or set up, or that does not end, has found nothing.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from dev.settings import ROOT, Settings
from tests.planted.bugs import Bug

CHECK_TIMEOUT_S: Final = 240.0
CLEANUP_S: Final = 60.0
PATIENCE_S: Final = 60.0
"""How long a check waits for what a bug may keep from happening. It must end within `CHECK_TIMEOUT_S`."""
_FAILED: Final = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)


class Finding(NamedTuple):
    """The result for a bug. `caught_by` is the test that failed, or empty; `output` is what pytest printed."""

    caught_by: str
    seconds: float
    output: str


class NotPlanted(Exception):
    """The text that a bug replaces is not in its file exactly once."""


def plant(bug: Bug, checkout: Path) -> None:
    """Write the bug into this checkout. Raises `NotPlanted`."""
    path = checkout / bug.file
    text = path.read_text()
    if (times := text.count(bug.old)) != 1:
        raise NotPlanted(
            f"planted bug {bug.name!r}: its text occurs {times} times in {bug.file}; when the code changes, carry the "
            f"bug along in tests/planted/bugs.py:\n{bug.old}"
        )
    path.write_text(text.replace(bug.old, bug.new))


@contextmanager
def copy_of_checkout() -> Iterator[Path]:
    """The files that git knows or would add, in a directory of their own."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="planted-", ignore_cleanup_errors=True) as directory:
        copy = Path(directory) / "checkout"
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        yield copy


def hunt(bug: Bug) -> Finding:
    """Plant the bug and run its checks, the cheapest first, until one fails."""
    began = time.monotonic()
    output = ""
    with copy_of_checkout() as copy:
        plant(bug, copy)
        for check in bug.checks:
            failed, output = run(copy, check)
            if failed:
                return Finding(failed, time.monotonic() - began, output)
    return Finding("", time.monotonic() - began, output)


def run(checkout: Path, *checks: str) -> tuple[str, str]:
    """Run checks until a test fails; returns that test, or nothing, and what pytest printed."""
    timeout_s = CHECK_TIMEOUT_S * (1 + len(checks) // 10)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rf", "--tb=short", "--no-header", "-p", "no:cacheprovider"]
    child = subprocess.Popen(
        [*command, f"--basetemp={checkout.parent / 'tmp'}", *checks],
        cwd=checkout,
        # The jars are the checkout's; everything else that a stack makes is in the copy.
        env={
            **os.environ,
            "TANDEM_HOME": str(Settings.from_environment().home),
            "TANDEM_TEST_PATIENCE_S": str(PATIENCE_S),
            "COLUMNS": "400",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        output = _give_up(child)
        return "", f"{output}\nnot ended within {timeout_s:.0f} s"
    except BaseException:
        _give_up(child)
        raise
    failure = _FAILED.search(output)
    return failure.group(1) if failure else "", output


def passed(output: str) -> bool:
    """Whether all tests of a run have passed."""
    return re.search(r"^\d+ passed in ", output, re.MULTILINE) is not None


def _give_up(child: "subprocess.Popen[str]") -> str:
    """Let pytest stop the processes that it has started."""
    child.send_signal(signal.SIGINT)
    try:
        output, _ = child.communicate(timeout=CLEANUP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
    return output
