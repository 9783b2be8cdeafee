"""supervisord, which keeps the native processes up: its configuration and the calls to it.

Every instance is a program of its own. To scale, programs are added or removed and supervisord reloads its file, which
leaves the other instances alone; changing `numprocs` would restart all of them (supervisor #826).

That file contains no paths, since supervisord cannot read every path from it: it works in its own folder, finds the
logs relative to it, and gets other paths from its environment.
"""

import http.client
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy, Transport

import psutil
from supervisor.xmlrpc import Faults

from common.files import write
from dev.environment import child
from dev.logs import tail
from dev.servers import processes
from dev.servers.server import Server, StartError
from dev.settings import ROOT
from dev.stack import StackError

NAME = "supervisord"
START_S = 10
ANSWER_S = 10
END_S = 30
"""How long supervisord may take to end, when no program runs any more."""
REPORT_EVERY_S = 5
LOST = "'just up' starts it again"
STATES_ENDED = ("STOPPED", "EXITED", "FATAL", "BACKOFF", "UNKNOWN")


@dataclass(frozen=True)
class Status:
    """What supervisord knows about a program."""

    name: str
    state: str
    pid: int
    uptime_s: int
    remark: str


class Unanswered(StackError):
    """supervisord runs, but does not answer."""


class Supervisor:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "supervisor"
        self.logs = home / "logs"

    def running(self) -> bool:
        """Raises `Unanswered` when it runs and does not answer."""
        try:
            self._request("getPID")
        except (FileNotFoundError, NotADirectoryError, ConnectionError, http.client.HTTPException):
            return False
        return True

    def set_programs(self, programs: Mapping[str, str], *, replacing: bool = True) -> None:
        """Add, remove and replace programs so that these remain; those that are the same are left alone. Without
        `replacing`, so are those that differ, which `renew` then replaces one by one.

        `programs` are configurations by name.
        """
        self._write(programs)
        added, changed, removed = self._call("reloadConfig")[0]
        if not replacing:
            changed = []
        self.stop([*changed, *removed])
        for name in (*changed, *removed):
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)

    def renew(self, names: Iterable[str]) -> None:
        """Give stopped programs the configuration that was set last."""
        for name in names:
            self._call("removeProcessGroup", name)
            self._call("addProcessGroup", name)

    def _write(self, programs: Mapping[str, str]) -> None:
        user = "user=root" if os.geteuid() == 0 else ""
        text = f"""\
[unix_http_server]
; by this name the path is short enough for a socket, however long that of the folder is
file=/proc/self/cwd/supervisor.sock
chmod=0600
[supervisord]
logfile=../logs/supervisord.log
logfile_maxbytes=5MB
logfile_backups=1
pidfile=supervisord.pid
childlogdir=.
{user}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
        write(self.directory / "supervisord.conf", "".join([text, *programs.values()]))

    def launch(self, programs: Mapping[str, str]) -> None:
        """Start supervisord; it knows these programs, and starts none of them yet."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        self.logs.chmod(0o700)  # they name customers, and who did what
        self._write(programs)
        # What supervisord expands, it takes literally, whatever is in it.
        paths = {"TANDEM_HOME": str(self.home), "TANDEM_ROOT": str(ROOT), "TANDEM_PYTHON": shlex.quote(sys.executable)}
        done = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", "-m", "supervisor.supervisord", "-c", "supervisord.conf"],
            cwd=self.directory,
            env=child(paths, downloads=True),
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
        processes.record(self.home, NAME, self._call("getPID"))

    def statuses(self) -> dict[str, Status]:
        return {
            info["name"]: Status(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"],
                uptime_s=info["now"] - info["start"] if info["pid"] else 0,
                remark=info["spawnerr"] or (_ended(info["stop"]) if info["stop"] else info["description"]),
            )
            for info in self._call("getAllProcessInfo")
        }

    def start(self, names: Iterable[str]) -> None:
        for name in names:
            self._tolerating(Faults.ALREADY_STARTED, "startProcess", name, False)

    def stop(self, names: Collection[str]) -> None:
        """Stop programs side by side, and wait: supervisord kills each after its `stop_s`."""
        processes.thaw([status.pid for status in self.statuses().values() if status.name in names and status.pid])
        for name in names:
            self._tolerating(Faults.NOT_RUNNING, "stopProcess", name, False)
        reported_at = time.monotonic()
        while left := [s.name for s in self.statuses().values() if s.name in names and s.state not in STATES_ENDED]:
            if time.monotonic() - reported_at > REPORT_EVERY_S:
                reported_at = time.monotonic()
                print(f"waiting for {', '.join(left)} to end", flush=True)
            time.sleep(0.05)

    def shutdown(self) -> None:
        """End supervisord itself, after all programs are stopped. Raises `Unanswered`."""
        process = psutil.Process(self._call("getPID"))
        self._call("shutdown")
        try:
            process.wait(END_S)
        except psutil.TimeoutExpired:
            raise Unanswered(f"supervisord (pid {process.pid}) has not ended {END_S} s after it was told to") from None

    def _tolerating(self, fault: int, method: str, *arguments: Any) -> None:
        try:
            self._call(method, *arguments)
        except Fault as error:
            if error.faultCode != fault:
                raise

    def _call(self, method: str, *arguments: Any) -> Any:
        """Raises `StackError` when it has ended, and `Fault`."""
        try:
            return self._request(method, *arguments)
        except (OSError, http.client.HTTPException) as error:
            raise StackError(f"supervisord has ended ({error}); {LOST}") from error

    def _request(self, method: str, *arguments: Any) -> Any:
        try:
            with ServerProxy("http://supervisord/RPC2", _Transport(self.directory)) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except TimeoutError:
            raise Unanswered(
                f"supervisord does not answer within {ANSWER_S} s: it is frozen, or the machine is too busy; 'just ps' "
                "tries again, 'just down' stops Tandem without it"
            ) from None
        except PermissionError as error:
            raise Unanswered(f"supervisord in {self.home} belongs to another user ({error.strerror})") from None


class _Connection(http.client.HTTPConnection):
    def __init__(self, directory: Path) -> None:
        super().__init__(NAME, timeout=ANSWER_S)
        self.directory = directory

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        # The path of a socket may have 107 bytes, and that of the folder has more, perhaps.
        folder = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/supervisor.sock")
        finally:
            os.close(folder)


class _Transport(Transport):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _Connection(self.directory)
        self._connection = host, connection  # to be closed with this
        return connection


def _ended(at_s: int) -> str:
    """When a program ended, by supervisord's clock in seconds since the Unix epoch."""
    return f"ended at {datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def program(server: Server, *, priority: int, stop_s: int, once: bool = False) -> str:
    """The configuration of a process that supervisord keeps up, or runs `once`. Programs of higher priority are stopped
    first."""
    return f"""\
[program:{server.name}]
command=%(ENV_TANDEM_PYTHON)s -m dev run {server.name}
directory=%(ENV_TANDEM_ROOT)s
priority={priority}
autostart=false
autorestart={"false" if once else "true"}
startsecs={0 if once else 1}
; after 3 attempts, the default, it would give up for ever
startretries=1000000
stopsignal={server.stop_signal.name.removeprefix("SIG")}
stopwaitsecs={stop_s}
killasgroup=true
redirect_stderr=true
stdout_logfile=../logs/{server.name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=2
"""
