"""Sessions that get in the way of a service, and a server that has no connection left."""

import random
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import Connection, sql

from dev.settings import SERVICES
from tests.chaos.arena import PROBE, Arena
from tests.chaos.faults.fault import Injected, meanwhile, rises
from tests.chaos.schedule import Fault

LOCKED_EVERY_S: Final = 0.01
TERMINATED_EVERY_S: Final = (0.05, 0.5)
TAKEN_EVERY_S: Final = 0.02
_KEYS: Final = {"payment": ("accounts", "customer_id"), "inventory": ("products", "product_id")}
_DEADLOCKS: Final = "SELECT deadlocks FROM pg_stat_database WHERE datname = %s"
_SESSIONS: Final = "SELECT pid FROM pg_stat_activity WHERE usename = %s AND pid <> pg_backend_pid()"
_TERMINATE: Final = f"SELECT count(pg_terminate_backend(pid)) FROM ({_SESSIONS}) AS sessions"


def _number(connection: "Connection[Any]", statement: str, *parameters: str) -> int:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def deadlock(arena: Arena, fault: Fault) -> Injected:
    """A session that locks the rows of every batch in the opposite order. The service has to resolve the deadlock."""
    table, key = map(sql.Identifier, _KEYS[fault.target])
    listed = sql.SQL("SELECT {0} FROM {1} WHERE {0} NOT LIKE {2} ORDER BY {0} DESC").format(
        key, table, sql.Literal(PROBE.format("%"))
    )
    lock = sql.SQL("SELECT FROM {} WHERE {} = %s FOR UPDATE").format(table, key)

    def act(over: threading.Event) -> None:
        while not over.is_set():
            with suppress(psycopg.Error), arena.postgres.connect(fault.target) as session, session.transaction():
                session.execute("SET LOCAL deadlock_timeout = '1h'")
                for (row,) in session.execute(listed).fetchall():
                    session.execute(lock, (row,))
                    if over.wait(LOCKED_EVERY_S):
                        break

    with arena.postgres.connect() as watcher:
        witness = rises(lambda: _number(watcher, _DEADLOCKS, fault.target), "deadlocks")
        with meanwhile(act):
            yield witness


@contextmanager
def serialization_failure(arena: Arena, fault: Fault) -> Injected:
    """SERIALIZABLE becomes the default of the role, so transactions that overlap fail with 40001."""
    role = sql.Identifier(fault.target)
    failures = rises(lambda: arena.occurrences("could not serialize access"), "failures")
    with arena.postgres.connect() as owner:
        owner.execute(sql.SQL("ALTER ROLE {} SET default_transaction_isolation = 'serializable'").format(role))
        owner.execute(_TERMINATE, (fault.target,))
    try:
        yield failures
    finally:
        with arena.postgres.connect() as owner:
            owner.execute(sql.SQL("ALTER ROLE {} RESET default_transaction_isolation").format(role))
            owner.execute(_TERMINATE, (fault.target,))


@contextmanager
def lock_timeout(arena: Arena, fault: Fault) -> Injected:
    """A session locks all positions for longer than `lock_timeout` (5 s)."""
    timeouts = rises(lambda: arena.occurrences("lock timeout"), "timeouts")
    with arena.postgres.connect(fault.target) as session, session.transaction():
        session.execute("LOCK TABLE positions IN ACCESS EXCLUSIVE MODE")
        yield timeouts


@contextmanager
def terminate_sessions(arena: Arena, fault: Fault) -> Injected:
    """An administrator who ends the service's sessions, again and again."""
    draw = random.Random(fault.seed)
    ended = 0

    def act(over: threading.Event) -> None:
        nonlocal ended
        with arena.postgres.connect() as owner:
            while not over.wait(draw.uniform(*TERMINATED_EVERY_S)):
                ended += _number(owner, _TERMINATE, fault.target)

    with meanwhile(act):
        yield lambda: f"{ended} sessions" if ended else ""


@contextmanager
def connections_exhausted(arena: Arena, fault: Fault) -> Injected:
    """Other clients take all connections. The service loses its own and gets no new one."""
    url = arena.variables[f"{fault.target.upper()}_AUDITOR_URL"]
    names = [s.name for s in SERVICES if s.database == fault.target]
    refusals = rises(lambda: arena.occurrences("remaining connection slots"), "refusals logged")

    def act(over: threading.Event) -> None:
        with ExitStack() as taken:
            while not over.wait(TAKEN_EVERY_S):
                with suppress(psycopg.OperationalError):
                    while not over.is_set():
                        taken.enter_context(psycopg.connect(url))

    with meanwhile(act):
        for name in names:
            for instance in arena.named(name):
                arena.database_links[instance.name].reset()
        yield refusals
