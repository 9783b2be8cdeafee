"""The programs of a native stack under supervisord: configured, started, and waited for."""

import json
import subprocess
import sys
from collections.abc import Collection

from common.files import write
from common.kafka.access import ADMIN, WARM_UP
from dev import logs
from dev.environment import child
from dev.native.programs import Programs
from dev.native.supervise import Supervisor, program
from dev.servers.server import StartError
from dev.settings import ROOT, Settings
from dev.stack import Stack, StackError
from dev.waiting import Progress, Waiting, cause

READY_S = 90
SERVER_READY_S = 900  # the recovery of a large database or log takes minutes
SERVER_SILENT_S = 60  # and both log its progress several times a minute
SET_UP_S = 300
LINES_KEPT = 200
SERVICE_STOP_S = 20
SERVER_STOP_S = 120  # PostgreSQL's checkpoint after a heavy load takes a while

SET_UP = {
    "postgres": ("ops.people", "ops.migrate", "payment load-demo", "inventory load-demo"),
    "kafka": ("ops.topics create",),
}
"""What makes a server ready for the services. Each command changes nothing the second time."""


class SupervisedStack(Stack):
    """What the commands of a native stack rest on."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.supervisor = Supervisor(self.home)

    @property
    def programs(self) -> Programs:
        return Programs(self.settings, self.state.instances())

    def configure_supervisor(self, *, replacing: bool = True) -> None:
        """Let supervisord know the programs as they are now; see `Supervisor.set_programs`."""
        self.supervisor.set_programs(self._configured(), replacing=replacing)

    def set_up(self) -> None:
        """Make databases and topics what the code expects, the databases first."""
        for server in SET_UP:
            self._set_up(server)

    def start_programs(self, names: Collection[str], within_s: float = READY_S) -> None:
        """Start programs, and return when they are ready. Raises `StartError`."""
        self.supervisor.start(names)
        self._wait_ready(names, within_s)

    def _configured(self) -> dict[str, str]:
        """The configuration of each program for supervisord."""
        programs = self.programs
        write(programs.targets_path, json.dumps(programs.targets(), indent=1))
        texts = {}
        for name in programs.names:
            priority, stop_s = (1, SERVER_STOP_S) if name in programs.servers else (2, SERVICE_STOP_S)
            texts[name] = program(programs.server(name), priority=priority, stop_s=stop_s)
        texts[WARM_UP] = program(programs.server(WARM_UP), priority=3, stop_s=SERVICE_STOP_S, once=True)
        return texts

    def _set_up(self, server: str) -> None:
        self._wait_ready(self.programs.matching([server]), SERVER_READY_S, SERVER_SILENT_S)
        variables = child({"PYTHONUNBUFFERED": "1", "LOG_FORMAT": "text", **self.programs.tools_environment(ADMIN)})
        for command in SET_UP[server]:
            # Printed here, because a tool that printed by itself would end when nobody reads its output any more.
            try:
                done = subprocess.run(
                    [sys.executable, "-m", *command.split()], cwd=ROOT, env=variables, text=True, timeout=SET_UP_S,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
            except subprocess.TimeoutExpired as late:
                complaint = cause((late.stdout or b"").decode(errors="replace").splitlines())
                raise StackError(f"python -m {command} has not ended after {SET_UP_S} s:\n{complaint}") from None
            if done.returncode != 0:
                raise StackError(f"python -m {command} failed:\n{cause(done.stdout.splitlines())}")
            print(done.stdout, end="", flush=True)

    def _wait_ready(self, names: Collection[str], limit_s: float, silent_s: float | None = None) -> None:
        """Return when all are ready. Raises `StartError` with what each that is late complained about last."""
        programs = self.programs
        news = {name: logs.LogFile(programs.log(name)) for name in names}
        written: dict[str, list[str]] = {name: [] for name in names}
        met_taken_port: set[str] = set()

        def check(name: str) -> Progress:
            status = self.supervisor.statuses()[name]
            alive = status.state in ("RUNNING", "STARTING")
            server = programs.server(name)
            missing = server.unready() if alive else status.remark or "starting"
            lines = news[name].new_lines()
            written[name] = [*written[name], *lines][-LINES_KEPT:]
            if tells_taken_port(lines):
                met_taken_port.add(name)
            if missing is not None and name in met_taken_port:
                # The port may have been free when `up` began.
                missing = ", ".join(self._taken_ports([name])) or "a port was taken and is free again"
            hopeless = missing is not None and any(words in missing for words in server.hopeless)
            return Progress(missing, status.pid if alive else 0, hopeless, bool(lines))

        if late := Waiting(names, limit_s, silent_s).until_ready(check):
            raise StartError(
                "\n".join(
                    f"{name} is not ready: {missing}; its last words:\n{cause(written[name])}\n"
                    f"    all of its log: {programs.log(name)}"
                    for name, missing in late.items()
                )
            )

    def _taken_ports(self, names: Collection[str]) -> list[str]:
        listeners = self.programs.listeners(names)
        return [f"port {port} ({setting}) is taken by {process}" for port, setting, process in listeners if process]


def tells_taken_port(lines: Collection[str]) -> bool:
    """Whether a program logged that a port is taken. All of them pass on the operating system's words."""
    return any("address already in use" in line.lower() for line in lines)
