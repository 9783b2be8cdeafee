"""Servers whose databases are on a primary with a standby."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.servers.member import Member
from dev.settings import environment, free_ports
from tests.servers import Servers
from tests.stack import Stack


class Pair(Servers):
    def __init__(self, directory: Path, *, synchronous: bool = True, brokers: int = 1) -> None:
        """With `synchronous`, a commit waits for the standby."""
        super().__init__(directory, brokers=brokers)
        self.folders = (directory / "postgres-1", directory / "postgres-2")
        self.ports = free_ports(2)
        self.postgres, self.standby = (self.member(place, synchronous=synchronous) for place in (0, 1))
        self.postgres_port = self.ports[0]

    def member(self, place: int, *, synchronous: bool) -> Member:
        return Member(
            self.folders[place],
            self.ports[place],
            self.secrets,
            other=(self.folders[1 - place], self.ports[1 - place]),
            synchronous=synchronous,
            first=place == 0,
            options={"fsync": "off"},
        )

    @contextmanager
    def stack(self) -> Iterator[Stack]:
        """A stack of these servers, whose processes know both; nothing but its servers runs. Ends with all of it."""
        stack = Stack(self.folders[0].parent, servers=self)
        known = environment(
            kafka_servers=self.kafka.brokers().servers, postgres_port=lambda _: self.ports, folder=self.secrets
        )
        stack.variables |= {name: url for name, url in known.items() if name.endswith("_URL")}
        try:
            stack.start_servers()
            self.standby.start()
            stack.start_infrastructure()
            yield stack
        finally:
            stack.stop()
            self.stop()

    def stop(self) -> None:
        super().stop()
        self.standby.kill()
