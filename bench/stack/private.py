"""A private Tandem to measure, with ports and data of its own.

`python -m bench.stack.private DIRECTORY [--databases-only] [kafka.NAME=VALUE …] [postgres.NAME=VALUE …]` starts the
checkout that it runs in, and prints where everything is as one line of JSON. Then it reads commands, one a line (`start
NAME NUMBER`, `stop NAME NUMBER`, `kill BROKER`, `launch BROKER`, `await BROKER`), and answers each with the same line,
renewed. At the end of its input it stops what it started, so a bench that is killed leaves nothing running. With
BROKERS=3, Kafka is three brokers.

`just bench --against` calls it in checkouts of other revisions: the command line and `Layout` may only grow.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self, TypeVar

import httpx
import msgspec

from bench.stack.processes import Running, Window, ended_cpu_s
from common.config.env import LOOPBACK, Env
from common.config.kafka import brokers
from common.files import write
from common.kafka.access import ADMIN, AUDITOR
from common.postgres import Conn
from common.secrets.passwords import write_password
from common.tls.authority import Authority, Certificate
from common.tls.client import trusting
from dev.environment import child
from dev.logs import tail
from dev.servers.instance import Instance
from dev.servers.kafka import Broker, make_brokers
from dev.servers.postgres import Cluster
from dev.servers.server import Server
from dev.settings import HOST, ROOT, SERVICES, Settings, environment, free_ports, new_passwords, own_auth
from ops.people.issuer import TTL_MAX_S
from ops.people.settings import read_settings

CUSTOMERS_WITH_TOKEN: Final = 10_000
"""Fewer than an order api remembers, so that each token is verified once, as that of a customer who orders often."""
TOKENS: Final = "tokens.txt"
UNREACHED: Final = dict.fromkeys(("LIMIT_ADDRESS", "LIMIT_CUSTOMER", "LIMIT_MACHINE"), "1000000/1000000")
"""One address and one merchant stand for many. Their requests are counted, as everybody's are."""
READY_S: Final = 90.0
STOP_S: Final = 90.0
CAUGHT_UP_S: Final = 600.0
"""A broker that was killed reads its log, and then what it has missed, beside a load."""

T = TypeVar("T")


class Layout(Running, frozen=True, kw_only=True):
    """Where everything is. Processes by instance name (`payment-1`), `kafka` and `postgres`."""

    root: str
    variables: dict[str, str]
    ports: dict[str, int]
    tokens: str = ""
    """With AUTH=on, the file of the customers' tokens."""
    admin_ports: Mapping[str, int] = {}
    """Of the instances."""
    authority: str = ""
    """With SECURE=1, the certificate by which the servers' are verified."""


class StackFailed(Exception):
    """A part of the stack did not start, or a tool failed on it."""


def run_tool(variables: Mapping[str, str], *arguments: str, root: str | Path = ROOT) -> str:
    """Run a tool of a checkout to its end. Returns what it printed. Raises `StackFailed` with that."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env=child(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise StackFailed(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def tokens(variables: Mapping[str, str]) -> Iterator[str]:
    """The token of each customer, and a merchant's, from the issuer of a stack."""
    settings = read_settings(Env("bench", variables))
    key = settings.own_issuer().read()[-1]
    for number in range(CUSTOMERS_WITH_TOKEN):
        yield settings.token(key, f"cust-{number:06}", ("customer",), TTL_MAX_S)
    yield settings.token(key, "bench", ("merchant",), TTL_MAX_S)


def side_by_side(function: Callable[[T], object], values: Iterable[T]) -> None:
    """Call a function for all values at once. Raises the first error."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(function, values))


class System:
    """A private Tandem as the bench sees it: a child process that runs this module. Stopped when the context ends."""

    def __init__(
        self,
        directory: Path,
        *,
        root: Path = ROOT,
        settings: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """`root` is the checkout to run; `settings` are variables of its services; `options` are those of the command
        line above, such as `kafka.num.io.threads=2`. Raises `StackFailed`."""
        self.directory = directory
        directory.mkdir(parents=True)
        # A checkout brings its own stack up. Revisions before the bench had rooms have that in bench/stack.py.
        module = "bench.stack" if (root / "bench/stack.py").exists() else "bench.stack.private"
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(directory), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=child(settings, downloads=True),
            # A signal to the bench's process group must not end the stack's process before it has stopped what it
            # started. The end of its input tells it to stop.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout
        self.layout = self._answer()
        self.brokers = brokers(Env("bench", self.layout.variables))
        self.api_port = self.layout.ports["order-api"]
        authority = self.layout.authority
        self.client = httpx.Client(verify=trusting(Path(authority)) if authority else True, trust_env=False)

    def _answer(self) -> Layout:
        line = self._answers.readline()
        if not line:
            raise StackFailed(f"the stack ended with {self._process.wait()}; its last words are above")
        return msgspec.json.decode(line, type=Layout)

    def _command(self, *words: str | int) -> None:
        print(*words, file=self._commands, flush=True)
        self.layout = self._answer()

    def start(self, service: str, number: int = 1) -> None:
        """Start an instance and wait until it is ready."""
        self._command("start", service, number)

    def stop(self, service: str, number: int = 1) -> None:
        """Stop an instance: it finishes its batch and leaves the group."""
        self._command("stop", service, number)

    def url(self, service: str, path: str) -> str:
        """The address of a resource of a service, such as `/products/sku-0001`."""
        return f"http{'s' * bool(self.layout.authority)}://{HOST}:{self.layout.ports[service]}/api/v1{path}"

    def post(self, service: str, path: str, body: object) -> None:
        """Send a request to a service. Raises `HTTPError` unless it is done."""
        self.client.post(self.url(service, path), json=body).raise_for_status()

    def kill(self, broker: str) -> None:
        """Kill a broker, by its name."""
        self._command("kill", broker)

    def revive(self, broker: str) -> None:
        """Start a broker that was killed, and wait until it has all records."""
        self._command("launch", broker)  # from now on, what it takes is counted
        self._command("await", broker)

    def window(self) -> Window:
        """CPU used from now on by the stack, whatever is started or ends meanwhile."""
        return Window(lambda: self.layout)

    def environment(self) -> dict[str, str]:
        """The environment in which a tool finds this stack."""
        return child(self.layout.variables)

    def tool(self, *arguments: str) -> str:
        """Run a tool of this stack's checkout to its end. Returns what it printed. Raises `StackFailed` with that."""
        return run_tool(self.layout.variables, *arguments, root=self.layout.root)

    def connect(self, service: str) -> Conn:
        """A superuser's connection to a service's database."""
        url = self.layout.variables[f"{service.upper()}_ADMIN_URL"]
        return Conn.connect(url, dbname=service, autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.close()
        self._answers.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Stack:
    """The servers and the instances, in the process that runs this module."""

    def __init__(self, directory: Path, options: Mapping[str, Mapping[str, str]]) -> None:
        """`options` are settings of `kafka` and `postgres` that differ from Tandem's own."""
        self.directory = directory
        secrets = directory / "secrets"
        for role, password in new_passwords().items():
            write_password(secrets, role, password)
        [postgres_port] = free_ports(1)
        self.authority = Authority(secrets) if Env("bench").flag("SECURE") else None
        authority = None if self.authority is None else self.authority.path
        certificate = self.certificate("postgres")
        self.postgres = Cluster(directory / "postgres", postgres_port, secrets, options["postgres"], certificate)
        count, secure = Settings.from_environment().brokers or 1, authority is not None
        self.brokers = make_brokers(directory, count, options["kafka"], secrets, secure=secure)
        self.ports = dict(zip([s.name for s in SERVICES], free_ports(len(SERVICES)), strict=True))
        self.auth = directory / "auth" if os.environ.get("AUTH") == "on" else None
        self.variables = environment(
            kafka_servers=self.brokers[0].brokers(AUDITOR).servers,
            postgres_port=postgres_port,
            folder=secrets,
            auth={"AUTH": "off"} if self.auth is None else own_auth(self.auth),
            authority=authority,
        )
        self.variables |= UNREACHED | self.brokers[0].identity(ADMIN)
        if "TANDEM_PLANTED" in os.environ:  # see bench.planted
            self.variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
        self.instances: dict[str, Instance] = {}
        self.ended_cpu_s: dict[str, float] = {}

    def start(self, *, databases_only: bool) -> None:
        """Start the servers, load the demo data, start one instance of each service."""
        servers = [self.postgres] if databases_only else [self.postgres, *self.brokers]
        side_by_side(lambda server: server.start(READY_S), servers)
        if self.auth is not None:
            run_tool(self.variables, "ops.people")
            write(self.auth / TOKENS, "\n".join(tokens(self.variables)), 0o600)
        run_tool(self.variables, "ops.migrate")
        if not databases_only:
            run_tool(self.variables, "ops.topics", "create")
        side_by_side(lambda service: run_tool(self.variables, service, "load-demo"), ("payment", "inventory"))
        if not databases_only:
            side_by_side(lambda service: self.launch(service.name, 1), SERVICES)

    def launch(self, name: str, number: int) -> None:
        """Start an instance and wait until it is ready."""
        service = next(s for s in SERVICES if s.name == name)
        variables = self.variables | self.brokers[0].identity(name)
        certificate = self.certificate(name)
        instance = Instance(self.directory, service, number, self.ports[name], variables, certificate=certificate)
        self.instances[instance.name] = instance
        instance.start(READY_S)

    def certificate(self, name: str) -> Certificate | None:
        """The certificate of a server; None when it serves in the clear."""
        return None if self.authority is None else self.authority.ensure(name, (name, *LOOPBACK))

    def broker(self, name: str) -> Broker:
        return next(broker for broker in self.brokers if broker.name == name)

    def layout(self) -> Layout:
        servers: list[Server] = [self.postgres, *self.brokers, *self.instances.values()]
        return Layout(
            root=str(ROOT),
            variables=self.variables,
            ports=self.ports,
            tokens="" if self.auth is None else str(self.auth / TOKENS),
            admin_ports={name: instance.admin_port for name, instance in self.instances.items()},
            authority="" if self.authority is None else str(self.authority.path),
            ended_cpu_s=self.ended_cpu_s,
            pids={s.name: s.process.pid for s in servers if s.process is not None and s.process.poll() is None},
        )

    def end(self, name: str, end: Callable[[], None]) -> None:
        """Stop or kill what has this name, and remember what it took."""
        self.ended_cpu_s[name] = self.ended_cpu_s.get(name, 0.0) + ended_cpu_s(end)

    def stop(self) -> None:
        """Kill everything: nothing is kept."""
        for server in (*self.instances.values(), *self.brokers, self.postgres):
            server.kill()


def main(directory: str, *options: str) -> None:
    # Output of anything called here must not get between the lines of JSON.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    settings: dict[str, dict[str, str]] = {"kafka": {}, "postgres": {}}
    for name, is_setting, value in (option.partition("=") for option in options):
        if is_setting:
            server, setting = name.split(".", 1)
            settings[server][setting] = value
    stack = Stack(Path(directory), settings)
    try:
        stack.start(databases_only="--databases-only" in options)
        answers.write(msgspec.json.encode(stack.layout()) + b"\n")
        for line in sys.stdin:
            match line.split():
                case ["start", name, number]:
                    stack.launch(name, int(number))
                case ["stop", name, number]:
                    instance = stack.instances.pop(f"{name}-{number}")
                    stack.end(instance.name, instance.stop)
                case ["kill", name]:
                    stack.end(name, stack.broker(name).kill)
                case ["launch", name]:
                    stack.broker(name).launch()
                case ["await", name]:
                    stack.broker(name).await_serving(CAUGHT_UP_S)
                case unknown:
                    raise StackFailed(f"no such command: {unknown}")
            answers.write(msgspec.json.encode(stack.layout()) + b"\n")
    except Exception:
        sys.stderr.writelines(f"{name}:\n{tail(instance.log)}\n" for name, instance in stack.instances.items())
        raise
    finally:
        stack.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
