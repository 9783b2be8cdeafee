"""`python -m ops.migrate [DATABASE=PACKAGE ...]`: databases, roles, grants and migrations of every service, or of those
that are named, such as `notify=examples.notify`. A second run changes nothing.

Each service has a database, which may be on a server of its own, and a role that can connect to that database only. The
role reads and writes rows and cannot change a table. The role `auditor` reads everything and writes nothing. Migrations
are plain SQL: those of `common/migrations` run in every database, those of a package's folder `migrations` in one.
dbmate runs them as the superuser, who owns the tables.

Settings of each database, such as ORDER, PAYMENT and INVENTORY: `<D>_ADMIN_URL` (the superuser), `<D>_DATABASE_URL` and
`<D>_AUDITOR_URL`. The last two say which role and database to make, and which file has the role's password.
"""

import os
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from common.backoff import delays_s
from common.config.env import Env
from common.errors import Fatal
from common.postgres import Conn
from common.secrets.passwords import password_of, urls_to_try
from ops import tool

AUDITOR: Final = "auditor"
AUDITOR_CONNECTIONS_MAX: Final = 30
"""On one server, which has 100 by default for all. The console takes three for each database, a proof one."""
SPILLED_MAX: Final = "2GB"
"""What a session may put on the disk while it sorts. By default there is no limit, and any role may fill the disk."""
CONNECT_WITHIN_S: Final = 60.0
LOCK_TIMEOUT_MS: Final = 5_000
"""While ALTER TABLE waits for a lock, every other statement on that table waits behind it: rather give up."""
TURN_WITHIN_S: Final = 60
ROOT: Final = Path(__file__).resolve().parent.parent

# By default every role may connect to every database, and a role for each service would mean nothing.
_REVOKE_FROM_PUBLIC = (
    "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC",
    "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC",
    "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
)
_GRANTS = (
    "GRANT CONNECT ON DATABASE {database} TO {service}, {auditor}",
    f"ALTER ROLE {{auditor}} CONNECTION LIMIT {AUDITOR_CONNECTIONS_MAX}",
    "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    # By default every role may fill the disk: with large objects, which belong to no table, and with messages in the
    # log of the server, even in a session that is read-only. A loop in plpgsql writes them fastest.
    "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC",
    """
    REVOKE EXECUTE ON FUNCTION lo_creat(int), lo_create(oid), lo_from_bytea(oid, bytea),
      pg_logical_emit_message(boolean, text, text, boolean), pg_logical_emit_message(boolean, text, bytea, boolean)
    FROM PUBLIC
    """,
    # Whoever takes the lock of the relay, or that of a key, keeps the service from its work. Its own right comes first:
    # the service may be running.
    "GRANT EXECUTE ON FUNCTION pg_try_advisory_lock(bigint), pg_advisory_xact_lock(bigint) TO {service}",
    """
    DO $$ DECLARE taker regprocedure; BEGIN
      FOR taker IN SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
        AND proname ~ '^pg_(try_)?advisory_(xact_)?lock(_shared)?$'
      LOOP EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', taker); END LOOP;
    END $$
    """,
    "GRANT USAGE ON SCHEMA public TO {service}, {auditor}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {service}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO {service}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {auditor}",
    # A role may change what its own sessions begin with, such as whether a commit waits for the disk and the standby.
    # That would outlast a new password.
    f"""
    ALTER ROLE {{service}} RESET ALL;
    ALTER ROLE {{service}} IN DATABASE {{database}} RESET ALL;
    ALTER ROLE {{service}} SET temp_file_limit = '{SPILLED_MAX}'
    """,
    f"""
    ALTER ROLE {{auditor}} RESET ALL;
    ALTER ROLE {{auditor}} IN DATABASE {{database}} RESET ALL;
    ALTER ROLE {{auditor}} SET temp_file_limit = '{SPILLED_MAX}';
    ALTER ROLE {{auditor}} SET default_transaction_read_only = on;
    ALTER ROLE {{auditor}} SET idle_in_transaction_session_timeout = '30min'
    """,
    # Whoever leaves a transaction open in psql makes the tables grow that change all the time. Dumps lift the limit for
    # themselves; a proof waits with its snapshot of one database while it reads another.
    "ALTER DATABASE {database} SET idle_in_transaction_session_timeout = '1min'",
)
# Here and not in `common/migrations`, whose SQL cannot name the role. A service's own migrations can.
_TAKE_BACK = (
    "REVOKE INSERT, UPDATE, DELETE ON schema_migrations FROM {service}",
    "REVOKE UPDATE, DELETE, TRUNCATE ON dead_letter_acts, replays FROM {service}",
    "REVOKE UPDATE, TRUNCATE ON keyed_answers FROM {service}",
    # One transaction: a deposit that comes in between must not be refused.
    """
    REVOKE ALL ON audit FROM {service};
    GRANT SELECT, INSERT (principal, kind, request_id, credential, act, target, detail, result) ON audit TO {service}
    """,
)


_DATABASE = """
    SELECT pg_encoding_to_char(encoding), coalesce(datcollversion, ''),
      coalesce(pg_database_collation_actual_version(oid), '')
    FROM pg_database WHERE datname = %s
"""


class Login(NamedTuple):
    """Who connects to which database."""

    role: str
    password: str
    database: str


def read_login(env: Env, variable: str) -> Login:
    """The login in a connection URL. Raises `Fatal` when a part of it is missing, or its password file."""
    url = env.database_url(variable)
    parameters = conninfo_to_dict(url)
    role, database = parameters.get("user"), parameters.get("dbname")
    if not (role and database and (parameters.get("password") or parameters.get("passfile"))):
        raise Fatal(f"migrate: {variable} must name a user, a passfile and a database")
    return Login(str(role), password_of(url), str(database))


def connect(url: str) -> Conn:
    """Connect, and retry for `CONNECT_WITHIN_S` while the server comes up. Raises `Fatal`."""
    return _connect(url)[0]


def _connect(url: str) -> tuple[Conn, str]:
    """The connection, and the URL that the server took: its password may be that of a rotation that was interrupted."""
    deadline = time.monotonic() + CONNECT_WITHIN_S
    delays = delays_s()
    while True:
        refusals = []
        for known in urls_to_try(url):
            try:
                connection = Conn.connect(known, autocommit=True, connect_timeout=5, client_encoding="utf8")
                return connection, _of_one_server(known, connection)
            except psycopg.OperationalError as error:
                refusals.append(error)
        if time.monotonic() > deadline:
            first = refusals[0]
            raise Fatal(f"migrate: no connection to PostgreSQL after {CONNECT_WITHIN_S:.0f} s: {first}") from first
        time.sleep(next(delays))


def _of_one_server(url: str, connection: Conn) -> str:
    """The URL of the server that was reached, where one names several: dbmate knows no primaries and standbys."""
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return url
    return urlunsplit(parts._replace(netloc=f"{user}@{connection.info.host}:{connection.info.port}"))


def ensure_role(connection: Conn, role: str, password: str) -> None:
    """Create the role, or set its password. Only the hash is sent, so no log of statements shows the password."""
    exists = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).rowcount
    hashed = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    verb = sql.SQL("ALTER" if exists else "CREATE")
    connection.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(role), sql.Literal(hashed)))


def ensure_database(connection: Conn, database: str) -> None:
    """Create the database, closed to other services. Raises `Fatal` when it exists in another encoding than UTF8:
    text would come out of it as bytes. Also when texts were sorted by another version of its collation: an index would
    not find what it holds. Databases made here sort by code points, which never changes."""
    row = connection.execute(_DATABASE, (database,)).fetchone()
    if row is None:
        create = sql.SQL(
            "CREATE DATABASE {} ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C' "
            "TEMPLATE template0"
        )
        connection.execute(create.format(sql.Identifier(database)))
    elif row[0] != "UTF8":
        raise Fatal(
            f"migrate: database {database!r} is encoded as {row[0]}, must be UTF8: drop it, and it is made anew"
        )
    elif row[1] != row[2]:
        raise Fatal(
            f"migrate: database {database!r} was made with version {row[1]} of its collation, the server has {row[2]}: "
            f"stop the service, then REINDEX DATABASE {database}, ALTER DATABASE {database} REFRESH COLLATION VERSION"
        )
    execute(connection, _REVOKE_FROM_PUBLIC, database=database)


def execute(connection: Conn, statements: Sequence[str], **names: str) -> None:
    """Execute the statements with these names in them."""
    identifiers = {placeholder: sql.Identifier(name) for placeholder, name in names.items()}
    for statement in statements:
        connection.execute(sql.SQL(statement).format(**identifiers))


def run_migrations(url: str, *directories: Path) -> None:
    """Run the SQL files that are new, oldest first, and print their names. Raises `Fatal` with what dbmate says. A file
    that cannot lock its table within `LOCK_TIMEOUT_MS` is not run, and neither are those after it."""
    parts = urlsplit(url)
    options_of_url = dict(parse_qsl(parts.query))
    # dbmate's driver takes options that it does not know for settings of the session. It reads the password file that
    # libpq's variable names.
    kept = {name: value for name, value in options_of_url.items() if name in ("sslmode", "sslrootcert")}
    target = urlunsplit(parts._replace(query=urlencode(kept | {"lock_timeout": LOCK_TIMEOUT_MS})))
    dbmate = Path(sysconfig.get_path("scripts")) / "dbmate"
    options = [option for directory in directories for option in ("--migrations-dir", str(directory))]
    done = subprocess.run(
        # Neither the caller's DBMATE_… variables nor those of .env, which dbmate reads itself, may steer it.
        [str(dbmate), "--env-file", os.devnull, *options, "--no-dump-schema", "migrate"],
        env={n: value for n, value in os.environ.items() if not n.startswith("DBMATE_")}
        | {"DATABASE_URL": target, "PGPASSFILE": options_of_url.get("passfile", "")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    database = urlsplit(url).path.lstrip("/")
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        if "lock timeout" in said:
            said += "; another session has the table locked, or has a transaction open: end it ('Tables grow' in "
            said += "docs/OPERATIONS.md), then run it again"
        raise Fatal(f"migrate: {database}: {said}")
    for line in filter(None, done.stdout.splitlines()):
        print(f"migrate: {database}: {line}")


def take_turn(connection: Conn) -> None:
    """Wait until no other run is at this server, for as long as the connection is open: dbmate has no lock of its own
    (dbmate #101), and roles belong to the whole server. Raises `Fatal` after `TURN_WITHIN_S`."""
    connection.execute(f"SET lock_timeout = '{TURN_WITHIN_S}s'")
    try:
        connection.execute("SELECT pg_advisory_lock(hashtext('tandem migrations'))")
    except psycopg.errors.LockNotAvailable as error:
        raise Fatal(f"migrate: another run has been at this server for {TURN_WITHIN_S} s; end it first") from error


def migrations_of(package: str) -> Path:
    """The folder of a package's migrations. Raises `Fatal` when there is none."""
    folder = ROOT.joinpath(*package.split("."), "migrations")
    if not folder.is_dir():
        raise Fatal(f"migrate: package {package!r} has no folder {folder.relative_to(ROOT)}")
    return folder


def migrate(name: str, env: Env, package: str = "") -> None:
    """Make one database what the code of a package, by default of that name, expects. Raises `Fatal`."""
    migrations = migrations_of(package or name)
    admin_url = env.database_url(f"{name.upper()}_ADMIN_URL")
    login = read_login(env, f"{name.upper()}_DATABASE_URL")
    auditor = read_login(env, f"{name.upper()}_AUDITOR_URL")
    admin, admin_url = _connect(admin_url)
    database_url = urlunsplit(urlsplit(admin_url)._replace(path=f"/{login.database}"))
    with admin:
        take_turn(admin)
        ensure_role(admin, login.role, login.password)
        ensure_role(admin, AUDITOR, auditor.password)
        ensure_database(admin, login.database)
        with connect(database_url) as connection:
            execute(connection, _GRANTS, database=login.database, service=login.role, auditor=AUDITOR)
            run_migrations(database_url, migrations_of("common"), migrations)
            execute(connection, _TAKE_BACK, service=login.role)


def main(arguments: Sequence[str]) -> int:
    env = Env("migrate")
    for target in arguments or tool.GROUP_OF:
        name, _, package = target.partition("=")
        migrate(name, env, package)
    print("migrate: databases, roles and migrations are up to date")
    return 0


if __name__ == "__main__":
    tool.run(main)
