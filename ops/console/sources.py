"""What the console reads of the instances: metrics and readiness."""

import http.client
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from common.events import SAGA
from common.tls.client import connection as connect
from ops.console.flow import Scrape
from ops.console.metrics import parse
from ops.console.settings import Address

SCRAPE_S: Final = 1.5
SCRAPERS: Final = 8
RESOLVE_EVERY_S: Final = 5.0
SERVICES: Final = ("order-api", SAGA, "payment", "inventory")


class Target(NamedTuple):
    """An instance, and where its admin port is."""

    name: str
    service: str
    address: Address
    host: str = ""
    """Its host, where that is its own: in Compose."""


class _Group(msgspec.Struct):
    """An entry of a file for Prometheus' `file_sd_configs`."""

    targets: list[str]
    labels: dict[str, str]


_groups: Final = msgspec.json.Decoder(list[_Group])


def targets_in(content: bytes) -> list[Target]:
    """The instances that a file in the format of Prometheus' `file_sd_configs` names. Raises `ValueError`."""
    try:
        return [
            Target(group.labels["instance"], group.labels["service"], Address(host.strip("[]"), int(port)))
            for group in _groups.decode(content)
            for host, _, port in (target.rpartition(":") for target in group.targets)
        ]
    except (msgspec.DecodeError, KeyError) as error:
        raise ValueError(f"it is not a list of targets with the labels instance and service: {error}") from error


class Targets:
    """The instances there are now: from a file, which `just up` and `just scale` write, or by their names in DNS."""

    def __init__(self, named: Path | Mapping[str, Address]) -> None:
        self._named = named
        self._known: list[Target] = []
        self._read_at = (0, 0.0)
        """The file's time of change, and when the names were last asked for."""

    def read(self) -> list[Target]:
        """The instances. While the file or a name cannot be read, those that were there before."""
        if isinstance(self._named, Path):
            with suppress(OSError, ValueError):
                changed = self._named.stat().st_mtime_ns
                if changed != self._read_at[0]:
                    self._known = targets_in(self._named.read_bytes())
                    self._read_at = (changed, 0.0)
        elif time.monotonic() - self._read_at[1] > RESOLVE_EVERY_S:
            self._known = [target for service in self._named for target in self._resolved(service, self._named)]
            self._read_at = (0, time.monotonic())
        return self._known

    def _resolved(self, service: str, named: Mapping[str, Address]) -> Iterator[Target]:
        address = named[service]
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, family=socket.AF_INET)
        except OSError:  # no instance has this name now
            yield Target(service, service, address)
            return
        hosts = sorted({str(each[4][0]) for each in found})
        for number, host in enumerate(hosts, 1):
            yield Target(f"{service}-{number}", service, Address(host, address.port), host)


class _Ready(msgspec.Struct):
    ready: bool
    missing: list[str] = []
    degraded: list[str] = []


_ready: Final = msgspec.json.Decoder(_Ready)


class Instances:
    """Asks every instance for its metrics and its readiness, side by side: a frozen one keeps no other waiting."""

    def __init__(self, targets: Targets, authority: Path | None) -> None:
        """With an authority, they are asked by TLS, and must show a certificate for the name of their service."""
        self._targets = targets
        self._authority = authority
        self._connections: dict[Target, http.client.HTTPConnection] = {}
        self._pool = ThreadPoolExecutor(SCRAPERS, "scrape")

    def scrape(self) -> list[Scrape]:
        targets = self._targets.read()
        for gone in self._connections.keys() - set(targets):
            self._connections.pop(gone).close()
        return list(self._pool.map(self._scrape, targets))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for connection in self._connections.values():
            connection.close()

    def _scrape(self, target: Target) -> Scrape:
        connection = self._connections.get(target)
        if connection is None:
            host, port = target.address.host, target.address.port
            connection = connect(host, port, timeout_s=SCRAPE_S, authority=self._authority, name=target.service)
            self._connections[target] = connection
        for _ in range(2):  # a kept connection may have been closed meanwhile
            try:
                state = _ready.decode(_get(connection, "/readyz"))
                values = parse(_get(connection, "/metrics").decode(errors="replace"))
            except TimeoutError:
                connection.close()
                break
            except (OSError, http.client.HTTPException, msgspec.DecodeError):
                connection.close()
            else:
                return Scrape(
                    name=target.name,
                    service=target.service,
                    clock_s=time.monotonic(),
                    ready=state.ready,
                    missing=state.missing,
                    degraded=state.degraded,
                    values=values,
                    host=target.host,
                )
        return Scrape(target.name, target.service, time.monotonic(), host=target.host)


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()
