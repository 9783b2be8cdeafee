"""A process of a stack: prepared in a directory, run as a child, stopped, killed or frozen.

The native stack lets supervisord run it; tests and the bench, which have stacks of their own, start and stop it here.
"""

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import psutil

from dev.environment import child
from dev.logs import tail
from dev.settings import ROOT


class StartError(Exception):
    """A process ended at its start, or was not ready in time."""


class Server(ABC):
    name: str
    stop_signal: signal.Signals = signal.SIGTERM
    hopeless: tuple[str, ...] = ()
    """What `unready` says when waiting will not help."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.workplace = ROOT
        """The folder in which it runs."""
        self.log = directory.with_name(f"{directory.name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Make the directory, the configuration and whatever else the command needs; called before each start."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def unready(self) -> str | None:
        """What it lacks before it can serve; None when it serves."""

    def environment(self) -> dict[str, str]:
        return child()

    def start(self, timeout_s: float = 120) -> None:
        """Start it, and return when it serves. Raises `StartError` with the end of its log."""
        self.launch()
        self.await_serving(timeout_s)

    def await_serving(self, timeout_s: float) -> None:
        """Return when it serves. Raises `StartError` with the end of its log."""
        process = self.process
        assert process is not None, f"{self.name} was not launched"
        deadline = time.monotonic() + timeout_s
        while missing := self.unready():
            if process.poll() is not None:
                raise StartError(f"{self.name} ended with {process.returncode} at its start:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                self.kill()
                raise StartError(f"{self.name} is not ready after {timeout_s:.0f} s: {missing}\n{tail(self.log)}")
            time.sleep(0.05)

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start it without waiting until it serves."""
        self.prepare()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                cwd=self.workplace,
                # Not a session of its own, as under supervisord: with `sched_autogroup`, `nice` counts only within one.
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
        """Send SIGKILL to it and all its children. It is as if the machine had lost power, except that the page cache
        survives."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def pause(self) -> None:
        """Freeze it and all its children: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Signal it and its descendants. Those of PostgreSQL are process groups of their own: killpg misses them."""
        if self.process is None or self.process.poll() is not None:
            return
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            if number == signal.SIGKILL:
                root.suspend()  # or it could start a child after they are listed
            family = [root, *root.children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        if number == signal.SIGKILL:
            psutil.wait_procs(family[1:], timeout=5)


def works_in(process: psutil.Process, directory: Path) -> bool:
    """Whether a process is one of the PostgreSQL cluster in this directory: all of them work there."""
    try:
        return process.name() == "postgres" and Path(process.cwd()) == directory.resolve()
    except (psutil.Error, OSError):
        return False
