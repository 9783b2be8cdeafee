"""A stack with three brokers, which reach one another through proxies: one of them can be cut off.

All of them listen on the loopback, so a proxy could not tell who connects. Therefore each broker has a hosts file of
its own, by which it finds each of the others at an address of the loopback that no one else uses.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from confluent_kafka.admin import AdminClient

from common.events import ORDERS, PRODUCTS, READERS
from common.kafka.clients import client_config
from dev.servers.kafka import Broker
from dev.servers.quorum import NODES, Node, Quorum
from dev.settings import HOST, SERVICES, free_ports
from tests.proxy import Proxy
from tests.servers import Servers
from tests.stack import Stack

ISR_S: Final = 5.0
TOPICS: Final = (*READERS, PRODUCTS)
HOSTS: Final = "hosts"


def host(number: int) -> str:
    """The name by which other brokers find one."""
    return f"broker-{number}.tandem"


def link(source: int, target: int) -> str:
    """The address at which one broker finds another."""
    return f"127.0.{source}.{target}"


class Peer(Broker):
    """One of three, with a hosts file."""

    def prepare(self) -> None:
        assert self.quorum is not None
        lines = (
            f"{HOST if node.number == self.number else link(self.number, node.number)} {node.host}\n"
            for node in self.quorum.nodes
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / HOSTS).write_text(f"{HOST} localhost\n{''.join(lines)}")
        super().prepare()

    def environment(self) -> dict[str, str]:
        options = f"-XX:TieredStopAtLevel=1 -Djdk.net.hosts.file={self.directory / HOSTS}"  # see tests.servers
        return super().environment() | {"JDK_JAVA_OPTIONS": options}


class Arena(Stack):
    def __init__(self, directory: Path) -> None:
        servers = Servers(directory)
        ports = free_ports(3 * NODES)
        nodes = [Node(n, ports[3 * n - 3], ports[3 * n - 2], 0, host(n)) for n in range(1, NODES + 1)]
        self._peer_ports = {node.number: ports[3 * node.number - 1] for node in nodes}
        quorum = Quorum(directory, nodes)
        self.peers = {node.number: self._peer(directory, quorum, node) for node in nodes}
        servers.brokers = list(self.peers.values())
        servers.kafka = self.peers[1]
        self.links: dict[tuple[int, int], list[Proxy]] = {}
        super().__init__(directory, servers=servers, owns_servers=True)
        self.admin = AdminClient(client_config(self.brokers, "chaos"))

    def _peer(self, directory: Path, quorum: Quorum, node: Node) -> Peer:
        listening = {"PLAINTEXT": (HOST, node.port), "PEERS": (node.host, self._peer_ports[node.number])}
        listening["CONTROLLER"] = (node.host, node.controller_port)
        return Peer(
            directory / node.name,
            node.port,
            node.controller_port,
            {
                "listeners": ",".join(f"{name}://{HOST}:{port}" for name, (_, port) in listening.items()),
                "advertised.listeners": ",".join(f"{name}://{at}:{port}" for name, (at, port) in listening.items()),
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listening),
                "inter.broker.listener.name": "PEERS",
            },
            quorum=quorum,
            number=node.number,
        )

    def start(self) -> None:
        """Start everything, with the demo data: the load orders for its customers."""
        for source in self.peers:
            for target, peer in self.peers.items():
                if source != target:
                    at = link(source, target)
                    assert peer.quorum is not None
                    ports = (self._peer_ports[target], peer.quorum.nodes[target - 1].controller_port)
                    self.links[source, target] = [Proxy(port, port, host=at) for port in ports]
        self.start_infrastructure()
        for name in ("payment", "inventory"):
            self.run_tool(name, "load-demo")
        for service in SERVICES:
            self.launch(service.name)
        self.await_ready()

    def stop(self) -> None:
        super().stop()
        for links in self.links.values():
            for proxy in links:
                proxy.cut()

    def links_of(self, number: int) -> Iterator[Proxy]:
        """The connections between a broker and the others, both ways."""
        for ends, links in self.links.items():
            if number in ends:
                yield from links

    def readers_of(self, number: int) -> Iterator[Proxy]:
        """The connections by which the others read the records that a broker leads."""
        for (_, target), (records, _) in self.links.items():
            if target == number:
                yield records

    def controller(self) -> int:
        """The broker that is the active controller: the one that the newest epoch names."""
        newest = (-1, 0)
        for peer in self.peers.values():
            path = peer.directory / "log/__cluster_metadata-0/quorum-state"
            state = json.loads(path.read_text())
            newest = max(newest, (state["leaderEpoch"], state["leaderId"]))
        return newest[1]

    def leads(self, number: int) -> int:
        """How many partitions a broker leads."""
        topics = self.admin.list_topics(timeout=ISR_S).topics
        return sum(p.leader == number for name in TOPICS for p in topics[name].partitions.values())

    def is_alone(self, number: int) -> bool:
        """Whether of each partition of orders that a broker leads, it has the only copy in sync."""
        orders = self.admin.list_topics(ORDERS, timeout=ISR_S).topics[ORDERS].partitions.values()
        led = [partition.isrs for partition in orders if partition.leader == number]
        return bool(led) and all(isrs == [number] for isrs in led)

    def missing_copies(self) -> int:
        """How many copies of partitions are not in sync, of Tandem's topics."""
        topics = self.admin.list_topics(timeout=ISR_S).topics
        return sum(len(p.replicas) - len(p.isrs) for name in TOPICS for p in topics[name].partitions.values())
