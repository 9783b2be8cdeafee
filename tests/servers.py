"""A PostgreSQL and a broker on ports of their own. Stacks can use them one after the other, each as if new."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from psycopg import sql

from common.config.env import LOOPBACK
from common.kafka.clients import client_config
from common.secrets.passwords import write_password
from common.tls.authority import Authority, Certificate
from dev.servers.kafka import Broker, make_brokers
from dev.servers.postgres import Cluster
from dev.servers.server import Server
from dev.settings import free_ports, new_passwords
from tests.waiting import eventually

# Tests kill processes, never the machine: what the operating system has is safe, so nothing needs to wait for the disk.
_POSTGRES: Final = {"fsync": "off"}
# The broker of a test lives for minutes. Compiling with C1 alone saves 1.5 s of CPU at each start, and more later.
_JAVA: Final = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"}


class _Broker(Broker):
    def environment(self) -> dict[str, str]:
        return super().environment() | _JAVA


class Servers:
    """Infrastructure without anything in it: no database, no topic."""

    def __init__(self, directory: Path, *, secure: bool = False, brokers: int = 1) -> None:
        """`secure`: nothing is sent in the clear, as with SECURE=1."""
        self.secrets = directory / "secrets"
        for role, password in new_passwords().items():
            write_password(self.secrets, role, password)
        [self.postgres_port] = free_ports(1)
        self.authority = Authority(self.secrets) if secure else None
        certificate = self.certificate("postgres")
        self.postgres = Cluster(directory / "postgres", self.postgres_port, self.secrets, _POSTGRES, certificate)
        secrets = self.secrets if secure else None
        self.brokers = make_brokers(directory, brokers, secrets=secrets, secure=secure, make=_Broker)
        self.kafka = self.brokers[0]

    def certificate(self, name: str) -> Certificate | None:
        """The certificate of a server; None when it serves in the clear."""
        return None if self.authority is None else self.authority.ensure(name, (name, *LOOPBACK))

    def start(self) -> None:
        """Start the servers that do not run."""
        start(self.postgres, *self.brokers)

    def clear(self) -> None:
        """Leave no database, no topic and no consumer group. Nothing may use the servers meanwhile."""
        self.start()
        with self.postgres.connect() as owner:
            own = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
            for (name,) in owner.execute(own).fetchall():
                owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        admin = AdminClient(client_config(self.kafka.brokers(), "test"))
        if groups := [group.group_id for group in admin.list_consumer_groups().result().valid]:
            # A member that was killed counts until its session ends.
            eventually(lambda: delete_groups(admin, groups), f"the consumer groups {groups} are deleted")
        if topics := topic_names(admin):
            for future in admin.delete_topics(topics).values():
                future.result()
            eventually(lambda: not topic_names(admin), f"the topics {topics} are deleted")

    def stop(self) -> None:
        for server in (*self.brokers, self.postgres):
            server.kill()


def start(*servers: Server) -> None:
    """Start the servers that do not run, side by side."""
    for server in servers:
        server.resume()
    ended = [server for server in servers if server.process is None or server.process.poll() is not None]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda server: server.start(), ended))


def topic_names(admin: AdminClient) -> list[str]:
    """All topics but Kafka's own."""
    return [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]


def delete_groups(admin: AdminClient, groups: list[str]) -> bool:
    """Whether all are gone now."""
    gone = True
    for future in admin.delete_consumer_groups(groups).values():
        try:
            future.result()
        except KafkaException as error:
            gone &= error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND
    return gone
