"""`python -m ops.migrate`: databases, roles, grants and migrations of every service. Running it again changes nothing.

Each service has a database of its own, on a server that may be its own too, and a role of the same name that can
connect to that database only, read and write its rows, and change no table. `auditor` can read everything and write
nothing. Migrations are plain SQL, run by dbmate as the superuser, who owns the tables.

Settings, for each service of ORDER, PAYMENT, INVENTORY: `<S>_ADMIN_URL` (the superuser), `<S>_DATABASE_URL` and
`<S>_AUDITOR_URL`, of which name and password are made true.
"""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from common.backoff import delays_s
from common.config import Env
from common.errors import Fatal

SERVICES = ("order", "payment", "inventory")
AUDITOR = "auditor"
WAIT_S = 60.0
ROOT = Path(__file__).resolve().parent.parent


class Login(NamedTuple):
    """Who connects to which database."""

    role: str
    password: str
    database: str


def login(variable: str, url: str) -> Login:
    """The parts of a connection URL. Raises `Fatal` when one is missing."""
    parts = urlsplit(url)
    found = Login(unquote(parts.username or ""), unquote(parts.password or ""), unquote(parts.path.lstrip("/")))
    if not all(found):
        raise Fatal(f"migrate: {variable} must name a user, a password and a database")
    return found


def connect(url: str) -> psycopg.Connection[psycopg.rows.TupleRow]:
    """Connect, waiting up to `WAIT_S` for the server to come up. Raises `Fatal`."""
    until = time.monotonic() + WAIT_S
    for delay in delays_s():
        try:
            return psycopg.connect(url, autocommit=True, connect_timeout=5)
        except psycopg.OperationalError as error:
            if time.monotonic() > until:
                raise Fatal(f"migrate: no connection to PostgreSQL after {WAIT_S:.0f} s: {error}") from error
            time.sleep(delay)
    raise AssertionError("delays never end")


def ensure_role(connection: psycopg.Connection[psycopg.rows.TupleRow], role: str, password: str) -> None:
    """Create the role, or set its password. Only the hash travels, so no log of statements shows the password."""
    exists = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).rowcount
    hashed = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    verb = sql.SQL("ALTER" if exists else "CREATE")
    connection.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(role), sql.Literal(hashed)))


def ensure_database(connection: psycopg.Connection[psycopg.rows.TupleRow], database: str) -> None:
    """Create the database, for its service and the auditor only. Raises `Fatal` when there is one in another encoding:
    text would come out of it as bytes."""
    name = sql.Identifier(database)
    query = "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = %s"
    found = connection.execute(query, (database,)).fetchone()
    if found is None:
        connection.execute(sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0").format(name))
    elif found[0] not in ("UTF8", b"UTF8"):
        encoding = found[0].decode() if isinstance(found[0], bytes) else found[0]
        raise Fatal(f"migrate: database {database!r} is encoded as {encoding}, must be UTF8: drop it, it is made anew")
    # By default everybody may connect to everything, and a role for each service would mean nothing.
    for other in ("postgres", "template1"):
        connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(other)))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))


_GRANTS = (
    "GRANT CONNECT ON DATABASE {database} TO {service}, {auditor}",
    "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    "GRANT USAGE ON SCHEMA public TO {service}, {auditor}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {service}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO {service}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {auditor}",
    "ALTER ROLE {auditor} SET default_transaction_read_only = on",
)


def grant(connection: psycopg.Connection[psycopg.rows.TupleRow], database: str, service: str) -> None:
    """The rights on the tables there will be; a migration takes away what a service must not do."""
    for statement in _GRANTS:
        connection.execute(
            sql.SQL(statement).format(
                database=sql.Identifier(database), service=sql.Identifier(service), auditor=sql.Identifier(AUDITOR)
            )
        )


def run_migrations(service: str, url: str) -> None:
    """Run the service's SQL files that have not run yet. Raises `Fatal` with dbmate's own words."""
    dbmate = Path(sysconfig.get_path("scripts")) / "dbmate"
    command = [str(dbmate), "--migrations-dir", str(ROOT / service / "migrations"), "--no-dump-schema", "migrate"]
    done = subprocess.run(
        command, env={**os.environ, "DATABASE_URL": url}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Fatal(f"migrate: {service}: {(done.stderr or done.stdout).strip()}")
    for line in filter(None, done.stdout.splitlines()):
        print(f"migrate: {service}: {line}")


def migrate(service: str, env: Env) -> None:
    """Make one service's database what the code expects."""
    prefix = service.upper()
    admin_url = env.text(f"{prefix}_ADMIN_URL")
    ours = login(f"{prefix}_DATABASE_URL", env.text(f"{prefix}_DATABASE_URL"))
    auditor = login(f"{prefix}_AUDITOR_URL", env.text(f"{prefix}_AUDITOR_URL"))
    with connect(admin_url) as connection:
        ensure_role(connection, ours.role, ours.password)
        ensure_role(connection, AUDITOR, auditor.password)
        ensure_database(connection, ours.database)
    in_database = urlunsplit(urlsplit(admin_url)._replace(path=f"/{ours.database}"))
    with connect(in_database) as connection:
        grant(connection, ours.database, ours.role)
    run_migrations(service, in_database)


def main() -> None:
    env = Env("migrate")
    for service in SERVICES:
        migrate(service, env)
    print("migrate: databases, roles and migrations are up to date")


if __name__ == "__main__":
    try:
        main()
    except (Fatal, psycopg.Error) as error:
        sys.exit(str(error))
