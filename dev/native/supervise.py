"""supervisord keeps the native processes up: its configuration, and the calls to it.

Every instance is a program of its own, in a file of its own: to scale is to add or remove files and let supervisord
look again, which leaves the others alone (changing `numprocs` restarts all of them, supervisor #826).
"""

import hashlib
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from dev.servers.server import MARKER, StartError, tail
from dev.settings import ROOT

START_S = 10
STATES_ENDED = ("STOPPED", "EXITED", "FATAL", "BACKOFF", "UNKNOWN")


@dataclass(frozen=True)
class Program:
    """A process that supervisord keeps up: `python -m dev run <name>`."""

    name: str
    priority: int  # the higher, the later started and the earlier stopped
    stop_signal: str
    stop_s: int
    autostart: bool

    def configuration(self, logs: Path) -> str:
        return "\n".join(
            [
                f"[program:{self.name}]",
                f'command="{quoted(sys.executable)}" -m dev run {self.name}',
                f"directory={quoted(ROOT)}",
                f"priority={self.priority}",
                f"autostart={str(self.autostart).lower()}",
                "autorestart=true",
                "startsecs=1",
                "startretries=1000000",  # the default, 3, then gives up for ever
                f"stopsignal={self.stop_signal}",
                f"stopwaitsecs={self.stop_s}",
                "killasgroup=true",
                "redirect_stderr=true",
                f"stdout_logfile={quoted(logs / self.name)}.log",
                "stdout_logfile_maxbytes=20MB",
                "stdout_logfile_backups=2",
                "",
            ]
        )


@dataclass(frozen=True)
class Status:
    """What supervisord knows about a program."""

    name: str
    state: str
    pid: int
    uptime_s: int
    remark: str


class Supervisor:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "supervisor"
        self.programs = self.directory / "programs"
        self.logs = home / "logs"
        # In a folder of its own, as the path of a socket may have about 100 characters and `home` can be deeper.
        digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
        self.socket_directory = Path(tempfile.gettempdir()) / f"tandem-{os.getuid()}-{digest}"
        self.socket = self.socket_directory / "supervisor.sock"

    def running(self) -> bool:
        try:
            self._call("getPID")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def write(self, programs: Iterable[Program]) -> None:
        """Replaces the programs' files; `update` then makes it so."""
        self.programs.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        wanted = {self.programs / f"{p.name}.conf": p.configuration(self.logs) for p in programs}
        for path, text in wanted.items():
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        for path in set(self.programs.glob("*.conf")) - set(wanted):
            path.unlink()

    def launch(self) -> None:
        """Starts supervisord, which starts the programs that have autostart."""
        self._make_socket_directory()
        configuration = self.directory / "supervisord.conf"
        configuration.write_text(
            "\n".join(
                [
                    "[unix_http_server]",
                    f"file={quoted(self.socket)}",
                    "chmod=0600",
                    "[supervisord]",
                    f"logfile={quoted(self.logs / 'supervisord.log')}",
                    "logfile_maxbytes=5MB",
                    "logfile_backups=1",
                    f"pidfile={quoted(self.directory / 'supervisord.pid')}",
                    *(["user=root"] if os.geteuid() == 0 else []),
                    "[rpcinterface:supervisor]",
                    "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
                    "[include]",
                    "files=programs/*.conf",  # relative to this file: a list of patterns is split at spaces
                    "",
                ]
            )
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", str(configuration)],
            cwd=ROOT,
            env={**os.environ, MARKER: str(self.home), "TANDEM_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise StartError(f"supervisord did not start:\n{done.stdout}{done.stderr}")
        deadline = time.monotonic() + START_S
        while not self.running():
            if time.monotonic() > deadline:
                log = self.logs / "supervisord.log"
                raise StartError(f"supervisord does not answer after {START_S} s:\n{tail(log)}")
            time.sleep(0.05)

    def update(self) -> None:
        """Adds, removes and replaces programs as their files say; the others are not touched."""
        added, changed, removed = self._call("reloadConfig")[0]
        self.stop([*changed, *removed])
        for name in (*changed, *removed):
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)

    def statuses(self) -> dict[str, Status]:
        return {
            info["name"]: Status(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"],
                uptime_s=info["now"] - info["start"] if info["pid"] else 0,
                remark=info["spawnerr"] or info["description"],
            )
            for info in self._call("getAllProcessInfo")
        }

    def start(self, names: Iterable[str]) -> None:
        for name in names:
            self._tolerating(Faults.ALREADY_STARTED, "startProcess", name, False)

    def stop(self, names: Collection[str]) -> None:
        """Stops them side by side and waits for their ends."""
        for name in names:
            self._tolerating(Faults.NOT_RUNNING, "stopProcess", name, False)
        self._wait(lambda: all(s.state in STATES_ENDED for n, s in self.statuses().items() if n in names))

    def shutdown(self) -> None:
        """Ends supervisord itself, after all programs are stopped."""
        process = psutil.Process(self._call("getPID"))
        self._call("shutdown")
        process.wait()

    def _make_socket_directory(self) -> None:
        self.socket_directory.mkdir(mode=0o700, exist_ok=True)
        found = self.socket_directory.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise StartError(f"{self.socket_directory} is not a private folder of this user; remove it")

    def _tolerating(self, fault: int, method: str, *arguments: Any) -> None:
        try:
            self._call(method, *arguments)
        except Fault as error:
            if error.faultCode != fault:
                raise

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        with ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    @staticmethod
    def _wait(done: Callable[[], bool]) -> None:
        """Without a limit of its own: each program has one, after which supervisord kills it."""
        while not done():
            time.sleep(0.05)


def quoted(path: str | Path) -> str:
    """As supervisor's configuration reads it: a percent sign begins an expansion."""
    return str(path).replace("%", "%%")
