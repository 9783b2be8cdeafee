"""The environment of a stack's processes: what only the stack knows, and what it passes on from its caller.

It is put together here for the native stack and for the tests, which run on ports and passwords of their own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from common.config.env import Env
from common.config.kafka import KAFKA_SECURITY, topic_partitions
from common.errors import Fatal
from common.secrets.passwords import database_url, new_password
from common.tls.authority import Certificate
from dev.settings.services import DATABASES, HOST, ROLES, SERVICES


def new_passwords() -> dict[str, str]:
    """A password for each role."""
    return {role: new_password() for role in ROLES}


def certificate_settings(certificate: Certificate | None) -> dict[str, str]:
    """What a server of HTTP shows; nothing when it serves plain HTTP."""
    if certificate is None:
        return {}
    return {"TLS_CERT_FILE": str(certificate.certificate), "TLS_KEY_FILE": str(certificate.key)}


def own_auth(folder: Path) -> dict[str, str]:
    """The stack's own issuer of tokens, and its API keys. `just token` and `just keys` alone read the last file."""
    return {
        "AUTH_ISSUER": "tandem",
        "AUTH_JWKS": str(folder / "jwks.json"),
        "AUTH_KEYS_FILE": str(folder / "keys.json"),
        "AUTH_ISSUER_FILE": str(folder / "issuer.json"),
    }


def environment(
    *,
    kafka_servers: str,
    postgres_port: int | Callable[[str], Sequence[int]],
    folder: Path,
    databases: Iterable[str] = DATABASES,
    authority: Path | None = None,
    partitions: int | None = None,
    auth: Mapping[str, str] = MappingProxyType({"AUTH": "off"}),
) -> dict[str, str]:
    """Where Kafka and the databases are, and who may ask, for services and the operator's tools. `postgres_port` is
    that of all databases, or gives the ports of the servers that a database may be on. `folder` has the password files
    of the roles. With an authority, whose certificate this is, all of it is encrypted. By default, `partitions` are
    those of this process's own setting, and everybody may ask."""

    def url(role: str, database: str, ports_of: str, *, writes: bool = True) -> str:
        ports = [postgres_port] if isinstance(postgres_port, int) else postgres_port(ports_of)
        return database_url(role, database, host=HOST, ports=ports, folder=folder, authority=authority, writes=writes)

    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka_servers,
        "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
        "TOPIC_PARTITIONS": str(partitions or topic_partitions(Env(""))),
        "TOPIC_REPLICAS": str(len(kafka_servers.split(","))),
        "HTTP_HOST": HOST,
        **auth,
    }
    if authority is not None:
        variables["TLS_CA_FILE"] = str(authority)
    for database in databases:
        variables[f"{database.upper()}_DATABASE_URL"] = url(database, database, database)
        variables[f"{database.upper()}_ADMIN_URL"] = url("postgres", "postgres", database)
        variables[f"{database.upper()}_AUDITOR_URL"] = url("auditor", database, database, writes=False)
    return variables


def _names_read(environ: Mapping[str, str]) -> set[str]:
    env = Env("", {**_OWN_AUTH, **environ})
    for service in SERVICES:
        service.read_settings(env)
    return env.names


_OWN_AUTH: Final = {"AUTH_ISSUER": "tandem", "AUTH_JWKS": "https://127.0.0.1/jwks.json"}
"""Stands for files that `just up` makes before a process reads them."""
_EXAMPLE: Final = {
    **environment(kafka_servers="127.0.0.1:9092", postgres_port=15432, folder=Path("/"), partitions=6, auth={}),
    **dict.fromkeys(KAFKA_SECURITY, "x"),
    "AUTH_ISSUER_FILE": "x",
    "INSTANCE": "x",
    "HTTP_PORT": "1",
    "ADMIN_PORT": "2",
}
"""The variables that the stack sets for each process, and that nothing else can set."""
STATED: Final = frozenset(_EXAMPLE) | {"TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE"}
PROCESS_SETTINGS: Final = frozenset(_names_read(_EXAMPLE)) - STATED
"""What a process reads and the stack passes on from the caller's environment."""
PROJECT: Final = "COMPOSE_PROJECT_NAME"


def check_processes(environ: Mapping[str, str]) -> None:
    """Read the settings of every process as it will read them itself. Raises `Fatal` with a line for each problem."""
    problems: list[str] = []
    for service in SERVICES:
        try:
            service.read_settings(Env("", {**_OWN_AUTH, **environ, **_EXAMPLE}))
        except Fatal as error:
            problems.append(str(error))
    if problems:
        raise Fatal("\n".join(dict.fromkeys(problems)))
