"""What the native stack consists of: PostgreSQL, Kafka and the instances of the services."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dev.home import stored_passwords
from dev.servers.instance import Instance
from dev.servers.kafka import Broker
from dev.servers.postgres import Cluster
from dev.servers.processes import listener
from dev.servers.server import Server
from dev.settings import SERVICES, Settings, environment
from dev.stack import StackError

SERVERS = ("postgres", "kafka")


class Programs:
    def __init__(self, settings: Settings, counts: Mapping[str, int]) -> None:
        """`counts` are the instances of each service."""
        self.settings = settings
        self.instances = {
            service.instance(number): (service, number)
            for service in SERVICES
            for number in range(1, counts[service.name] + 1)
        }
        self.names = [*SERVERS, *self.instances]

    def matching(self, names: Iterable[str]) -> list[str]:
        """The programs of these names. The name of a service means all its instances."""
        chosen: list[str] = []
        for name in names:
            programs = [p for p in self.names if name in (p, p.rpartition("-")[0])]
            if not programs:
                service, _, number = name.rpartition("-")
                if service in {s.name for s in SERVICES} and number.isdecimal() and int(number):
                    raise StackError(f"there is no {name!r}; 'just scale {service}={number}' adds it")
                services = ", ".join([*SERVERS, *(service.name for service in SERVICES)])
                raise StackError(
                    f"there is no {name!r}; services are {services}, instances are {', '.join(self.instances)}"
                )
            chosen += [program for program in programs if program not in chosen]
        return chosen

    def turns(self, chosen: Iterable[str]) -> list[list[str]]:
        """These programs in groups, to restart one group after the other: the servers, then the first instance of each
        service, then the second ones, and so on."""
        turns: dict[int, list[str]] = {}
        for name in chosen:
            turns.setdefault(self.instances[name][1] if name in self.instances else 0, []).append(name)
        return [turns[number] for number in sorted(turns)]

    def server(self, name: str) -> Server:
        settings = self.settings
        if name == "postgres":
            return Cluster(settings.home / name, settings.postgres_port, stored_passwords(settings.home)["postgres"])
        if name == "kafka":
            ports = (settings.kafka_port, settings.kafka_controller_port)
            return Broker(settings.home / name, *ports, cache=settings.cache)
        service, number = self.instances[name]
        ports = (settings.port(service), settings.admin_port(service, number))
        return Instance(settings.home, service, number, ports[0], self.environment(), ports[1])

    def environment(self) -> dict[str, str]:
        return dict(self.settings.told) | environment(
            kafka_port=self.settings.kafka_port,
            postgres_port=self.settings.postgres_port,
            passwords=stored_passwords(self.settings.home),
            partitions=self.settings.topic_partitions,
        )

    def ports(self, name: str) -> dict[str, int]:
        """The ports on which a program listens, by the setting that decides each."""
        settings = self.settings
        if name == "postgres":
            return {"POSTGRES_PORT": settings.postgres_port}
        if name == "kafka":
            return {"KAFKA_PORT": settings.kafka_port, "KAFKA_CONTROLLER_PORT": settings.kafka_controller_port}
        service, number = self.instances[name]
        port, admin_port = settings.port(service), settings.admin_port(service, number)
        return {service.port_setting.upper(): port, "ADMIN_PORT_BASE": admin_port}

    def listeners(self, names: Iterable[str]) -> Iterator[tuple[int, str, str | None]]:
        """Each port of these programs, the setting that decides it, and what listens there already."""
        ports = {port: setting for name in names for setting, port in self.ports(name).items()}  # instances share some
        for port, setting in ports.items():
            yield port, setting, listener(port)

    def log(self, name: str) -> Path:
        return self.settings.logs / f"{name}.log"
