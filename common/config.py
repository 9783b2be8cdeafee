"""Settings come from environment variables and nowhere else. Each is read once, at start, and checked.

A wrong value stops the process with a message that names the variable, the value and what is allowed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import Fatal

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Env:
    """Reads typed settings out of an environment. Every method raises `Fatal` for a missing or a wrong value."""

    def __init__(self, service: str, environ: Mapping[str, str] | None = None) -> None:
        self.service = service
        self._environ = os.environ if environ is None else environ

    def text(self, name: str, default: str | None = None) -> str:
        value = self._environ.get(name, default)
        if not value:
            raise Fatal(f"{self.service}: {name} is not set; 'just up' sets it, see docs/OPERATIONS.md")
        return value

    def integer(self, name: str, default: int | None = None, *, least: int, most: int, unit: str = "") -> int:
        raw = self.text(name, None if default is None else str(default))
        try:
            value = int(raw)
        except ValueError:
            raise Fatal(f"{self.service}: {name}={raw!r} is not a whole number") from None
        if not least <= value <= most:
            raise Fatal(f"{self.service}: {name}={value} must be from {least} to {most}{unit and ' ' + unit}")
        return value

    def flag(self, name: str) -> bool:
        raw = self._environ.get(name, "0")
        if raw not in {"0", "1"}:
            raise Fatal(f"{self.service}: {name}={raw!r} must be 0 or 1")
        return raw == "1"


@dataclass(frozen=True, slots=True)
class Process:
    """The settings that all processes share. Instances share `host:port`; `host:admin_port` belongs to one alone."""

    service: str
    instance: str
    bootstrap_servers: str
    partitions: int
    database_url: str
    host: str
    port: int
    admin_port: int


def process(env: Env, *, database: str, port: int) -> Process:
    """Read the shared settings. `port` is the default public port of this one."""
    host = env.text("HTTP_HOST", "127.0.0.1")
    if host not in LOOPBACK and not env.flag("ALLOW_UNAUTHENTICATED"):
        raise Fatal(
            f"{env.service}: refusing to listen on {host}: there is no authentication yet, and deposits and restocks "
            "create value; keep HTTP_HOST=127.0.0.1, or set ALLOW_UNAUTHENTICATED=1 behind something that protects it"
        )
    return Process(
        service=env.service,
        instance=env.text("INSTANCE", f"{env.service}-1"),
        bootstrap_servers=env.text("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
        partitions=env.integer("TOPIC_PARTITIONS", 6, least=1, most=1_000),
        database_url=env.text(database),
        host=host,
        port=env.integer("HTTP_PORT", port, least=1, most=65_535),
        admin_port=env.integer("ADMIN_PORT", port + 10_100, least=1, most=65_535),
    )
