"""The stack that chaos plays on: two of each process, each with a proxy of its own before Kafka and its database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dev.servers.kafka import Broker
from dev.servers.postgres import Cluster
from dev.settings import HOST, SERVICES, Service, free_ports
from tests.chaos.disk import Disk
from tests.proxy import Proxy
from tests.stack import Instance, Stack, side_by_side
from tests.waiting import eventually

INSTANCES_EACH: Final = 2
DEADLINE_S: Final = 5
"""Shorter than the session of a group (6 s), so that outages outlast it and late results meet cancelled orders."""
PRODUCTS: Final = 20
SCARCE_PRODUCTS: Final = 20
SCARCE_PIECES: Final = 25
PIECES: Final = 10**9
CUSTOMERS: Final = 120
PROBES: Final = 80
PROBE: Final = "keyed-probe-{}"
BALANCE: Final = 10**12
POOR: Final = 5
"""The number of customers in a hundred that have next to no money."""


class Arena(Stack):
    """A `Stack` whose parts can be reached one by one."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, {"ORDER_SETTLE_DEADLINE_S": str(DEADLINE_S)})
        self.disks = {name: Disk(directory / f"{name}-disk") for name in ("postgres", "kafka")}
        self.postgres = Cluster(self.disks["postgres"].path / "postgres", self.postgres_port, self.secrets)
        self.kafka_links: dict[str, Proxy] = {}
        self.database_links: dict[str, Proxy] = {}
        names = [service.instance(n) for service in SERVICES for n in range(1, INSTANCES_EACH + 1)]
        direct, controller, *ports = free_ports(2 + 3 * len(names))
        self._ports = dict(zip(names, zip(ports[::3], ports[1::3], ports[2::3], strict=True), strict=True))
        self.kafka = self._broker(direct, controller)
        for server in (self.postgres, self.kafka):
            server.log = directory / f"{server.name}.log"  # not on the disk that runs full

    def _broker(self, direct: int, controller: int) -> Broker:
        """A listener for each instance, which reaches it through a proxy; chaos itself and the tools connect directly.
        Kafka tells its clients its address, so it has to advertise the proxy's.
        """
        listeners = {"PLAINTEXT": (direct, direct)} | {
            name.replace("-", "").upper(): (behind, kafka) for name, (behind, kafka, _) in self._ports.items()
        }
        self.variables["KAFKA_BOOTSTRAP_SERVERS"] = f"{HOST}:{direct}"
        return Broker(
            self.disks["kafka"].path / "kafka",
            direct,
            controller,
            {
                "listeners": ",".join(
                    [f"{n}://{HOST}:{port}" for n, (port, _) in listeners.items()]
                    + [f"CONTROLLER://{HOST}:{controller}"]
                ),
                "advertised.listeners": ",".join(f"{n}://{HOST}:{port}" for n, (_, port) in listeners.items()),
                "listener.security.protocol.map": ",".join(f"{n}:PLAINTEXT" for n in (*listeners, "CONTROLLER")),
                "num.network.threads": "1",  # of each listener
            },
        )

    def start(self) -> None:
        """Start everything, with products in stock and customers with money."""
        for disk in self.disks.values():
            disk.mount()
        self.start_infrastructure()
        for name, (behind, kafka, database) in self._ports.items():
            self.kafka_links[name] = Proxy(kafka, behind)
            self.database_links[name] = Proxy(database, self.postgres_port)
        for service in SERVICES:
            for number in range(1, INSTANCES_EACH + 1):
                self.launch(service.name, number)
        for instance in ("inventory-1", "payment-1"):
            eventually(self[instance].listening, f"{instance} listens")
        self._open_shop()
        self.await_ready()

    def _open_shop(self) -> None:
        side_by_side(lambda n: self.product(f"sku-{n}", price=10 + n, pieces=PIECES), range(PRODUCTS))
        side_by_side(lambda n: self.product(f"scarce-{n}", price=7, pieces=SCARCE_PIECES), range(SCARCE_PRODUCTS))
        poor = {number for number in range(CUSTOMERS) if number % 100 < POOR}
        for kind in ("keyed", "plain"):
            self.accounts((f"{kind}-{number}" for number in poor), 50)
            self.accounts((f"{kind}-{number}" for number in range(CUSTOMERS) if number not in poor), BALANCE)
        self.accounts(map(PROBE.format, range(PROBES)), BALANCE)

    def make(self, service: Service, number: int) -> Instance:
        """Put the instance behind its proxies. Instances that a storm adds have none and connect directly."""
        name = service.instance(number)
        variables = dict(self.variables)
        if name in self._ports:
            _, kafka, database = self._ports[name]
            url = f"{service.database.upper()}_DATABASE_URL"
            variables["KAFKA_BOOTSTRAP_SERVERS"] = f"{HOST}:{kafka}"
            variables[url] = variables[url].replace(f":{self.postgres_port}/", f":{database}/")
        return Instance(self.directory, service, number, self.ports[service.name], variables)

    def named(self, target: str) -> list[Instance]:
        """The instance of that name, or all of the service of that name."""
        return [instance for name, instance in self.instances.items() if target in (name, instance.service.name)]

    def ended(self) -> list[str]:
        """Instances that have ended without being told to."""
        return [
            f"{name} ended with {i.process.returncode}"
            for name, i in self.instances.items()
            if i.process is not None and i.process.poll() is not None
        ]

    def unready(self) -> list[str]:
        """What each instance that is not ready lacks."""
        reasons = {name: instance.unready() for name, instance in self.instances.items()}
        return [f"{name}: {missing}" for name, missing in reasons.items() if missing]

    def occurrences(self, words: str) -> int:
        """How often the words occur in the logs of all instances."""
        return sum(log.read_text(errors="replace").count(words) for log in self._logs())

    def _logs(self) -> Iterator[Path]:
        return self.directory.glob("*-[0-9].log")

    def stop(self) -> None:
        super().stop()
        for proxy in (*self.kafka_links.values(), *self.database_links.values()):
            proxy.cut()

    def unmount(self) -> None:
        for disk in self.disks.values():
            disk.unmount()
