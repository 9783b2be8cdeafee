"""What the bench's commands share: a directory for each run, a clock on what they print, and exit codes.

Exit codes: 0 a result, 1 something was lost or not proved (there is no result then), 2 the bench itself could not run.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.load.runner import GeneratorFailed
from bench.measure.measured import NoResult
from bench.stack.private import StackFailed
from common.errors import TandemError
from dev.settings import ROOT, Settings

_began = time.monotonic()


def say(text: str) -> None:
    """Print a line, with the seconds since the start."""
    print(f"{time.monotonic() - _began:5.0f} s  {text}", flush=True)


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for `just NAME`, described by the first line of a module's docstring."""
    return argparse.ArgumentParser(prog=f"just {name}", description=(doc or "").splitlines()[0])


def out_directory() -> Path:
    """Where the bench leaves its reports."""
    return Settings.from_environment().home / "bench"


def shown(path: Path) -> Path:
    """A path as it is printed: without the directory of the checkout."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def run(command: Callable[[Path], int | None], out: Path | None = None) -> int:
    """Run a command in a directory that is removed after it. Returns the exit code."""
    out = out or out_directory()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=out, ignore_cleanup_errors=True) as directory:
        try:
            return command(Path(directory)) or 0
        except NoResult as error:
            say(f"NO RESULT: {error}")
            return 1
        except (GeneratorFailed, StackFailed, TandemError, subprocess.CalledProcessError) as error:
            say(f"the bench could not run: {error}")
            return 2
