"""Settings come from environment variables and nowhere else. Each is read once, at start, and checked.

A wrong value stops the process with a message that names the variable, the value and what is allowed.
"""

import os
import re
import sys
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, Literal, cast, get_args

import psycopg
from psycopg.conninfo import conninfo_to_dict

from common.errors import Fatal
from common.http.limits.buckets import Rate
from common.http.limits.settings import RequestLimits, request_limits
from common.tracing.export import check_installed

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""How a machine names itself."""
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_FORMATS: Final = ("json", "text")
PORT_MAX: Final = 65_535
KafkaProtocol = Literal["PLAINTEXT", "SSL", "SASL_SSL"]
KAFKA_SECURITY: Final = frozenset(
    {"KAFKA_CA_FILE", "KAFKA_USERNAME", "KAFKA_PASSWORD_FILE", "KAFKA_CERT_FILE", "KAFKA_KEY_FILE"}
)
"""The settings that `KAFKA_SECURITY_PROTOCOL` may need beside itself."""
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


@dataclass(frozen=True, slots=True)
class Logs:
    """The least level that a process logs, and the format."""

    level: str
    format: str


def logs(env: Env) -> Logs:
    level = env.text("LOG_LEVEL", "INFO")
    if level.upper() not in LOG_LEVELS:
        raise env.error(f"LOG_LEVEL={level!r} must be one of {', '.join(LOG_LEVELS)}")
    for_people = sys.stdout is not None and sys.stdout.isatty()  # a closed one is None
    return Logs(level.upper(), env.choice("LOG_FORMAT", "text" if for_people else "json", LOG_FORMATS))


@dataclass(frozen=True, slots=True)
class Tracing:
    """The share of orders whose spans are sent, above 0 up to 1, and the base URL of the collector."""

    share: float
    endpoint: str


def tracing(env: Env) -> Tracing | None:
    """None when tracing is off. The endpoint then does not matter: other programs use its variable too."""
    share = env.share("TRACE_SAMPLE", "0")
    env.names.add("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not share:
        return None
    endpoint = env.http_url("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    check_installed(f"{env.service}: TRACE_SAMPLE={share:g}" if env.service else f"TRACE_SAMPLE={share:g}")
    return Tracing(share, endpoint)


@dataclass(frozen=True, slots=True)
class Brokers:
    """Where Kafka is, and how its clients show who they are.

    `SASL_SSL` takes a user and a password (SCRAM-SHA-512), `SSL` a certificate and its key (mutual TLS), each over TLS
    that is checked against `ca_file`. `PLAINTEXT` has none of it.
    """

    servers: str
    protocol: KafkaProtocol = "PLAINTEXT"
    ca_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __str__(self) -> str:
        return self.servers

    def password(self) -> str:
        """The password as its file has it now. Raises `Fatal`."""
        assert self.password_file is not None
        try:
            password = self.password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Fatal(f"KAFKA_PASSWORD_FILE={str(self.password_file)!r} cannot be read: {error}") from error
        if not password:
            raise Fatal(f"KAFKA_PASSWORD_FILE={str(self.password_file)!r} is empty: it must hold the password")
        if not password.isprintable():
            raise Fatal(f"KAFKA_PASSWORD_FILE={str(self.password_file)!r} is damaged: it must hold one line of text")
        return password


def brokers(env: Env) -> Brokers:
    """How to reach Kafka. Only what the protocol needs is read, and has to be set."""
    servers = env.servers("KAFKA_BOOTSTRAP_SERVERS")
    protocol = cast(KafkaProtocol, env.choice("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", get_args(KafkaProtocol)))
    env.names.update(KAFKA_SECURITY)
    match protocol:
        case "PLAINTEXT":
            return Brokers(servers)
        case "SSL":
            cert_file, key_file = env.file("KAFKA_CERT_FILE"), env.file("KAFKA_KEY_FILE")
            return Brokers(servers, protocol, env.file("KAFKA_CA_FILE"), cert_file=cert_file, key_file=key_file)
        case "SASL_SSL":
            username, password_file = env.text("KAFKA_USERNAME"), env.file("KAFKA_PASSWORD_FILE")
            secured = Brokers(servers, protocol, env.file("KAFKA_CA_FILE"), username, password_file)
            secured.password()
            return secured


@dataclass(frozen=True, slots=True)
class Auth:
    """How requests say who asks: by tokens of `issuer` for `audience`, by API keys, or both."""

    issuer: str
    """The `iss` of its tokens; empty without keys of an issuer."""
    audience: str
    jwks_file: Path | None
    jwks_url: str | None
    keys_file: Path | None
    leeway_s: int
    """By how much clocks may differ."""


def auth(env: Env, host: str) -> Auth | None:
    """None with AUTH=off, which only a process on the loopback may have."""
    jwks = env.optional("AUTH_JWKS")
    is_url = jwks is not None and jwks.startswith(("https://", "http://"))
    if is_url and not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", str(jwks)):
        raise env.error(f"AUTH_JWKS={jwks!r} must be a path or an https URL: whoever can change keys can be anybody")
    keys_file = env.optional("AUTH_KEYS_FILE")
    settings = Auth(
        issuer=env.optional("AUTH_ISSUER") or "",
        audience=env.text("AUTH_AUDIENCE", "tandem"),
        jwks_file=env.file("AUTH_JWKS") if jwks is not None and not is_url else None,
        jwks_url=env.http_url("AUTH_JWKS", "") if is_url else None,
        keys_file=None if keys_file is None else env.file("AUTH_KEYS_FILE"),
        leeway_s=env.integer("AUTH_LEEWAY_S", 30, least=0, most=300, unit="s"),
    )
    if env.choice("AUTH", "on", ("on", "off")) == "off":
        if host not in LOOPBACK:
            raise env.error(
                f"AUTH=off on {host}: deposits and restocks create value, so a process that others can reach must know "
                "who asks; set AUTH=on, or keep HTTP_HOST=127.0.0.1"
            )
        return None
    lacking = ""
    if jwks is None and keys_file is None:
        lacking = "AUTH_JWKS (with AUTH_ISSUER) for tokens, or AUTH_KEYS_FILE for API keys; 'just up' makes both"
    elif jwks is not None and not settings.issuer:
        lacking = "AUTH_ISSUER, the iss of the tokens that the keys of AUTH_JWKS sign"
    if lacking:
        raise env.error(f"AUTH=on needs {lacking}")
    return settings


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


def process(env: Env, *, database: str, port: int) -> Process:
    """Read the shared settings. `port` is the default public port of this one."""
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


TOPIC_PARTITIONS: Final = 6


def topic_partitions(env: Env) -> int:
    """How many partitions each topic has when it is created; a topic keeps them for ever."""
    return env.integer("TOPIC_PARTITIONS", TOPIC_PARTITIONS, least=1, most=1_000)
