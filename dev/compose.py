"""The same stack in Docker Compose: the same commands, handed to `docker compose` or to docker-compose 1.29."""

import getpass
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from dev.addresses import print_addresses
from dev.native.stack import StackError
from dev.settings import DATABASES, HOST, PORT_SETTINGS, ROOT, SERVICES, Settings
from dev.state import State

READY_S = 180
REPORT_EVERY_S = 5
ACCEPTED_FOLDER = "/accepted"
DATABASE_SERVICES = {database: f"{database}-db" for database in DATABASES}


class ComposeStack:
    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.state = State.load(self.home)
        self.asked = settings
        self.settings = self.state.remembered(settings)

    def up(self) -> None:
        started = time.monotonic()
        self.settings = self.asked
        self.state.started("compose", self.settings)
        self._compose("up", "--detach", "--build", *self._scales())
        self._wait_ready()
        print(f"Tandem is up after {time.monotonic() - started:.0f} s\n")
        print_addresses(self.settings)

    def down(self) -> None:
        self._compose("down", "--remove-orphans")
        self.state.stopped()
        print("Tandem is down; its data stays, 'just up' brings it back")

    def reset(self) -> None:
        self._compose("down", "--remove-orphans", "--volumes")
        self.state.path.unlink(missing_ok=True)
        print("Tandem is down and its data is deleted; 'STACK=compose just up' starts afresh")

    def start(self, names: list[str]) -> None:
        self._compose("start", *self._named(names))

    def stop(self, names: list[str]) -> None:
        self._compose("stop", *self._named(names))

    def restart(self, names: list[str]) -> None:
        self._compose("restart", *self._named(names))

    def scale(self, counts: dict[str, int]) -> None:
        services = [service.name for service in SERVICES]
        for name, count in counts.items():
            if name not in services:
                raise StackError(f"{name!r} cannot be scaled; these can: {', '.join(services)}")
            if count < 1:
                raise StackError(f"{name}={count}: at least 1 instance is possible; to have none, just stop {name}")
        self.state.scale |= counts
        self.state.save()
        self._compose("up", "--detach", "--no-recreate", *self._scales())
        self._wait_ready()

    def ps(self) -> None:
        self._compose("ps")

    def logs(self, names: list[str], lines: int, follow: bool) -> None:
        self._compose("logs", "--tail", str(lines), *(["--follow"] if follow else []), *self._named(names))

    def psql(self, database: str, arguments: list[str]) -> None:
        terminal = [] if sys.stdin.isatty() else ["-T"]
        password = f"PGPASSWORD={database}"  # as docker-compose.yml has it
        client = ["psql", "-U", database, "-h", HOST, database, *arguments]
        self._compose("exec", *terminal, "-e", password, DATABASE_SERVICES[database], *client)

    def ops(self, arguments: list[str]) -> None:
        """Ends with the tool's own exit code: 2 of `verify` says something else than 1."""
        terminal = [] if sys.stdout.isatty() else ["-T"]
        mounts, (module, *rest) = mounted(arguments)
        shared = [*acting_user(), *mounts]
        run = ("run", *terminal, "--rm", "--no-deps", *shared, "setup", "python", "-m", f"ops.{module}", *rest)
        raise SystemExit(self._run(*run))

    def locust(self, arguments: list[str]) -> None:
        self._compose("--profile", "load", "run", "--rm", "--service-ports", "locust", *arguments)

    def _named(self, names: list[str]) -> list[str]:
        known = ["kafka", "gateway", *DATABASE_SERVICES.values(), *(service.name for service in SERVICES)]
        chosen: list[str] = []
        for name in names:
            if name == "postgres":
                chosen += DATABASE_SERVICES.values()
            elif name in known:
                chosen.append(name)
            else:
                raise StackError(f"there is no {name!r} in Compose; services are postgres, {', '.join(known)}")
        return chosen

    def _scales(self) -> list[str]:
        return [part for name, count in self.state.instances().items() for part in ("--scale", f"{name}={count}")]

    def _compose(self, *arguments: str) -> None:
        if code := self._run(*arguments):
            raise StackError(f"docker compose {' '.join(arguments)} failed with {code}; see above")

    def _run(self, *arguments: str) -> int:
        ports = {name.upper(): str(getattr(self.settings, name)) for name in PORT_SETTINGS}
        project = {"COMPOSE_PROJECT_NAME": os.environ.get("COMPOSE_PROJECT_NAME", "tandem")}
        return subprocess.run(
            [*compose_command(), *arguments], cwd=ROOT, env={**os.environ, **ports, **project}
        ).returncode

    def _wait_ready(self) -> None:
        """Until the gateway reaches a ready instance of every service of which there should be one."""
        counts = self.state.instances()
        missing = {service.name: self.settings.port(service) for service in SERVICES if counts[service.name]}
        started = reported = time.monotonic()
        while missing := {name: port for name, port in missing.items() if not answers(port)}:
            now = time.monotonic()
            if now - started > READY_S:
                self.logs(list(missing), lines=20, follow=False)
                raise StackError(f"not ready after {READY_S} s: {', '.join(missing)}; see their logs above")
            if now - reported > REPORT_EVERY_S:
                reported = now
                print(f"waiting for {', '.join(missing)}", flush=True)
            time.sleep(0.3)


def acting_user() -> list[str]:
    """What lets an act be recorded as its user's, who has no account in the container."""
    try:
        return ["-e", f"LOGNAME={getpass.getuser()}"]
    except (ImportError, KeyError, OSError):  # this user has no name
        return []


def mounted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The volumes that let the container read the file of `--accepted`, and the arguments as they are right there.

    A file that is not here is left for the tool to name.
    """
    volumes: list[str] = []
    known: list[str] = []
    for argument in arguments:
        option = "--accepted=" if argument.startswith("--accepted=") else ""
        path = Path(argument.removeprefix(option)).resolve()
        if (option or known[-1:] == ["--accepted"]) and path.is_file():
            volumes += ["-v", f"{path.parent}:{ACCEPTED_FOLDER}:ro"]
            known.append(f"{option}{ACCEPTED_FOLDER}/{path.name}")
        else:
            known.append(argument)
    return volumes, known


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=3):
            return True
    except (OSError, urllib.error.HTTPError):
        return False


def compose_command() -> list[str]:
    """Docker's plugin if it is there, else docker-compose."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise StackError("neither 'docker compose' nor docker-compose is here; STACK=native just up needs no Docker")
