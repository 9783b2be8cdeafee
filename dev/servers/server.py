"""A server that belongs to this checkout: prepared in a directory, run as a child, stopped, killed or frozen.

The native stack prepares one and lets supervisor run its command; the tests start and stop it directly.
"""

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

import psutil

from dev.settings import ROOT

MARKER = "TANDEM_STACK"  # the environment variable by which `up` and `doctor` recognise processes left over


class StartError(Exception):
    """A server ended, or was not ready in time."""


class Server(ABC):
    name: str
    stop_signal: signal.Signals = signal.SIGTERM

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory.with_name(f"{directory.name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Makes the directory, its configuration and what else the command needs; called before each start."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def unready(self) -> str | None:
        """What is missing until it serves; None when it does."""

    def environment(self) -> dict[str, str]:
        return {**os.environ, MARKER: os.environ.get(MARKER, str(self.directory))}

    def start(self, timeout_s: float = 120) -> None:
        """Returns when the server serves."""
        process = self.launch()
        deadline = time.monotonic() + timeout_s
        while missing := self.unready():
            if process.poll() is not None:
                raise StartError(f"{self.name} ended with {process.returncode} at its start:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                self.kill()
                raise StartError(f"{self.name}: {missing} after {timeout_s:.0f} s:\n{tail(self.log)}")
            time.sleep(0.05)

    def launch(self) -> "subprocess.Popen[bytes]":
        """Starts it without waiting until it serves."""
        self.prepare()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                cwd=ROOT,
                # Not a session: `nice` counts within one only, as under supervisord (`sched_autogroup`).
                process_group=0,
            )
        return self.process

    def stop(self, timeout_s: float = 60) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.resume()
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the server and all its children, as when the machine loses power, save for the page cache."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def pause(self) -> None:
        """Freezes the server with all its children; connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            signal_tree(self.process.pid, number)


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Signals a process, then its descendants. (PostgreSQL's are process groups of their own: killpg misses them.)"""
    try:
        root = psutil.Process(pid)
        if number == signal.SIGKILL:
            root.suspend()  # else it could replace a child between the listing and its end
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.send_signal(number)
        except psutil.NoSuchProcess:
            continue
    if number == signal.SIGKILL:
        psutil.wait_procs(family[1:], timeout=5)


def works_in(process: psutil.Process, directory: Path) -> bool:
    """PostgreSQL's processes all work in the directory of their cluster, which tells whose they are."""
    try:
        return Path(process.cwd()) == directory.resolve()
    except (psutil.Error, OSError):
        return False


def size_of(log: Path) -> int:
    """How far a log has been written; 0 for one that is not there yet."""
    return log.stat().st_size if log.exists() else 0


def has_met_taken_port(log: Path, since: int) -> bool:
    """Whether a program has said, from byte `since` of its log on, that an address is in use. All of ours use the
    operating system's words."""
    if not log.exists():
        return False
    with log.open("rb") as file:
        file.seek(max(since, log.stat().st_size - 64_000))
        return b"address already in use" in file.read().lower()


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, indented."""
    if not log.exists():
        return f"    ({log} does not exist)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64_000))
        text = file.read().decode(errors="replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
