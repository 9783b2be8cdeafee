"""What the native stack consists of: PostgreSQL, Kafka and the instances of the services."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.config.env import LOOPBACK
from common.kafka.access import BROKER, OPERATOR, WARM_UP
from common.tls.authority import Authority, Certificate
from dev.home import databases
from dev.native.pairs import Pairs
from dev.native.supervise import Status
from dev.servers.console import Console
from dev.servers.instance import Instance
from dev.servers.kafka import Broker
from dev.servers.postgres import Cluster
from dev.servers.processes import is_frozen, listener
from dev.servers.quorum import Node, Quorum
from dev.servers.server import Server
from dev.servers.warmth import Warmer
from dev.settings import CONSOLE, HOST, KAFKA_PORTS, SERVICES, Settings, environment, own_auth
from dev.stack import StackError

TARGETS = "targets.json"


class Programs:
    def __init__(self, settings: Settings, counts: Mapping[str, int]) -> None:
        """`counts` are the instances of each service."""
        self.settings = settings
        self.instances = {
            service.instance(number): (service, number)
            for service in SERVICES
            for number in range(1, counts[service.name] + 1)
        }
        count = settings.brokers or 1
        self.brokers = {f"kafka-{number}": number for number in range(1, count + 1)} if count > 1 else {"kafka": 1}
        self.pairs = Pairs(settings)
        self.clusters = list(self.pairs.ports) or ["postgres"]
        self.servers = [*self.clusters, *self.brokers]
        self.names = [*self.servers, *self.instances, CONSOLE]

    def matching(self, names: Iterable[str]) -> list[str]:
        """The programs of these names. The name of a service means all its instances."""
        chosen: list[str] = []
        for name in names:
            programs = [p for p in self.names if name in (p, p.rpartition("-")[0])]
            if name == "postgres":
                programs = self.clusters
            if not programs:
                service, _, number = name.rpartition("-")
                if service in {s.name for s in SERVICES} and number.isdecimal() and int(number):
                    raise StackError(f"there is no {name!r}; 'just scale {service}={number}' adds it")
                services = ", ".join([*self.servers, *(service.name for service in SERVICES), CONSOLE])
                raise StackError(
                    f"there is no {name!r}; services are {services}, instances are {', '.join(self.instances)}"
                )
            chosen += [program for program in programs if program not in chosen]
        return chosen

    def turns(self, chosen: Iterable[str]) -> list[list[str]]:
        """These programs in groups, to restart one group after the other: PostgreSQL with the first broker, the further
        brokers, then the first instance of each service, then the second ones, and so on."""
        turns: dict[tuple[bool, int], list[str]] = {}
        for name in chosen:
            number = self.instances[name][1] if name in self.instances else self.brokers.get(name, 1)
            turns.setdefault((name not in self.servers, number), []).append(name)
        return [turns[turn] for turn in sorted(turns)]

    def lacking(self, status: Status) -> str | None:
        """What a program that supervisord runs lacks; None when it is ready."""
        if is_frozen(status.pid):
            return f"frozen; 'just thaw {status.name}' lets it go on"
        return self.server(status.name).unready()

    def server(self, name: str) -> Server:
        settings = self.settings
        if name in self.pairs.ports:
            return self.pairs.member(name)
        if name == "postgres":
            certificate = self.certificate(name)
            cluster = Cluster(settings.home / name, settings.postgres_port, settings.secrets, certificate=certificate)
            cluster.cache = settings.cache
            return cluster
        if name in self.brokers:
            return self._broker(name)
        if name == WARM_UP:
            return Warmer(settings.home, self.environment(WARM_UP))
        if name == CONSOLE:
            addresses = (settings.console_port, settings.console_admin_port, settings.order_api_port)
            return Console(
                settings.home, *addresses, self.targets_path, self.environment(CONSOLE), self.certificate(name)
            )
        service, number = self.instances[name]
        ports = (settings.port(service), settings.admin_port(service, number))
        certificate = self.certificate(service.name)
        return Instance(settings.home, service, number, ports[0], self.environment(service.name), ports[1], certificate)

    def _broker(self, name: str) -> Broker:
        settings, number = self.settings, self.brokers[name]
        port, controller_port, certificates_port = settings.kafka_ports(number)
        quorum = None
        if len(self.brokers) > 1:
            nodes = [Node(other, *settings.kafka_ports(other)) for other in self.brokers.values()]
            quorum = Quorum(settings.home, nodes)
        return Broker(
            settings.home / name,
            port,
            controller_port,
            cache=settings.cache,
            secrets=settings.secrets,
            certificates_port=certificates_port if settings.secure else None,
            quorum=quorum,
            number=number,
        )

    def certificate(self, name: str) -> Certificate | None:
        """The certificate of a server; None when it serves in the clear."""
        return Authority(self.settings.secrets).ensure(name, (name, *LOOPBACK)) if self.settings.secure else None

    def renew_certificates(self) -> None:
        """Make new certificates. The services read them by themselves, PostgreSQL and the broker when told."""
        authority = Authority(self.settings.secrets)
        for name in dict.fromkeys(["postgres", *(service.name for service, _ in self.instances.values()), CONSOLE]):
            authority.renew(name, (name, *LOOPBACK))
        for name in self.clusters:
            cluster = self.server(name)
            assert isinstance(cluster, Cluster)
            cluster.show_certificate()
        for name in authority.clients():
            authority.renew(name, purpose="client")
        authority.renew(BROKER, purpose="both")
        for name in self.brokers:
            self._broker(name).show_certificate()

    @property
    def targets_path(self) -> Path:
        return self.settings.home / TARGETS

    def targets(self) -> list[dict[str, Any]]:
        """The admin ports of all instances, in the format of Prometheus' `file_sd_configs`."""
        return [
            {
                "targets": [f"{HOST}:{self.settings.admin_port(service, number)}"],
                "labels": {"service": service.name, "database": service.database, "instance": name},
            }
            for name, (service, number) in self.instances.items()
        ]

    def tools_environment(self, user: str = OPERATOR) -> dict[str, str]:
        """That of the operator's tools, which alone know where the issuer's private keys are."""
        return own_auth(self.settings.auth) | self.environment(user)

    def environment(self, user: str = OPERATOR) -> dict[str, str]:
        """The variables of a process, which is `user` at the broker."""
        told = own_auth(self.settings.auth) | dict(self.settings.told)
        del told["AUTH_ISSUER_FILE"]
        variables = told | environment(
            auth={},
            kafka_servers=self.settings.kafka_servers,
            postgres_port=self.settings.postgres_ports,
            folder=self.settings.secrets,
            databases=databases(self.settings.home),
            authority=self.settings.authority,
            partitions=self.settings.topic_partitions,
        )
        return variables | self._broker(next(iter(self.brokers))).identity(user)

    def ports(self, name: str) -> dict[str, int]:
        """The ports on which a program listens, by the setting that decides each."""
        settings = self.settings
        if name in self.pairs.ports:
            return {"POSTGRES_PORT": self.pairs.ports[name]}
        if name == "postgres":
            return {"POSTGRES_PORT": settings.postgres_port}
        if name in self.brokers:
            listening = KAFKA_PORTS if settings.secure else KAFKA_PORTS[:2]
            return {
                setting.upper(): port
                for setting, port in zip(listening, settings.kafka_ports(self.brokers[name]), strict=False)
            }
        if name == CONSOLE:
            return {"CONSOLE_PORT": settings.console_port, "ADMIN_PORT_BASE": settings.console_admin_port}
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
