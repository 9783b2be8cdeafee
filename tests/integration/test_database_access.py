"""Every role at every database: a service may do what it needs in its own, and is refused everything else.

Each right is tried, because a list of rights proves nothing. No statement changes a row, and all are rolled back.
"""

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Final

import psycopg
import pytest
from psycopg import errors, sql

from common.config.env import Env
from common.postgres import Conn
from dev.settings import DATABASES
from ops.migrate import AUDITOR, AUDITOR_CONNECTIONS_MAX, SPILLED_MAX, migrate
from tests.stack import Stack

STATEMENTS: Final[Mapping[str, str]] = {
    "select": "SELECT * FROM {table} LIMIT 0",
    "insert": "INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} LIMIT 0",
    "update": "UPDATE {table} SET {column} = {column} WHERE false",
    "delete": "DELETE FROM {table} WHERE false",
    "truncate": "TRUNCATE {table}",
    "alter": "ALTER TABLE {table} ADD COLUMN test integer",
    "drop": "DROP TABLE {table}",
    "index": "CREATE INDEX ON {table} (({column}))",
    "trigger": "ALTER TABLE {table} DISABLE TRIGGER ALL",
}
ELSEWHERE: Final[Mapping[str, str]] = {
    "create a table": "CREATE TABLE test (id integer)",
    "create a temporary table": "CREATE TEMPORARY TABLE test (id integer)",
    "create a schema": "CREATE SCHEMA test",
    "create a large object": "SELECT lo_create(0)",
    "write a large object": "SELECT lo_from_bytea(0, 'x')",
    "write to the server's log": "SELECT pg_logical_emit_message(false, 'x', 'x')",
    "write bytes to the server's log": "SELECT pg_logical_emit_message(false, 'x', 'x'::bytea)",
    "write to the file of the server's log": "DO $$ BEGIN RAISE LOG 'x'; END $$",
    "put more on the disk than it may": "SET temp_file_limit = -1",
    "take a lock for all others": "SELECT pg_try_advisory_lock_shared(1)",
    "create a role": "CREATE ROLE test",
    "become the superuser": "SET ROLE postgres",
    "change the superuser's password": "ALTER ROLE postgres PASSWORD 'known'",
    "read a file": "SELECT pg_read_file('postgresql.conf')",
    "run a program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "read hashes": "SELECT rolpassword FROM pg_authid",
    "change the server": "SELECT set_config('log_statement', 'all', false)",
}
LOCKS: Final[Mapping[str, str]] = {
    "lead": "SELECT pg_try_advisory_lock(hashtext('inventory relay'))",
    "keep others from a key": "SELECT pg_advisory_xact_lock(hashtextextended('a key', 0))",
}
"""What a service needs, and whoever only reads does not."""
ALL: Final = frozenset({"select", "insert", "update", "delete"})
NARROWER: Final[Mapping[str, frozenset[str]]] = {
    "audit": frozenset({"select"}),
    "schema_migrations": frozenset({"select"}),
    "dead_letter_acts": ALL - {"update", "delete"},
    "replays": ALL - {"update", "delete"},
    "keyed_answers": ALL - {"update"},
    "requests": ALL - {"update"},
    "ledger": ALL - {"update", "delete"},
    "movements": ALL - {"update", "delete"},
}
"""What a service may do with those of its own tables that are not open to everything. Into `audit` it may insert, but
not choose the number and the time."""


def may(role: str, database: str, table: str) -> frozenset[str]:
    if role == AUDITOR:
        return frozenset({"select"})
    return NARROWER.get(table, ALL) if role == database else frozenset()


def refused(connection: Conn, statement: sql.SQL | sql.Composed) -> bool:
    """Whether the role lacks the right. Another error is no refusal: what it says of rows and locks comes later."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
    except errors.InsufficientPrivilege:
        return True
    except errors.ReadOnlySqlTransaction:
        pytest.fail("the session is read-only, so that rights were not tried")
    except psycopg.Error:
        return False
    return False


def connect(stack: Stack, role: str, database: str) -> Conn:
    """As this role, with its own password. What the auditor's sessions begin with is only a default, and lifted."""
    url = stack.variables["ORDER_AUDITOR_URL" if role == AUDITOR else f"{role.upper()}_DATABASE_URL"]
    connection = Conn.connect(url, dbname=database, autocommit=True)
    connection.execute("SET default_transaction_read_only = off")
    return connection


def tables(connection: Conn) -> dict[str, list[str]]:
    """The columns of each table that a statement may set: others are refused before rights are looked at."""
    query = """
        SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position)
        FROM information_schema.columns WHERE table_schema = 'public' AND is_generated = 'NEVER'
          AND is_identity = 'NO' GROUP BY 1
    """
    return dict(connection.execute(query).fetchall())


@pytest.mark.parametrize("database", [*DATABASES, "postgres", "template1"])
@pytest.mark.parametrize("role", [*DATABASES, AUDITOR])
def test_each_role_may_do_what_its_service_needs_and_nothing_else(stack: Stack, role: str, database: str) -> None:
    if database not in DATABASES or role not in (AUDITOR, database):
        own = stack.variables[
            f"{DATABASES[0].upper()}_AUDITOR_URL" if role == AUDITOR else f"{role.upper()}_DATABASE_URL"
        ]
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(own, dbname=database)
        return
    wrong = []
    with connect(stack, role, database) as connection:
        found = tables(connection)
        assert {"positions", "parked_events", "audit"} <= found.keys()
        for table, columns in found.items():
            names = {
                "table": sql.Identifier(table),
                "column": sql.Identifier(columns[0]),
                "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
            }
            for act, statement in STATEMENTS.items():
                if refused(connection, sql.SQL(statement).format(**names)) is (act in may(role, database, table)):
                    wrong.append(f"{act} {table}")
        wrong += [act for act, statement in ELSEWHERE.items() if not refused(connection, sql.SQL(statement))]
        locks = [
            act for act, statement in LOCKS.items() if refused(connection, sql.SQL(statement)) is (role != AUDITOR)
        ]
        connection.execute("SELECT pg_advisory_unlock_all()")
        assert connection.execute("SHOW temp_file_limit").fetchone() == (SPILLED_MAX,)
    assert not wrong + locks, ", ".join(wrong + locks)


def test_an_auditor_leaves_connections_to_others(stack: Stack) -> None:
    with ExitStack() as held:
        for _ in range(AUDITOR_CONNECTIONS_MAX):
            with suppress(psycopg.OperationalError):  # others read as auditors too
                held.enter_context(connect(stack, AUDITOR, "payment"))
        with pytest.raises(psycopg.OperationalError, match='too many connections for role "auditor"'):
            connect(stack, AUDITOR, "payment")


def test_what_a_role_sets_for_itself_ends_with_the_next_migration(stack: Stack) -> None:
    """A leaked password is changed; a commit that waits for nothing would stay."""
    for role, setting in (("payment", "synchronous_commit"), (AUDITOR, "default_transaction_read_only")):
        with connect(stack, role, "payment") as connection:
            for scope in ("", "IN DATABASE payment "):
                connection.execute(f"ALTER ROLE {role} {scope}SET {setting} = off")
    migrate("payment", Env("test", stack.variables))
    with connect(stack, "payment", "payment") as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    with psycopg.connect(stack.variables["PAYMENT_AUDITOR_URL"]) as connection:
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
