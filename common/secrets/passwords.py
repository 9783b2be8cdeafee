"""Passwords of database roles, in files that libpq reads at each connection.

A connection URL names the file (`passfile`) instead of having the password in it: the environment of a process can be
read in /proc, and a new password would need a restart. Each role has a file of its own, so that each process can be
given that of its own role and no other.

Reference: PostgreSQL 18, "The Password File".
"""

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from common.errors import Fatal
from common.files import write
from common.secrets.change import files_to_try

SUFFIX: Final = ".pgpass"

T = TypeVar("T")


def new_password() -> str:
    """A password that a URL and a password file can contain unquoted."""
    return secrets.token_urlsafe(24)


def password_file(folder: Path, role: str) -> Path:
    return folder / f"{role}{SUFFIX}"


def write_password(folder: Path, role: str, password: str) -> None:
    """Keep a role's password, for every server and database. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write(password_file(folder, role), _line(role, password), 0o600)


def new_line(role: str) -> str:
    """The text of a password file with a new password."""
    return _line(role, new_password())


def urls_to_try(url: str) -> Iterator[str]:
    """Connection URLs, each to be tried after the server has refused the one before: with the password in use, and with
    the new one while it is being changed (`common.secrets.change`)."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if "passfile" not in options:
        yield url
        return
    passfile = Path(options["passfile"])
    for file in files_to_try(passfile):
        query = urlencode(options | {"passfile": str(file)}, quote_via=quote)
        yield url if file == passfile else urlunsplit(parts._replace(query=query))


def connect_by(url: str, connect: Callable[[str], T]) -> T:
    """What `connect` returns for the first of `urls_to_try` that the server takes. Raises what it raises for the first
    of all, if the server takes none."""
    refusals = []
    for known in urls_to_try(url):
        try:
            return connect(known)
        except psycopg.errors.ConnectionTimeout:
            raise  # nobody was refused
        except psycopg.OperationalError as refusal:
            refusals.append(refusal)
    raise refusals[0]


def stored_roles(folder: Path) -> list[str]:
    """The roles whose passwords are kept in a folder."""
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def read_password(folder: Path, role: str) -> str:
    """Raises `Fatal` when the file is missing or damaged."""
    return password_in(password_file(folder, role), role)


def password_in(path: Path, role: str) -> str:
    """The role's password in a file of its own. Raises `Fatal` when the file is missing or damaged."""
    password = _password_in(path, {"user": role})
    if not password:
        raise Fatal(f"{path} is damaged (it has no line *:*:*:{role}:PASSWORD)")
    return password


def password_of(url: str) -> str:
    """The password that libpq would use for this connection: the URL's own, or that of its password file. Raises
    `Fatal` when the file cannot be read, or has none for it."""
    parameters = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    if password := parameters.get("password"):
        return password
    path = Path(parameters.get("passfile", ""))
    password = _password_in(path, parameters)
    if not password:
        raise Fatal(f"{path} has no password of {parameters.get('user')!r} for {parameters.get('dbname')!r}")
    return password


def database_url(
    role: str,
    database: str,
    *,
    host: str,
    ports: Sequence[int],
    folder: Path,
    authority: Path | None = None,
    writes: bool = True,
) -> str:
    """A connection URL without a password. The server must prove that it knows the role's password, and is not told it:
    another user of the machine may listen on the port of a server that is down, and ask for it in the clear. With an
    authority, the connection is encrypted too, and the server must show a certificate that the authority has signed for
    this host.

    With several ports, one server is the primary and the others are its standbys, whichever it is at the moment: libpq
    tries one after the other. `writes` is False for a role whose own sessions are read-only, such as the auditor.
    """
    options = {"passfile": password_file(folder, role)}
    if authority is None:
        mode = "sslmode=disable&require_auth=scram-sha-256"
    else:
        mode = "sslmode=verify-full&channel_binding=require"
        options["sslrootcert"] = authority
    paths = "".join(f"&{name}={quote(str(path))}" for name, path in options.items())
    hosts = ",".join(f"{host}:{port}" for port in ports)
    wanted = "" if len(ports) == 1 else f"&target_session_attrs={'read-write' if writes else 'primary'}"
    return f"postgresql://{role}@{hosts}/{database}?{mode}{wanted}{paths}"


def _line(role: str, password: str) -> str:
    return f"*:*:*:{role}:{password}\n"


def _password_in(path: Path, parameters: Mapping[str, str]) -> str:
    """The password of the first line that fits a connection; empty if none does."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(f"the password file {str(path)!r} cannot be read: {error}") from None
    wanted = [parameters.get(name, default) for name, default in _PARAMETERS.items()]
    for line in lines:
        fields = [re.sub(r"\\(.)", r"\1", field) for field in re.findall(r"((?:[^:\\]|\\.)*)(?::|$)", line)]
        if len(fields) > len(wanted) and all(
            field in ("*", value) for field, value in zip(fields, wanted, strict=False)
        ):
            return fields[len(wanted)]
    return ""


_PARAMETERS: Final = {"host": "localhost", "port": "5432", "dbname": "", "user": ""}
"""What a line names before its password, with the defaults."""
