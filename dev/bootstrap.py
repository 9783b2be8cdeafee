"""Makes .venv from requirements-dev.txt; called by justw when they differ.

It runs before anything is installed, so it uses the standard library only. The stamp is written last: after an
interrupted run there is none, and the next run starts anew. A second run at the same time waits for the first one.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.txt"
VENV = ROOT / ".venv"
STAMP = VENV / "installed"
HASHED = ("--require-hashes", "--only-binary=:all:")
MISLEADING = re.compile(
    "PIP_(TARGET|PREFIX|ROOT|USER|DRY_RUN|NO_DEPS|CONSTRAINT|REQUIREMENT|NO_BINARY|PYTHON|REPORT|QUIET)"
)
"""Variables by which pip would install elsewhere, or something else. Those that name an index or a proxy stay."""
REPORT_S = 10
UNREACHABLE = re.compile(
    "ProxyError|NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|SSLError"
)
"""The errors of pip's HTTP client that mean that the index, or the proxy on the way to it, does not answer."""


def main() -> int:
    with LOCK.open() as lock:
        wait_for(lock)
        # A venv cannot be moved, as its scripts contain its path. So the stamp has the path too, and justw compares it.
        expected = f"{ROOT} {lock.read()}"
        stamp = STAMP.read_text() if STAMP.exists() else ""
        usable = stamp.startswith(f"{ROOT} ") and works(VENV)
        if usable and stamp == expected:
            return 0
        started = time.monotonic()
        if usable:
            STAMP.unlink()
        else:
            print(f"justw: making {VENV} with Python {sys.version.split()[0]}", flush=True)
            shutil.rmtree(VENV, ignore_errors=True)
            # Its output is kept back: an interrupt would show its traceback.
            venv = [sys.executable, "-I", "-m", "venv", str(VENV)]
            with reporting():
                made = subprocess.run(venv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if made.returncode:
                print(f"{made.stdout}justw: cannot make {VENV}; see above", flush=True)
                return 2
        with reporting():
            installed = install(len(re.findall(r"^\S+==", expected, re.MULTILINE)))
        if not installed:
            return 2
        STAMP.write_text(expected)
        print(f"justw: .venv is ready after {time.monotonic() - started:.0f} s", flush=True)
    return 0


@contextmanager
def reporting() -> Iterator[None]:
    """Print every `REPORT_S` seconds that the work goes on."""
    started, done = time.monotonic(), threading.Event()

    def report() -> None:
        while not done.wait(REPORT_S):
            print(f"justw: still working after {time.monotonic() - started:.0f} s", flush=True)

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def wait_for(lock: IO[str]) -> None:
    """Wait until no other run holds the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("justw: another run is making .venv; waiting for it", flush=True)
        # A blocking flock would not see an interrupt that comes just before it.
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.2)


def works(venv: Path) -> bool:
    """False when the Python of the venv has been removed."""
    python = venv / "bin/python"
    return (
        python.exists()
        and subprocess.run([python, "-I", "-m", "pip", "--version"], capture_output=True).returncode == 0
    )


def install(packages: int) -> bool:
    """Run pip, and print its progress now and then."""
    command = [f"{VENV}/bin/python", "-I", "-m", "pip", "install", "--no-user", "--no-input"]
    pip = subprocess.Popen(
        [*command, *HASHED, "--disable-pip-version-check", "--progress-bar=off", "-r", str(LOCK)],
        env={name: value for name, value in os.environ.items() if not MISLEADING.fullmatch(name)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert pip.stdout is not None
    log: list[str] = []
    collected = 0
    for line in pip.stdout:
        log.append(line)
        if line.startswith("Collecting "):
            collected += 1
            if collected % 10 == 0:
                print(f"justw: {collected} of about {packages} packages found", flush=True)
        elif line.lstrip().startswith("Downloading ") and " MB)" in line:
            print(f"justw: {line.strip()}", flush=True)
        elif line.startswith("Installing collected packages"):
            print("justw: installing them", flush=True)
    if pip.wait() == 0:
        return True
    if kind := unreachable(log):
        remedy = "check the network, the proxy (https_proxy) and pip's settings, and run the same command again"
        print(f"justw: the package index cannot be reached ({kind}); {remedy}", flush=True)
        return False
    print("".join(log[-20:]), end="")
    print(f"justw: pip could not install {LOCK.name}; see above, and run the same command again", flush=True)
    return False


def unreachable(log: Sequence[str]) -> str | None:
    """The kind of network error that the last lines of pip's output tell of, or None."""
    return next((found[0] for line in reversed(log[-20:]) if (found := UNREACHABLE.search(line))), None)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("justw: interrupted; the same command starts anew", flush=True)
        sys.exit(130)
    except OSError as error:
        sys.exit(f"justw: cannot make {VENV}: {error}")
