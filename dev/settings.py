"""The settings of a stack, and the environment of its processes.

Environment variables are all that configures a process of Tandem. All of it is checked here, before anything starts:
the stack's own settings, and those that its processes will read. `environment` puts together what only the stack knows,
for the native stack and for the tests, which run on ports and passwords of their own.
"""

import difflib
import os
import random
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Self, cast, get_args

import inventory.config
import order.config
import payment.config
from common.config.env import PORT_MAX, Env
from common.config.kafka import KAFKA_SECURITY, TOPIC_PARTITIONS, topic_partitions
from common.errors import Fatal
from common.secrets.passwords import database_url, new_password
from common.terminal import shortened
from common.tls.authority import Authority, Certificate

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
DATABASES = ("order", "payment", "inventory")
SHARED_ROLES = ("postgres", "auditor")
"""Every other role has a database of the same name."""
ROLES = (*SHARED_ROLES, *DATABASES)
CONSOLE = "console"
CONSOLE_ADMIN_OFFSET = 500
INSTANCES_MAX = 99
"""The limit of a native service, whose admin ports are a block of a hundred."""


@dataclass(frozen=True)
class Service:
    """A process of Tandem, of which several instances may run."""

    name: str
    arguments: tuple[str, ...]
    database: str
    port_setting: str
    admin_port_offset: int
    serves: str
    read_settings: Callable[[Env], object]

    def instance(self, number: int) -> str:
        return f"{self.name}-{number}"


SERVICES = (
    Service("order-api", ("order", "api"), "order", "order_api_port", 100, "orders", order.config.api),
    Service("order-saga", ("order", "saga"), "order", "order_saga_port", 400, "health and metrics", order.config.saga),
    Service(
        "payment", ("payment",), "payment", "payment_port", 200, "accounts, health and metrics", payment.config.load
    ),
    Service(
        *("inventory", ("inventory",), "inventory", "inventory_port", 300),
        *("products, health and metrics", inventory.config.load),
    ),
)
ADMIN_PORTS = range(
    min(service.admin_port_offset for service in SERVICES) + 1,
    CONSOLE_ADMIN_OFFSET + 1,
)
"""The admin ports of all instances and of the console, from ADMIN_PORT_BASE on."""
BROKERS: Final = ("1", "3")
KAFKA_PORTS: Final = ("kafka_port", "kafka_controller_port", "kafka_certificates_port")
BROKER_PORTS: Final = 100
"""How far the ports of a broker are above those of the one before it."""
Kind = Literal["native", "compose"]
"""How a stack runs."""
Standbys = Literal["0", "1", "async"]
"""Whether each database has a standby, and a commit waits for it (`1`) or not (`async`)."""


@dataclass(frozen=True)
class Settings:
    """The environment variable that sets a field has its name in capitals; TANDEM_HOME sets `home`.

    Every port is below the range from which Linux takes the ports of outgoing connections (32768-60999). A listener in
    that range would sometimes fail to restart, because a client had been given its port.
    """

    home: Path = ROOT / ".tandem"
    stack: Kind | None = None
    secure: bool | None = None
    """Whether nothing is sent in the clear. None: as the stack was started last."""
    standbys: Standbys | None = None
    """None: as the stack was started last."""
    postgres_port: int = 15432
    brokers: int | None = None
    """How many brokers Kafka has, 1 or 3. None: as the stack was started last."""
    kafka_port: int = 9092
    kafka_controller_port: int = 9093
    kafka_certificates_port: int = 9094
    order_api_port: int = 8081
    payment_port: int = 8082
    inventory_port: int = 8083
    order_saga_port: int = 8084
    console_port: int = 8080
    admin_port_base: int = 18000
    topic_partitions: int = TOPIC_PARTITIONS
    told: Mapping[str, str] = field(default_factory=dict)
    """The settings of processes and Compose's project, as their variables have them, when they are not the defaults."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read and compare the stack's settings. Raises `Fatal`."""
        env = Env("", environ)
        ports = {name: env.port(name.upper(), getattr(cls, name), most=_port_max(name)) for name in PORT_SETTINGS}
        stack = cast(Kind, env.choice("STACK", "", get_args(Kind))) if "STACK" in environ else None
        home = _home(env.text("TANDEM_HOME", ".tandem", printable=False))
        secure = env.flag("SECURE") if "SECURE" in environ else None
        brokers = int(env.choice("BROKERS", "1", BROKERS)) if "BROKERS" in environ else None
        standbys = cast(Standbys, env.choice("STANDBYS", "", get_args(Standbys))) if "STANDBYS" in environ else None
        told = {name: environ[name] for name in sorted(PROCESS_SETTINGS | {PROJECT}) if name in environ}
        partitions = topic_partitions(env)
        settings = cls(
            home=home,
            stack=stack,
            secure=secure,
            standbys=standbys,
            brokers=brokers,
            topic_partitions=partitions,
            told=told,
            **ports,
        )
        settings.check_ports()
        return settings

    def check_ports(self) -> None:
        """Raises `Fatal` when two ports are the same, or will be when a service is scaled."""
        ports = {name.upper(): getattr(self, name) for name in PORT_SETTINGS if name != "admin_port_base"}
        for number in range(2, (self.brokers or 1) + 1):
            names = (name.upper() for name in KAFKA_PORTS)
            ports |= {
                f"{name} of kafka-{number}": port for name, port in zip(names, self.kafka_ports(number), strict=True)
            }
        for further in range(1, 2 * len(DATABASES) if self.has_standbys else 1):
            ports[f"POSTGRES_PORT+{further}"] = self.postgres_port + further
        for (name, port), (other_name, other_port) in combinations(ports.items(), 2):
            if port == other_port:
                raise Fatal(f"{name}={port} and {other_name}={other_port} are the same; each needs a port of its own")
        first, last = (self.admin_port_base + offset for offset in (ADMIN_PORTS[0], ADMIN_PORTS[-1]))
        for name, port in ports.items():
            if first <= port <= last:
                raise Fatal(
                    f"{name}={port} is among the admin ports of the instances, {first} to {last} "
                    f"(ADMIN_PORT_BASE={self.admin_port_base}); change one of the two"
                )

    def risky_ports(self, outgoing: range | None = None) -> Iterator[str]:
        """A sentence about each chosen port that the system may give to an outgoing connection (`outgoing`)."""
        outgoing = outgoing_ports() if outgoing is None else outgoing
        bounds = f"{outgoing.start} to {outgoing.stop - 1}"
        for name in PORT_SETTINGS:
            port = getattr(self, name)
            last = port + ADMIN_PORTS[-1] if name == "admin_port_base" else port
            if port != getattr(Settings, name) and (port in outgoing or last in outgoing):
                chosen = f"{name.upper()}={port}"
                yield f"{chosen} is among the ports of outgoing connections ({bounds}): a restart may find it taken"

    def kafka_ports(self, number: int) -> tuple[int, int, int]:
        """Where a broker listens to clients, to controllers, and to clients that show certificates."""
        further = BROKER_PORTS * (number - 1)
        ports = self.kafka_port, self.kafka_controller_port, self.kafka_certificates_port
        return ports[0] + further, ports[1] + further, ports[2] + further

    @property
    def kafka_servers(self) -> str:
        """Where clients find Kafka."""
        return ",".join(f"{HOST}:{self.kafka_ports(number)[0]}" for number in range(1, (self.brokers or 1) + 1))

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def auth(self) -> Path:
        return self.home / "auth"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def authority(self) -> Path | None:
        """The certificate of the stack's authority; None when nothing is encrypted."""
        return Authority(self.secrets).path if self.secure else None

    @property
    def secrets(self) -> Path:
        """The folder of passwords, keys and certificates."""
        return self.home / "secrets"

    @property
    def has_standbys(self) -> bool:
        return self.standbys not in (None, "0")

    def postgres_ports(self, database: str) -> list[int]:
        """The ports of the servers that a database may be on. One that is not among `DATABASES` is beside the first."""
        if not self.has_standbys:
            return [self.postgres_port]
        first = self.postgres_port + 2 * (DATABASES.index(database) if database in DATABASES else 0)
        return [first, first + 1]

    def port(self, service: Service) -> int:
        port: int = getattr(self, service.port_setting)
        return port

    @property
    def console_admin_port(self) -> int:
        return self.admin_port_base + CONSOLE_ADMIN_OFFSET

    def admin_port(self, service: Service, number: int) -> int:
        return self.admin_port_base + service.admin_port_offset + number


PORT_SETTINGS = tuple(f.name for f in fields(Settings) if "port" in f.name)
STACK_SETTINGS = frozenset(f.name.upper() for f in fields(Settings)) - {"HOME", "TOLD"} | {"TANDEM_HOME"}
HOME_BYTES_MAX = 900
"""PostgreSQL takes paths of up to 1,023 bytes, and makes some within the home."""
NAME_BYTES_MAX = 255


def _home(text: str) -> Path:
    """The real path of TANDEM_HOME, so that a stack has one name. A relative one begins at the checkout."""
    problem = ""
    try:
        home = (ROOT / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, ~ of a user who is not there
        raise Fatal(f"TANDEM_HOME={text!r} is no folder: {error}") from error
    encoded = os.fsencode(home)
    if len(encoded) > HOME_BYTES_MAX:
        problem = f"its path has {len(encoded)} bytes, at most {HOME_BYTES_MAX} are allowed"
    elif max(map(len, encoded.split(b"/"))) > NAME_BYTES_MAX:
        problem = f"a name in its path has more than {NAME_BYTES_MAX} bytes"
    elif any(byte < 32 or byte == 127 for byte in encoded):
        problem = "its path has a control character, which no configuration file can hold"
    else:
        try:
            encoded.decode("utf-8")
        except UnicodeDecodeError:
            problem = "its path is not UTF-8, which Kafka could not read"
    if problem:
        raise Fatal(f"TANDEM_HOME={shortened(repr(str(home)), 120)}: {problem}; set it to another folder")
    return home


def _port_max(name: str) -> int:
    if name.startswith("kafka"):
        return PORT_MAX - BROKER_PORTS * (int(BROKERS[-1]) - 1)
    return PORT_MAX - ADMIN_PORTS[-1] if name == "admin_port_base" else PORT_MAX


def outgoing_ports() -> range:
    """The ports from which Linux takes those of outgoing connections; none on other systems."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return range(0)
    return range(int(first), int(last) + 1)


def check_processes(environ: Mapping[str, str]) -> None:
    """Read the settings of every process as it will read them itself. Raises `Fatal` with a line for each problem."""
    problems: list[str] = []
    for service in SERVICES:
        try:
            service.read_settings(Env("", {**_OWN_AUTH, **environ, **_EXAMPLE}))
        except Fatal as error:
            problems.append(str(error))
    if problems:
        raise Fatal("\n".join(dict.fromkeys(problems)))


def dotenv() -> str:
    """The text of .env, which just has read into the environment."""
    path = ROOT / ".env"
    return path.read_text(errors="replace") if path.is_file() else ""


def unknown_settings(environ: Iterable[str], dotenv: str = "", *, kind: Kind = "native") -> Iterator[str]:
    """A sentence about each variable that looks like a setting of Tandem and is none, and about each that has no effect
    on this kind of stack. `dotenv` is the text of .env, where every variable is meant for Tandem."""
    names = set(environ)
    in_file = set(re.findall(r"^\s*(?:export\s+)?(\w+)\s*=", dotenv, re.MULTILINE))
    for name in sorted(names | in_file):
        if kind == "compose" and name in OWN_SETTINGS - compose_settings():
            yield f"{name} has no effect in Compose: set it in docker-compose.yml"
        if name in OWN_SETTINGS or name.startswith(_NOT_OURS):
            continue
        if name in _STATED:
            yield f"{name} has no effect: the stack sets it"
        elif close := difflib.get_close_matches(name.upper(), OWN_SETTINGS, n=1, cutoff=0.84):
            yield f"{name} is not a setting of Tandem; did you mean {close[0]}?"
        elif name.startswith(_LIKE_OURS) or name in in_file:
            yield f"{name} is not a setting of Tandem; docs/OPERATIONS.md lists them"


def compose_settings() -> frozenset[str]:
    """The settings that have an effect in Compose."""
    passed_on = re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())
    return frozenset({"STACK", "TANDEM_HOME", "BROKERS", PROJECT, *passed_on})


def new_passwords() -> dict[str, str]:
    """A password for each role."""
    return {role: new_password() for role in ROLES}


def certificate_settings(certificate: Certificate | None) -> dict[str, str]:
    """What a server of HTTP shows; nothing when it serves plain HTTP."""
    if certificate is None:
        return {}
    return {"TLS_CERT_FILE": str(certificate.certificate), "TLS_KEY_FILE": str(certificate.key)}


def own_auth(folder: Path) -> dict[str, str]:
    """The stack's own issuer of tokens, and its API keys. `just token` and `just keys` alone read the last file."""
    return {
        "AUTH_ISSUER": "tandem",
        "AUTH_JWKS": str(folder / "jwks.json"),
        "AUTH_KEYS_FILE": str(folder / "keys.json"),
        "AUTH_ISSUER_FILE": str(folder / "issuer.json"),
    }


def environment(
    *,
    kafka_servers: str,
    postgres_port: int | Callable[[str], Sequence[int]],
    folder: Path,
    databases: Iterable[str] = DATABASES,
    authority: Path | None = None,
    partitions: int | None = None,
    auth: Mapping[str, str] = MappingProxyType({"AUTH": "off"}),
) -> dict[str, str]:
    """Where Kafka and the databases are, and who may ask, for services and the operator's tools. `postgres_port` is
    that of all databases, or gives the ports of the servers that a database may be on. `folder` has the password files
    of the roles. With an authority, whose certificate this is, all of it is encrypted. By default, `partitions` are
    those of this process's own setting, and everybody may ask."""

    def url(role: str, database: str, ports_of: str, *, writes: bool = True) -> str:
        ports = [postgres_port] if isinstance(postgres_port, int) else postgres_port(ports_of)
        return database_url(role, database, host=HOST, ports=ports, folder=folder, authority=authority, writes=writes)

    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka_servers,
        "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
        "TOPIC_PARTITIONS": str(partitions or topic_partitions(Env(""))),
        "TOPIC_REPLICAS": str(len(kafka_servers.split(","))),
        "HTTP_HOST": HOST,
        **auth,
    }
    if authority is not None:
        variables["TLS_CA_FILE"] = str(authority)
    for database in databases:
        variables[f"{database.upper()}_DATABASE_URL"] = url(database, database, database)
        variables[f"{database.upper()}_ADMIN_URL"] = url("postgres", "postgres", database)
        variables[f"{database.upper()}_AUDITOR_URL"] = url("auditor", database, database, writes=False)
    return variables


def _names_read(environ: Mapping[str, str]) -> set[str]:
    env = Env("", {**_OWN_AUTH, **environ})
    for service in SERVICES:
        service.read_settings(env)
    return env.names


_OWN_AUTH: Final = {"AUTH_ISSUER": "tandem", "AUTH_JWKS": "https://127.0.0.1/jwks.json"}
"""Stands for files that `just up` makes before a process reads them."""
_EXAMPLE: Final = {
    **environment(kafka_servers="127.0.0.1:9092", postgres_port=15432, folder=Path("/"), partitions=6, auth={}),
    **dict.fromkeys(KAFKA_SECURITY, "x"),
    "AUTH_ISSUER_FILE": "x",
    "INSTANCE": "x",
    "HTTP_PORT": "1",
    "ADMIN_PORT": "2",
}
"""The variables that the stack sets for each process, and that nothing else can set."""
_STATED: Final = frozenset(_EXAMPLE) | {"TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE"}
PROCESS_SETTINGS: Final = frozenset(_names_read(_EXAMPLE)) - _STATED
"""What a process reads and the stack passes on from the caller's environment."""
PROJECT: Final = "COMPOSE_PROJECT_NAME"
OWN_SETTINGS: Final = STACK_SETTINGS | PROCESS_SETTINGS | {PROJECT, "TOPIC_REPLICAS"}
_LIKE_OURS: Final = ("INVENTORY_", "ORDER_", "ORDERS_", "PAYMENT_", "TANDEM_", "TOPIC_")
_NOT_OURS: Final = ("COMPOSE_", "DOCKER_", "SSL_", "TANDEM_CALLER", "TANDEM_TEST_")


free_port_range = range(20_000, 32_000)
"""Below the ports of outgoing connections. Tests that run side by side share it out."""
_handed_out: set[int] = set()
"""Ports given out by this process: a server may not listen yet on what it was given."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface on which nothing listens, in `free_port_range`; none is given out twice."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            candidate = socket.socket()
            try:
                candidate.bind((HOST, random.choice([port for port in free_port_range if port not in _handed_out])))
            except OSError:
                candidate.close()
            else:
                sockets.append(candidate)
                _handed_out.add(candidate.getsockname()[1])
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()
