"""`just observe`: Prometheus and Alertmanager beside the native stack, until Ctrl-C.

They are programs of this machine, found on PATH, and no part of the stack: `just up` neither needs nor starts them.
They scrape the instances and the console, which serves what no service can say of itself.
"""

import shutil
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.error import URLError

from dev.environment import child, direct
from dev.servers.server import Server
from dev.settings import HOST
from dev.stack import StackError

PROGRAMS: Final = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}
"""What each is called, in Debian first."""
MISSING: Final = (
    "on Debian or Ubuntu 'apt install prometheus prometheus-alertmanager', on macOS 'brew install prometheus "
    "alertmanager', elsewhere the archives of https://prometheus.io/download on PATH; or 'STACK=compose just observe'"
)
CHECK_EVERY_S: Final = 2.0
START_S: Final = 60.0

PORTS: Final = (9090, 9095)
"""Of Prometheus and Alertmanager, whose usual port is that of Kafka's controller here."""


def binary(name: str) -> str | None:
    """The path of one of `PROGRAMS`, or None."""
    return next((path for candidate in PROGRAMS[name] if (path := shutil.which(candidate))), None)


def required(name: str) -> str:
    """The same. Raises `StackError` with what to do."""
    if (path := binary(name)) is None:
        raise StackError(f"there is no {name} on PATH: {MISSING}")
    return path


class Tool(Server):
    """A server that is ready when it answers at a path."""

    ready_path: str

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory / self.name)
        self.port = port
        self.workplace = self.directory

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @abstractmethod
    def command(self) -> list[str]: ...

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def unready(self) -> str | None:
        try:
            direct.open(f"http://{self.address}{self.ready_path}", timeout=5).close()
        except (URLError, OSError) as error:
            return str(error)
        return None


class Alertmanager(Tool):
    name = "alertmanager"
    ready_path = "/-/ready"

    def command(self) -> list[str]:
        config = self.directory.parent / "prometheus" / "alertmanager.yml"
        options = {"config.file": config, "storage.path": "data", "web.listen-address": self.address}
        # Without the last one it opens a port for other instances of itself.
        return [
            required(self.name),
            *(f"--{name}={value}" for name, value in options.items()),
            "--cluster.listen-address=",
        ]


class Prometheus(Tool):
    """Its configuration, with Alertmanager's beside it, is written by `ops.observe` before each start."""

    name = "prometheus"
    ready_path = "/-/ready"

    def __init__(self, directory: Path, port: int, alertmanager: Alertmanager, options: Sequence[str]) -> None:
        super().__init__(directory, port)
        self._options = ["--alertmanager", alertmanager.address, *options]

    def prepare(self) -> None:
        super().prepare()
        command = [sys.executable, "-m", "ops.observe", "native", str(self.directory), *self._options]
        subprocess.run(command, cwd=Path(__file__).parents[1], env=child(), check=True)

    def command(self) -> list[str]:
        options = {
            "config.file": "prometheus.yml",
            "storage.tsdb.path": "data",
            "storage.tsdb.retention.time": "15d",
            "web.listen-address": self.address,
        }
        return [required(self.name), *(f"--{name}={value}" for name, value in options.items())]


class Observers:
    """Both of them."""

    def __init__(
        self, directory: Path, ports: Sequence[int], targets: Path, console: str, options: Sequence[str] = ()
    ) -> None:
        """`ports` are those of Prometheus and Alertmanager; `targets` is the file with the admin ports of the instances
        and `console` the address of the console's; `options` go to `ops.observe native`."""
        for name in PROGRAMS:
            required(name)
        prometheus, alertmanager = ports
        self.alertmanager = Alertmanager(directory, alertmanager)
        scraped = ("--targets", str(targets), "--console", console)
        self.prometheus = Prometheus(directory, prometheus, self.alertmanager, [*scraped, *options])
        self.servers: tuple[Tool, ...] = (self.prometheus, self.alertmanager)

    def start(self) -> None:
        """Raises `StartError`."""
        for server in self.servers:
            server.start(START_S)

    def stop(self) -> None:
        for server in reversed(self.servers):
            server.stop()

    def ended(self) -> str | None:
        """Which of them has ended, with how."""
        codes = {server.name: server.process.poll() for server in self.servers if server.process is not None}
        return next((f"{name} ended with {code}" for name, code in codes.items() if code is not None), None)


def run(observers: Observers) -> None:
    """Start them, and wait until one of them ends or the user ends this."""
    observers.start()
    try:
        print(f"  Prometheus    http://{observers.prometheus.address}   (Status > Targets, Alerts)")
        print(f"  Alertmanager  http://{observers.alertmanager.address}")
        print("\nCtrl-C ends them; what they have stored stays.", flush=True)
        while (ended := observers.ended()) is None:
            time.sleep(CHECK_EVERY_S)
        raise StackError(f"{ended}; its log is in {observers.prometheus.directory.parent}")
    finally:
        observers.stop()
