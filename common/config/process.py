"""The settings that all processes share."""

from dataclasses import dataclass
from pathlib import Path

from common.config.auth import Auth, auth
from common.config.env import Env
from common.config.kafka import Brokers, brokers, topic_partitions
from common.config.telemetry import Logs, Tracing, logs, tracing
from common.http.limits.settings import RequestLimits, request_limits


@dataclass(frozen=True, slots=True)
class Tls:
    """The files in PEM by which a process encrypts. Without a certificate it serves plain HTTP; without an authority it
    calls others by plain HTTP."""

    certificate: Path | None
    key: Path | None
    authority: Path | None


def tls(env: Env) -> Tls:
    """Raises `Fatal` when a file is missing, or one of certificate and key."""
    certificate, key = env.file_or_none("TLS_CERT_FILE"), env.file_or_none("TLS_KEY_FILE")
    if (certificate is None) != (key is None):
        set_, missing = ("TLS_CERT_FILE", "TLS_KEY_FILE") if key is None else ("TLS_KEY_FILE", "TLS_CERT_FILE")
        raise env.error(f"{set_} is set and {missing} is not: set both, or neither for plain HTTP")
    return Tls(certificate, key, env.file_or_none("TLS_CA_FILE"))


@dataclass(frozen=True, slots=True)
class Process:
    """The settings that all processes share. Instances share `host:port`; `host:admin_port` belongs to one alone."""

    service: str
    instance: str
    brokers: Brokers
    partitions: int
    database_url: str
    host: str
    port: int
    admin_port: int
    allowed_hosts: frozenset[str]
    cors_origins: frozenset[bytes]
    keep_alive_s: int
    auth: Auth | None
    """None with AUTH=off."""
    limits: RequestLimits
    tls: Tls
    logs: Logs
    tracing: Tracing | None


def process_settings(env: Env, *, database: str, port: int) -> Process:
    """Read the shared settings. `port` is the default public port of this one. Raises `Fatal`."""
    host = env.text("HTTP_HOST", "127.0.0.1")
    settings = Process(
        service=env.service,
        instance=env.text("INSTANCE", f"{env.service}-1"),
        brokers=brokers(env),
        partitions=topic_partitions(env),
        database_url=env.database_url(database),
        host=host,
        port=env.port("HTTP_PORT", port),
        admin_port=env.port("ADMIN_PORT", port + 10_100),
        allowed_hosts=env.hosts("ALLOWED_HOSTS"),
        cors_origins=env.origins("CORS_ORIGINS"),
        keep_alive_s=env.integer("KEEP_ALIVE_S", 75, least=1, most=3_600, unit="s"),
        auth=auth(env, host),
        limits=request_limits(env),
        tls=tls(env),
        logs=logs(env),
        tracing=tracing(env),
    )
    if settings.port == settings.admin_port:
        raise env.error(f"HTTP_PORT and ADMIN_PORT are both {settings.port}; each needs a port of its own")
    return settings
