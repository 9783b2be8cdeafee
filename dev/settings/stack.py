"""The settings of a stack, checked before anything starts."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import Final, Literal, Self, cast, get_args

from common.config.env import PORT_MAX, Env
from common.config.kafka import TOPIC_PARTITIONS, topic_partitions
from common.errors import Fatal
from common.terminal import shortened
from common.tls.authority import Authority
from dev.settings.ports import outgoing_ports
from dev.settings.processes import PROCESS_SETTINGS, PROJECT
from dev.settings.services import ADMIN_PORTS, CONSOLE_ADMIN_OFFSET, DATABASES, HOST, ROOT, Service

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
