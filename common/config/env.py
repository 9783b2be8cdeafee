"""Reads one setting at a time out of the environment: a port, a choice, a file."""

import os
import re
from collections.abc import Collection, Mapping, MutableMapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from common.errors import Fatal
from common.http.limits.buckets import Rate

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""How a machine names itself."""
PORT_MAX: Final = 65_535
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_RATE = re.compile(r"([0-9]{1,7})/([0-9]{1,7})")
RATE_MAX: Final = 1_000_000
_SHARE = re.compile(r"0|1|[01]?\.[0-9]{1,15}")
_HOST = re.compile(r"[0-9a-z._-]+|[0-9a-f.]*:[0-9a-f:.]+:[0-9a-f:.]*")
_ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
HTTP_URL: Final = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:/[!-~]*)?")
_BROKER = re.compile(r"(?:[A-Z_]+://)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


def _canonical(host: str) -> str:
    """A host as `common.http.heads` compares it: an address in its short form, a name without the dot of the root."""
    try:
        return str(ip_address(host))
    except ValueError:
        return host.removesuffix(".")


class Env:
    """Reads typed settings out of an environment. Every method raises `Fatal` for a missing or a wrong value.

    An empty value is a wrong one: `TANDEM_HOME=$UNSET` must not mean the default.
    """

    def __init__(self, service: str, environ: Mapping[str, str] | None = None) -> None:
        """`service` begins each message; without one, messages begin with the setting."""
        self.service = service
        self.names: set[str] = set()
        """The settings that were read, whether or not they were set."""
        self._environ = os.environ if environ is None else environ

    def error(self, text: str) -> Fatal:
        return Fatal(f"{self.service}: {text}" if self.service else text)

    def is_set(self, name: str) -> bool:
        self.names.add(name)
        return name in self._environ

    def text(self, name: str, default: str | None = None, *, printable: bool = True) -> str:
        self.names.add(name)
        value = self._environ.get(name, default)
        if value is None:
            raise self.error(f"{name} is not set; 'just up' sets it, see docs/OPERATIONS.md")
        if not value.strip():
            unset = f"; without it, {default} is used" if default else ""
            raise self.error(f"{name}={value!r} is empty: set a value or remove it{unset}")
        if printable and not value.isprintable():
            raise self.error(f"{name}={value!r} must be text in UTF-8 without control characters")
        return value

    def optional(self, name: str) -> str | None:
        """A text, or None if it is not set."""
        self.names.add(name)
        return self.text(name) if name in self._environ else None

    def integer(self, name: str, default: int | None = None, *, least: int, most: int, unit: str = "") -> int:
        raw = self.text(name, None if default is None else str(default))
        if not _WHOLE_NUMBER.fullmatch(raw) or not least <= int(raw) <= most:
            raise self.error(f"{name}={raw!r} must be a whole number from {least} to {most}{unit and ' ' + unit}")
        return int(raw)

    def port(self, name: str, default: int, *, most: int = PORT_MAX) -> int:
        return self.integer(name, default, least=1, most=most)

    def choice(self, name: str, default: str, allowed: Collection[str]) -> str:
        """One of the allowed words."""
        value = self.text(name, default)
        if value not in allowed:
            raise self.error(f"{name}={value!r} must be one of {', '.join(allowed)}")
        return value

    def share(self, name: str, default: str) -> float:
        """A number from 0 to 1."""
        raw = self.text(name, default)
        if not _SHARE.fullmatch(raw) or not 0 <= float(raw) <= 1:
            raise self.error(f"{name}={raw!r} must be a number from 0 to 1, such as 0.01")
        return float(raw)

    def http_url(self, name: str, default: str) -> str:
        """The address of an HTTP server."""
        url = self.text(name, default)
        if not HTTP_URL.fullmatch(url):
            raise self.error(f"{name}={url!r} must be like http://HOST:PORT")
        return url

    def rate(self, name: str, default: str) -> Rate | None:
        """A limit of requests: so many a second and so many at once, such as 50/200. None for 0: no limit."""
        raw = self.text(name, default)
        if raw == "0":
            return None
        match = _RATE.fullmatch(raw)
        if match is None or not all(1 <= int(number) <= RATE_MAX for number in match.groups()):
            raise self.error(
                f"{name}={raw!r} must be A_SECOND/AT_ONCE, such as 50/200, each from 1 to {RATE_MAX}; 0 for no limit"
            )
        return Rate(int(match[1]), int(match[2]))

    def networks(self, name: str) -> tuple[IPv4Network | IPv6Network, ...]:
        """IP addresses and networks, separated by commas; none by default."""
        if name not in self._environ:
            self.names.add(name)
            return ()
        networks = []
        for text in self.text(name).split(","):
            try:
                networks.append(ip_network(text.strip()))
            except ValueError:
                raise self.error(
                    f"{name}: {text.strip()!r} must be an address or a network, such as 10.0.0.0/8"
                ) from None
        return tuple(networks)

    def flag(self, name: str) -> bool:
        return self.choice(name, "0", ("0", "1")) == "1"

    def hosts(self, name: str) -> frozenset[str]:
        """Host names and IP addresses, separated by commas; none by default. In lower case."""
        if name not in self._environ:
            self.names.add(name)
            return frozenset()
        hosts = frozenset(_canonical(host.strip().lower()) for host in self.text(name).split(",")) - {""}
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise self.error(f"{name}: {host!r} must be a host name or an IP address, without a port")
        return hosts

    def origins(self, name: str) -> frozenset[bytes]:
        """Origins of web pages, separated by commas; none by default. As browsers send them: in lower case, without the
        default port."""
        if name not in self._environ:
            self.names.add(name)
            return frozenset()
        origins = frozenset(origin.strip().lower() for origin in self.text(name).split(",")) - {""}
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise self.error(f"{name}: {origin!r} must be like https://shop.example or http://localhost:3000")
        default_ports = {"http": ":80", "https": ":443"}
        return frozenset(o.removesuffix(default_ports[o.partition("://")[0]]).encode() for o in origins)

    def database_url(self, name: str) -> str:
        """A connection URL of PostgreSQL. The message hides the password."""
        url = self.text(name)
        try:
            ports = str(conninfo_to_dict(url).get("port", 5432)).split(",")
        except psycopg.ProgrammingError:
            ports = [""]
        if not all(re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= PORT_MAX for port in ports):
            hidden = re.sub(r"(?<=password=)\S+|(?<=:)[^/].*(?=@)", "***", url)
            raise self.error(f"{name}={hidden!r} must be like postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
        return url

    def servers(self, name: str) -> str:
        """Addresses of Kafka."""
        servers = self.text(name, "127.0.0.1:9092")
        for server in servers.split(","):
            match = _BROKER.fullmatch(server.strip())
            if match is None or not 0 < int(match[1] or 9092) <= PORT_MAX:
                raise self.error(f"{name}={servers!r} must be like HOST:PORT, or several with commas between them")
        return servers

    def file(self, name: str, default: str | None = None) -> Path:
        """A file that this process can read."""
        path = Path(self.text(name, default, printable=False))
        try:
            path.open("rb").close()
        except OSError as error:
            raise self.error(f"{name}={str(path)!r} cannot be read: {error.strerror}") from error
        return path

    def file_or_none(self, name: str) -> Path | None:
        """A file that this process can read, if the setting names one."""
        self.names.add(name)
        return self.file(name) if name in self._environ else None


def ignore_foreign_variables(environ: MutableMapping[str, str] = os.environ) -> None:
    """Forget what libraries would read by themselves: libpq's PGHOSTADDR, PGSERVICE and PGOPTIONS lead a connection to
    another server or change what its statements mean, and uvicorn wants a number in WEB_CONCURRENCY."""
    for name in [name for name in environ if name.startswith("PG") or name == "WEB_CONCURRENCY"]:
        del environ[name]
