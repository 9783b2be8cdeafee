"""supervisord, which keeps the native processes up: its configuration and the calls to it.

Every instance is a program with a file of its own. To scale, files are added or removed and supervisord reloads them,
which leaves the other instances alone; changing `numprocs` would restart all of them (supervisor #826).
"""

import hashlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from dev.environment import child
from dev.logs import tail
from dev.servers.server import MARKER, Server, StartError
from dev.settings import ROOT

START_S = 10
SOCKET_DIRECTORY_MAX = 70
"""Bytes. The path of a socket may have 107, and supervisord adds a suffix at first."""
STATES_ENDED = ("STOPPED", "EXITED", "FATAL", "BACKOFF", "UNKNOWN")


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
        # Every shell has to find it, whatever its TMPDIR is.
        self.socket_directory = self.directory
        if len(os.fsencode(self.directory)) > SOCKET_DIRECTORY_MAX:
            digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
            self.socket_directory = Path(f"/tmp/tandem-{os.getuid()}-{digest}")  # noqa: S108 - its owner is checked
        self.socket = self.socket_directory / "supervisor.sock"

    def running(self) -> bool:
        try:
            self._call("getPID")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def set_programs(self, programs: Mapping[str, str]) -> None:
        """Add, remove and replace programs so that these remain; those that are the same are left alone.

        `programs` are configurations by name.
        """
        self._write(programs)
        added, changed, removed = self._call("reloadConfig")[0]
        self.stop([*changed, *removed])
        for name in (*changed, *removed):
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)

    def _write(self, programs: Mapping[str, str]) -> None:
        self.programs.mkdir(exist_ok=True)
        wanted = {self.programs / f"{name}.conf": text for name, text in programs.items()}
        for path, text in wanted.items():
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        for path in set(self.programs.glob("*.conf")) - set(wanted):
            path.unlink()

    def launch(self, programs: Mapping[str, str]) -> None:
        """Start supervisord; it knows these programs, and starts none of them yet."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self._make_socket_directory()
        self.logs.mkdir(parents=True, exist_ok=True)
        self._write(programs)  # else it would start what an earlier version left there with autostart
        configuration = self.directory / "supervisord.conf"
        # The include is relative to this file, because an absolute path may contain spaces.
        configuration.write_text(f"""\
[unix_http_server]
file={quoted(self.socket)}
chmod=0600
[supervisord]
logfile={quoted(self.logs / "supervisord.log")}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={quoted(self.directory / "supervisord.pid")}
{"user=root" if os.geteuid() == 0 else ""}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[include]
files=programs/*.conf
""")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", str(configuration)],
            cwd=ROOT,
            env=child({MARKER: str(self.home), "TANDEM_HOME": str(self.home)}),
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
                raise StartError(f"supervisord does not answer {START_S} s after its start:\n{tail(log)}")
            time.sleep(0.05)

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
        """Stop programs side by side, and wait: supervisord kills each after its `stop_s`."""
        for name in names:
            self._tolerating(Faults.NOT_RUNNING, "stopProcess", name, False)
        while any(s.state not in STATES_ENDED for s in self.statuses().values() if s.name in names):
            time.sleep(0.05)

    def shutdown(self) -> None:
        """End supervisord itself, after all programs are stopped."""
        process = psutil.Process(self._call("getPID"))
        self._call("shutdown")
        process.wait()

    def _make_socket_directory(self) -> None:
        self.socket_directory.mkdir(mode=0o700, exist_ok=True)
        status = self.socket_directory.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise StartError(f"{self.socket_directory} is open to other users; remove it")

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


def program(server: Server, log: Path, *, priority: int, stop_s: int) -> str:
    """The configuration of a process that supervisord keeps up. Programs of higher priority are stopped first."""
    return f"""\
[program:{server.name}]
command="{quoted(sys.executable)}" -m dev run {server.name}
directory={quoted(ROOT)}
priority={priority}
autostart=false
autorestart=true
startsecs=1
; after 3 attempts, the default, it would give up for ever
startretries=1000000
stopsignal={server.stop_signal.name.removeprefix("SIG")}
stopwaitsecs={stop_s}
killasgroup=true
redirect_stderr=true
stdout_logfile={quoted(log)}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=2
"""


def quoted(path: str | Path) -> str:
    """A path for supervisord's configuration, where a percent sign begins an expansion."""
    return str(path).replace("%", "%%")
