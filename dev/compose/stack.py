"""The stack in Docker Compose: the commands run `docker compose`, or docker-compose 1.29."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from common.config.kafka import Brokers
from common.files import write
from common.kafka.access import ADMIN
from common.secrets.kafka import password_file
from common.terminal import printable
from dev.compose import engine
from dev.observe import PORTS
from dev.servers.instance import unready_at
from dev.servers.users import identity, of_tool
from dev.settings import CONSOLE, DATABASES, HOST, PORT_SETTINGS, PROJECT, ROOT, SERVICES, compose_settings
from dev.stack import DOWN, LOAD_TOKEN, REMEMBERED, Stack, StackError
from dev.waiting import Progress, Waiting

READY_S = 180
OBSERVABILITY = ("--profile", "observability")
SECRETS = Path("/secrets")
FILES = (
    "docker-compose.yml",
    "dev/compose-secure.yml",
    "dev/containers/brokers.yml",
    "dev/containers/brokers-secure.yml",
)
"""In the order in which they are put over one another: the second with SECURE=1, the third with BROKERS=3, the last
with both."""
ROLLED = ("payment", "inventory", "order-saga", "order-api")
"""The services whose containers are replaced while others serve, in that order. The console has a port of its own."""
DATABASE_SERVICES = {database: f"{database}-db" for database in DATABASES}


class ComposeStack(Stack):
    instances_max = 20  # the gateway knows as many of each service

    def up(self) -> None:
        started = time.monotonic()
        if self.requested.has_standbys:
            raise StackError(
                f"STANDBYS={self.requested.standbys} is for the native stack: in Compose, a database has one server; "
                "'STANDBYS=0 STACK=compose just up', or 'STACK=native just up'"
            )
        self._require_engine()
        made = self.state.brokers
        if self.state.path.exists() and self.state.stack == "compose" and made != self.requested.brokers:
            raise StackError(
                f"BROKERS={self.requested.brokers}, and the log was made with BROKERS={made}; set BROKERS={made}, or "
                "'just reset', which deletes all data"
            )
        self.settings = self.requested
        self.state.started("compose", self.settings)
        self._up("--build")
        if self.settings.authority is not None:
            self._keep_authority(self.settings.authority)
        self._wait_ready([*(service.name for service in SERVICES), CONSOLE])
        print(f"Tandem is up after {time.monotonic() - started:.0f} s\n")
        self.print_addresses()

    def _up(self, option: str) -> None:
        if code := self._run("up", "--detach", option, *self._scales()):
            # Compose says no more than that it ended.
            self._run("logs", "--tail", "5", "setup")
            raise StackError(f"docker compose up failed with exit code {code}; see above")

    def _keep_authority(self, path: Path) -> None:
        """Keep a copy of the authority's certificate for clients on this machine."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        done = self._process("exec", "-T", "gateway", "cat", "/secrets/ca.pem", stdout=subprocess.PIPE)
        if done.returncode:
            raise StackError("the certificate of the authority cannot be read from the gateway; see above")
        write(path, done.stdout)

    def down(self) -> None:
        self._require_engine()
        self._compose(*OBSERVABILITY, "down", "--remove-orphans")
        self.state.stopped()
        print(DOWN)

    def reset(self) -> None:
        self._require_engine()
        self._compose(*OBSERVABILITY, "down", "--remove-orphans", "--volumes")
        self.state.path.unlink(missing_ok=True)
        print("Tandem is down and its data is deleted; 'STACK=compose just up' starts afresh")

    def start(self, names: list[str]) -> None:
        chosen = self._matching(names)
        self._compose("start", *chosen)
        self._wait_ready(service.name for service in SERVICES if service.name in chosen)

    def stop(self, names: list[str]) -> None:
        self._compose("stop", *self._matching(names))

    def restart(self, names: list[str]) -> None:
        """While one instance of a service is away, the others serve."""
        chosen = self._matching(names)
        for name in chosen:
            if not (containers := self._containers(name)):
                raise StackError(f"{name} has no container; 'just up' makes it")
            for container in containers:
                if name in ROLLED:
                    self._replace(name, container)
                else:
                    engine.docker("restart", container)
                    self._wait_healthy(name, container)
            if len(self._brokers()) > 1 and name in self._brokers():
                self._await_copies(name)
        self._wait_ready(service.name for service in SERVICES if service.name in chosen)
        print(f"restarted: {', '.join(chosen)}")

    def _await_copies(self, broker: str) -> None:
        """Return when a broker that was restarted has caught up: before, none of the others may be away."""
        waited = self.run_tool("topics", "copies")
        if waited.returncode:
            raise StackError(f"{broker} was restarted, and those after it were not: {waited.stderr.strip()}")

    def upgrade(self) -> None:
        self._require_engine()
        self._compose("build")
        for name in ("secrets", "setup"):
            self._compose("run", "-T", "--rm", "--no-deps", name)
        for name in ROLLED:
            for container in self._containers(name):
                self._replace(name, container)
        self._compose("up", "--detach", "--no-deps", CONSOLE)
        self._wait_ready([*ROLLED, CONSOLE])
        print("upgraded: every process runs the code of this checkout")

    def _containers(self, service: str) -> list[str]:
        return self._process("ps", "--all", "--quiet", service, stdout=subprocess.PIPE).stdout.split()

    def _replace(self, service: str, container: str) -> None:
        """End a container when another one of the service, of the newest image, is ready."""
        before = self._containers(service)
        added = f"{service}={len(before) + 1}"
        self._compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", added, service)
        for new in set(self._containers(service)) - set(before):
            self._wait_healthy(service, new)
        engine.docker("stop", container)
        engine.docker("rm", container)

    def _wait_healthy(self, service: str, container: str) -> None:
        self._wait(lambda _: engine.unhealthy(container), [service])

    def apply_scale(self, services: Collection[str]) -> None:
        if not self.state.up:
            print(REMEMBERED)
            return
        self._up("--no-recreate")
        self._wait_ready(service.name for service in SERVICES)

    def ps(self) -> None:
        self._compose("ps")

    def logs(self, names: list[str], lines: int, follow: bool) -> None:
        self._compose("logs", "--tail", str(lines), *(["--follow"] if follow else []), *self._matching(names))

    def print_lines_naming(self, text: str, names: list[str]) -> bool:
        printed = self._process("logs", "--no-color", *self._matching(names), stdout=subprocess.PIPE).stdout
        lines = [line for line in printed.splitlines() if text in line]
        for line in lines:
            print(printable(line))
        return bool(lines)

    def psql(self, database: str, arguments: list[str]) -> None:
        if database not in DATABASE_SERVICES:
            raise StackError(f"there is no database {database!r}; there are {', '.join(DATABASE_SERVICES)}")
        # The container has the superuser's password and no other's; the session becomes the service's role.
        login = ["-e", "PGPASSFILE=/secrets/postgres.pgpass", "-e", f"PGOPTIONS=-c role={database}"]
        client = ["psql", "-U", "postgres", "-h", HOST, database, *arguments]
        raise SystemExit(self._run("exec", *engine.terminal(), *login, DATABASE_SERVICES[database], *client))

    def rotate_secrets(self) -> None:
        rotate = ("secrets", "python", "-m", "ops.secrets", "rotate", "--folder", "/holders")
        self._compose("run", "-T", "--rm", "--no-deps", *engine.acting_user(), *rotate)
        if self.settings.secure:
            self._compose("kill", "-s", "SIGUSR2", "gateway")  # HAProxy reads its certificate again, and loses nothing

    def ops(self, module: str, arguments: list[str]) -> None:
        command = arguments[0] if module == "topics" and arguments and self.settings.secure else ""
        if command == "rotate":
            raise StackError("in Compose, Kafka's passwords change with all others: 'just secrets rotate'")
        file, translated = engine.passed_on(arguments)
        # It alone may write passwords.
        container = "secrets" if command == "allow" else "setup"
        tool = (container, "sh", "-c", engine.TELL_TOOLS_CODE, "sh", "python", "-m", f"ops.{module}", *translated)
        asked = ("run", *engine.terminal(file), "--rm", "--no-deps", *self._caller(module, arguments), *tool)
        try:
            with nullcontext() if file is None else file.open("rb") as given:
                code = self._process(*asked, stdin=given).returncode
        except OSError as error:
            raise StackError(f"{module}: {error}") from error
        raise SystemExit(engine.tools_code(code))

    def run_tool(self, module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        tool = ("setup", "python", "-m", f"ops.{module}", *arguments)
        pipe = subprocess.PIPE
        as_caller = self._caller(module, arguments)
        return self._process("run", "-T", "--rm", "--no-deps", *as_caller, *tool, stdout=pipe, stderr=pipe)

    def _caller(self, module: str, arguments: Sequence[str]) -> list[str]:
        """The options that say who runs a tool, and which user it is at the broker; without, it is the set-up's."""
        user = of_tool(module, arguments)
        if not self.settings.secure or user == ADMIN:
            return engine.acting_user()
        servers = ",".join(f"{broker}:19092" for broker in self._brokers())
        variables = identity(Brokers(servers, "SASL_SSL", SECRETS / "ca.pem", user, password_file(SECRETS, user)))
        return [
            *engine.acting_user(),
            *(part for name, value in variables.items() for part in ("-e", f"{name}={value}")),
        ]

    def locust(self, arguments: list[str]) -> None:
        token_file = self.settings.auth / "load.token"
        token_file.parent.mkdir(mode=0o700, exist_ok=True)
        write(token_file, self.token(*LOAD_TOKEN), 0o600)
        given = ("-v", f"{token_file}:/load/token:ro", "-e", "TANDEM_TOKEN_FILE=/load/token")
        self._compose("--profile", "load", "run", "--rm", "--service-ports", *given, "locust", *arguments)

    def observe(self, ports: list[int]) -> None:
        if tuple(ports) != PORTS:
            raise StackError("in Compose the ports are those of docker-compose.yml")
        self._require_engine()
        self._compose(*OBSERVABILITY, "up", "--detach", "--no-recreate", *self._scales())
        print("  Grafana       http://127.0.0.1:3000   Prometheus  http://127.0.0.1:9090")
        print("  Alertmanager  http://127.0.0.1:9095   Jaeger      http://127.0.0.1:16686")
        print("  Kafka UI      http://127.0.0.1:8090")

    def _require_engine(self) -> None:
        """Raises `StackError`: the tool that is missing, or what Docker says when it does not answer."""
        engine.compose_command()
        if problem := engine.engine_problem():
            remedy = "start Docker, or use the native stack: 'STACK=native just up'"
            if self.state.up and self.state.stack == "compose":
                remedy = f"start Docker; if it is gone for good, and its containers with it, delete {self.state.path}"
            raise StackError(f"Docker: {problem}; {remedy}")

    def _matching(self, names: list[str]) -> list[str]:
        services = [
            *self._brokers(),
            "gateway",
            *DATABASE_SERVICES.values(),
            *(service.name for service in SERVICES),
            CONSOLE,
        ]
        chosen: list[str] = []
        for name in names:
            if name == "postgres":
                chosen += DATABASE_SERVICES.values()
            elif name == "kafka":
                chosen += self._brokers()
            elif name == "kafka-1" and len(self._brokers()) > 1:
                chosen.append("kafka")
            elif name in services:
                chosen.append(name)
            else:
                raise StackError(f"there is no {name!r} in Compose; services are postgres, {', '.join(services)}")
        return chosen

    def _scales(self) -> list[str]:
        return [part for name, count in self.state.instances().items() for part in ("--scale", f"{name}={count}")]

    def _compose(self, *arguments: str) -> None:
        code = self._run(*arguments)
        if code == -signal.SIGPIPE:
            raise BrokenPipeError
        if code:
            raise StackError(f"docker compose {' '.join(arguments)} failed with exit code {code}; see above")

    def _run(self, *arguments: str) -> int:
        return self._process(*arguments).returncode

    def _process(
        self,
        *arguments: str,
        stdin: IO[bytes] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [*engine.compose_command(), *self._files(), *arguments]
        environment = self.environment()
        return subprocess.run(command, cwd=ROOT, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, text=True)

    def _files(self) -> list[str]:
        secure, several = bool(self.settings.secure), len(self._brokers()) > 1
        if not secure and not several:
            return []  # Compose finds the first by itself
        chosen = zip(FILES, (True, secure, several, secure and several), strict=True)
        return [part for file, is_chosen in chosen if is_chosen for part in ("-f", file)]

    def _brokers(self) -> list[str]:
        """The services that are brokers. The first has the name of a single one."""
        return ["kafka", *(f"kafka-{number}" for number in range(2, (self.settings.brokers or 1) + 1))]

    def environment(self) -> dict[str, str]:
        """What docker-compose.yml is filled in from: the settings of the stack, not those of this shell or of .env."""
        settings = self.settings
        ports = {name.upper(): str(getattr(settings, name)) for name in PORT_SETTINGS}
        for number in range(2, (settings.brokers or 1) + 1):
            ports[f"KAFKA_PORT_{number}"] = str(settings.kafka_ports(number)[0])
        remembered = {PROJECT: "tandem", "TOPIC_PARTITIONS": str(settings.topic_partitions), **ports}
        # Docker needs the caller's environment, but nothing in it may lead to another project's files.
        others = ("COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_ENV_FILES", "COMPOSE_DISABLE_ENV_FILE")
        caller = {name: value for name, value in os.environ.items() if name not in others}
        # Compose takes its own default for what is empty, and asks .env for what is missing.
        return caller | dict.fromkeys(compose_settings(), "") | remembered | dict(settings.told)

    def _wait_ready(self, services: Iterable[str]) -> None:
        """Return when the gateway reaches a ready instance of every service, and the console is ready."""
        ports = {service.name: self.settings.port(service) for service in SERVICES}
        ports[CONSOLE] = self.settings.console_port
        self._wait(lambda name: unready_at(ports[name], self.settings.authority), services)

    def _wait(self, missing: Callable[[str], str | None], services: Iterable[str]) -> None:
        if late := Waiting(services, READY_S).until_ready(lambda name: Progress(missing(name))):
            self.logs(list(late), lines=20, follow=False)
            reasons = [f"{name} is not ready after {READY_S} s: {lacks}" for name, lacks in late.items()]
            raise StackError("\n".join([*reasons, "see the logs above"]))
