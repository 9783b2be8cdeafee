"""The settings of a stack, and the environment of its processes.

Environment variables are all that configures a process of Tandem. `environment` puts them together, for the
native stack and for the tests, which run on ports and passwords of their own.
"""

import json
import os
import random
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Self, cast, get_args

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
TOPIC_PARTITIONS = int(os.environ.get("TOPIC_PARTITIONS", "6"))
"""The partitions of each topic when it is created; a topic keeps them for ever."""

DATABASES = ("order", "payment", "inventory")
ROLES = ("postgres", "auditor", *DATABASES)


class SettingError(Exception):
    """A setting has a value that cannot be used."""


@dataclass(frozen=True)
class Service:
    """A process of Tandem, of which several instances may run."""

    name: str
    arguments: tuple[str, ...]
    database: str
    port_setting: str
    admin_port_offset: int
    serves: str

    def instance(self, number: int) -> str:
        return f"{self.name}-{number}"


SERVICES = (
    Service("order-api", ("order", "api"), "order", "order_api_port", 100, "orders"),
    Service("order-saga", ("order", "saga"), "order", "order_saga_port", 400, "health and metrics"),
    Service("payment", ("payment",), "payment", "payment_port", 200, "accounts, health and metrics"),
    Service("inventory", ("inventory",), "inventory", "inventory_port", 300, "products, health and metrics"),
)
Kind = Literal["native", "compose"]
"""How a stack runs."""


@dataclass(frozen=True)
class Settings:
    """The environment variable that sets a field has its name in capitals; TANDEM_HOME sets `home`.

    Every port is below the range from which Linux takes the ports of outgoing connections (32768-60999). A listener in
    that range would sometimes fail to restart, because a client had been given its port.
    """

    home: Path = ROOT / ".tandem"
    stack: Kind | None = None
    postgres_port: int = 15432
    kafka_port: int = 9092
    kafka_controller_port: int = 9093
    order_api_port: int = 8081
    payment_port: int = 8082
    inventory_port: int = 8083
    order_saga_port: int = 8084
    admin_port_base: int = 18000

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        ports = {name: _port(name.upper(), environ) for name in PORT_SETTINGS if name.upper() in environ}
        home = Path(environ["TANDEM_HOME"]).absolute() if environ.get("TANDEM_HOME") else ROOT / ".tandem"
        return cls(home=home, stack=_kind(environ.get("STACK", "")), **ports)

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    def port(self, service: Service) -> int:
        port: int = getattr(self, service.port_setting)
        return port

    def admin_port(self, service: Service, number: int) -> int:
        return self.admin_port_base + service.admin_port_offset + number


PORT_SETTINGS = tuple(f.name for f in fields(Settings) if f.type is int)


def _kind(text: str) -> Kind | None:
    if text not in ("", *get_args(Kind)):
        raise SettingError(f"STACK is {text!r}; it is either native or compose")
    return cast(Kind, text) if text else None


def _port(name: str, environ: Mapping[str, str]) -> int:
    try:
        port = int(environ[name])
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        raise SettingError(f"{name} is {environ[name]!r}; a port is a number from 1 to 65535")
    return port


def new_passwords() -> dict[str, str]:
    """A password for each role that a URL can contain unquoted."""
    return {role: secrets.token_urlsafe(24) for role in ROLES}


def stored_passwords(home: Path) -> dict[str, str]:
    """The stack's passwords, made on the first call and kept in a file that only its owner can read."""
    path = home / "secrets.json"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(new_passwords(), file, indent=1)
        unfinished.replace(path)
    passwords: dict[str, str] = json.loads(path.read_text())
    return passwords


def environment(*, kafka_port: int, postgres_port: int, passwords: Mapping[str, str]) -> dict[str, str]:
    """Where Kafka and the databases are, for services and the operator's tools."""

    def url(role: str, database: str) -> str:
        return f"postgresql://{role}:{passwords[role]}@{HOST}:{postgres_port}/{database}?sslmode=disable"

    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{kafka_port}",
        "TOPIC_PARTITIONS": str(TOPIC_PARTITIONS),
        "HTTP_HOST": HOST,
    }
    for database in DATABASES:
        variables[f"{database.upper()}_DATABASE_URL"] = url(database, database)
        variables[f"{database.upper()}_ADMIN_URL"] = url("postgres", "postgres")
        variables[f"{database.upper()}_AUDITOR_URL"] = url("auditor", database)
    return variables


free_port_range = range(20_000, 32_000)
"""Below the ports of outgoing connections. Tests that run side by side share it out."""
_given: set[int] = set()
"""Ports given out by this process: a server may not listen yet on what it was given."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface on which nothing listens, in `free_port_range`; none is given out twice."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            candidate = socket.socket()
            try:
                candidate.bind((HOST, random.choice([port for port in free_port_range if port not in _given])))
            except OSError:
                candidate.close()
            else:
                sockets.append(candidate)
                _given.add(candidate.getsockname()[1])
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()
