"""Connections to a service's own database, with the limits that keep a frozen process from freezing the others.

All are in autocommit: a transaction is begun explicitly.
"""

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

import psycopg
from psycopg import Connection
from psycopg.adapt import Dumper, Loader, Transformer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, dict_row
from psycopg_pool import AsyncConnectionPool

from common.events import Milliseconds, rfc3339
from common.secrets.passwords import connect_by, urls_to_try

LOCK_TIMEOUT_MS: Final = 5_000
# A process frozen inside a transaction loses its session, and its locks. During COPY this timeout does not fire;
# `terminate_stale_blockers` does its work there.
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 10_000
TRANSACTION_TIMEOUT_MS: Final = 30_000
"""For a process that froze within a pipeline: PostgreSQL counts as idle only what has come to a Sync."""
STATEMENT_TIMEOUT_MS: Final = 15_000
STALE_TRANSACTION_S: Final = 30
CONNECT_TIMEOUT_S: Final = 3
KEEPALIVES: Final = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
"""A half-open connection is noticed within seconds, not after the system's two hours."""
READS_SIZE: Final = 4
WRITES_SIZE: Final = 3
POOL_TIMEOUT_S: Final = 2.0
HTTP_LOCK_TIMEOUT_MS: Final = 1_500
"""Shorter than `POOL_TIMEOUT_S`: a request that waits for a lock gives up before those that wait for its connection."""
CONNECTIONS_PER_PROCESS: Final = READS_SIZE + WRITES_SIZE + 3
"""The most connections of a consumer's process: HTTP's two pools and probe, the batch loop, and the relay or the
deadline timer."""
RENEW_EVERY_S: Final = 1.0
"""A pool replaces all its connections when it meets one that is lost or read-only, this often at most. A session can
stay read-only after the cause is gone: it may lead to a server that is a standby now, or keep a default from when it
began."""

AsyncConn = psycopg.AsyncConnection[Any]


class Conn(Connection[TupleRow]):
    """A connection of a thread. psycopg prepares nothing on it: after a rollback it would deallocate all that is
    prepared, and so what `common.pipeline` has prepared too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prepared: Final[dict[str, bytes]] = {}
        """The names of the statements that are prepared in this session."""
        self.loader: Final = Transformer(self.adapters)  # with the connection itself it would be a cycle
        self._names = itertools.count()

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        """Open a connection. Raises `psycopg.OperationalError` when it cannot."""
        return super().connect(conninfo, **options, prepare_threshold=None)

    @property
    def connection(self) -> Self:
        """Itself, as `common.pipeline.Pipeline` has one."""
        return self

    def new_name(self) -> bytes:
        """A name that no statement has had."""
        return b"batch_%d" % next(self._names)


class _UuidAsText(Loader):
    """Loads uuid as str, which our ids are in the code; the trip through `uuid.UUID` would cost more than both."""

    def load(self, data: Any) -> str:
        return bytes(data).decode()


class _ArrayDumper(Dumper):
    """Python lists of text, numbers and bytes as PostgreSQL arrays in text form; statements name the type by a cast.

    psycopg's own dumper, in Python, finds the element type each time and quotes by regular expressions: 3 to 30 us an
    element, a third of the saga's CPU. This one takes 0.2 to 1 us.
    """

    def dump(self, obj: Any) -> bytes:
        return _array(obj)


def text_of(value: str | int | list[Any] | None) -> bytes | None:
    """A parameter in PostgreSQL's text form. A list is an array, whose elements may be bytes too. Raises
    `psycopg.DataError` for another type, and for what text cannot hold."""
    match value:
        case list():
            return _array(value)
        case str():
            return _without_nul(value).encode()
        case int():
            return str(value).encode()
        case None:
            return None
    raise psycopg.DataError(f"cannot send a {type(value).__name__}")


def _array(values: list[Any]) -> bytes:
    return _without_nul(_plain_texts(values) or f"{{{','.join([_element(value) for value in values])}}}").encode()


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return text


def _plain_texts(values: list[Any]) -> str | None:
    """The array, if its elements are texts without anything to escape."""
    try:
        joined = '","'.join(values)
    except TypeError:
        return None
    if not values or "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        return None
    return f'{{"{joined}"}}'


def _element(value: str | int | bytes | None) -> str:
    match value:
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case None:
            return "NULL"
        case int():
            return str(value)
        case bytes():
            return f'"\\\\x{value.hex()}"'
    raise psycopg.DataError(f"cannot put a {type(value).__name__} into an array")


def _conninfo(
    url: str,
    instance: str,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    idle_timeout_s: int = 0,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
) -> str:
    transaction_timeout_ms = TRANSACTION_TIMEOUT_MS if statement_timeout_ms else 0
    options = (
        f"-c transaction_timeout={transaction_timeout_ms} "
        f"-c lock_timeout={lock_timeout_ms} -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} "
        f"-c statement_timeout={statement_timeout_ms} -c idle_session_timeout={idle_timeout_s}s"
    )
    return make_conninfo(
        url,
        application_name=instance,
        options=options,
        connect_timeout=CONNECT_TIMEOUT_S,
        **KEEPALIVES,
    )


def _adapt(connection: "psycopg.Connection[Any] | AsyncConn") -> None:
    connection.adapters.register_loader("uuid", _UuidAsText)
    connection.adapters.register_dumper(list, _ArrayDumper)


def connect(
    url: str, instance: str, *, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS, idle_timeout_s: int = 0
) -> Conn:
    """Open a connection for a thread, or for a one-shot, whose statements may take as long as they need
    (`statement_timeout_ms=0`). PostgreSQL ends the session, and frees its locks, after `idle_timeout_s` without a
    statement. Raises `psycopg.OperationalError` when it cannot."""

    def connect_to(known: str) -> Conn:
        return Conn.connect(_conninfo(known, instance, statement_timeout_ms, idle_timeout_s), autocommit=True)

    connection = connect_by(url, connect_to)
    _adapt(connection)
    return connection


class _UrlConnection(psycopg.AsyncConnection[Any]):
    """A connection made by a URL whose password may just be changed, as `common.secrets.passwords.connect_by` does."""

    @classmethod
    async def connect(  # type: ignore[override]
        cls, conninfo: str, *, instance: str, lock_timeout_ms: int = LOCK_TIMEOUT_MS, **options: Any
    ) -> "_UrlConnection":
        refusals = []
        for known in urls_to_try(conninfo):
            try:
                parameters = _conninfo(known, instance, lock_timeout_ms=lock_timeout_ms)
                return await super().connect(parameters, **options)
            except psycopg.errors.ConnectionTimeout:
                raise  # nobody was refused
            except psycopg.OperationalError as refusal:
                refusals.append(refusal)
        raise refusals[0]


async def connect_async(url: str, instance: str) -> AsyncConn:
    """Open a connection for an event loop, in autocommit. Raises `psycopg.OperationalError` when it cannot."""
    return await _UrlConnection.connect(url, instance=instance, autocommit=True)


def pool(url: str, instance: str, *, size: int) -> "AsyncConnectionPool[AsyncConn]":
    """A pool for an HTTP loop, not yet open. It raises `PoolTimeout` if none becomes free within `POOL_TIMEOUT_S`."""
    renewed_at_s = 0.0

    async def configure(connection: AsyncConn) -> None:
        _adapt(connection)
        await connection.set_autocommit(True)

    async def check(connection: AsyncConn) -> None:
        """Raises for a connection that is lost or was read-only for a while; the pool then replaces it, and with it all
        that it has. One after the other they would outlast the patience of the request that meets them."""
        nonlocal renewed_at_s
        stale = None
        try:
            await AsyncConnectionPool.check_connection(connection)
        except psycopg.Error as error:
            stale = error
        # The server reports both by itself, so reading them costs nothing.
        reported = map(connection.info.parameter_status, ("default_transaction_read_only", "in_hot_standby"))
        if (stale or "on" in reported) and time.monotonic() - renewed_at_s > RENEW_EVERY_S:
            renewed_at_s = time.monotonic()
            await opened.drain()
            raise psycopg.OperationalError("the connections of this pool are stale") from stale
        if stale:
            raise stale

    opened: AsyncConnectionPool[Any] = AsyncConnectionPool(
        url,
        connection_class=_UrlConnection,
        kwargs={"instance": instance, "lock_timeout_ms": HTTP_LOCK_TIMEOUT_MS},
        min_size=1,
        max_size=size,
        timeout=POOL_TIMEOUT_S,
        reconnect_timeout=2.0,
        configure=configure,
        check=check,
        open=False,
        name=f"{instance}-http",
    )
    return opened


_TIMELINE: Final = """
    SELECT CASE WHEN pg_is_in_recovery() THEN 0
      ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END
"""


STANDBY: Final = 0
FIRST_TIMELINE: Final = 1
"""Of a server that has never taken over from another, nor was restored to a point in time."""


def timeline(connection: Conn) -> int:
    """The number of the server's timeline, which rises with each promotion of a standby; `STANDBY` for a server that is
    one."""
    [(number,)] = connection.execute(_TIMELINE).fetchall()
    return int(number)


def hosts_of(url: str) -> int:
    """How many servers a connection tries, one after the other."""
    return str(conninfo_to_dict(url).get("host", "")).count(",") + 1


def lead(connection: Conn, role: str) -> bool:
    """Whether this session has the lock of the role. It takes the lock if it is free, and keeps it until it ends."""
    return connection.execute("SELECT pg_try_advisory_lock(hashtext(%s))", (role,)).fetchone() == (True,)


CONNECTIONS: Final = """
    SELECT current_setting('max_connections')::int AS allowed,
      current_setting('superuser_reserved_connections')::int + current_setting('reserved_connections')::int AS reserved,
      (SELECT sum(numbackends) FROM pg_stat_database)::int AS taken
"""


def connections(connection: Conn) -> dict[str, int]:
    """How many connections the server allows, of which superusers have some `reserved`, and how many are `taken`."""
    return connection.cursor(row_factory=dict_row).execute(CONNECTIONS).fetchone() or {}


@contextmanager
def transaction(connection: Conn) -> Iterator[None]:
    """Begin; commit at the end, or roll back."""
    with transaction_of_pipeline(connection):
        connection.execute("BEGIN")
        yield


@contextmanager
def transaction_of_pipeline(connection: Conn) -> Iterator[None]:
    """Commit at the end, or roll back, the transaction that the first `common.pipeline.pipeline` in it begins."""
    try:
        yield
        if connection.info.transaction_status is not TransactionStatus.IDLE:  # psycopg takes 0.04 ms to find that out
            connection.commit()
    except BaseException:
        with suppress(psycopg.Error):  # the server does it for a session that is gone
            connection.rollback()
        raise


def columns(rows: Iterable[Iterable[Any]]) -> list[list[Any]]:
    """Rows turned into columns, which `unnest` makes rows of again. There must be at least one."""
    return [list(column) for column in zip(*rows, strict=True)]


def timestamp(at: Milliseconds | None) -> str | None:
    """A point in time, or none, as PostgreSQL reads it."""
    return None if at is None else rfc3339(at)


_STALE_BLOCKERS: Final = """
    SELECT pid, pg_terminate_backend(pid)
    FROM pg_stat_activity AS activity
    WHERE usename = current_user AND datname = current_database() AND pid <> pg_backend_pid()
      AND xact_start < clock_timestamp() - make_interval(secs => %s)
      AND EXISTS (
        SELECT FROM pg_locks
        WHERE pg_locks.pid = activity.pid AND granted AND locktype = 'relation'
          AND mode IN ('RowShareLock', 'RowExclusiveLock')
      )
"""


def terminate_stale_blockers(connection: Conn) -> list[int]:
    """End sessions of our own role that have held row locks for over `STALE_TRANSACTION_S`; returns their pids.

    To be called after a lock timeout (55P03), outside a transaction. A process frozen inside COPY keeps its locks for
    ever: no timeout of PostgreSQL fires there.
    """
    with connection.transaction():
        return [row[0] for row in connection.execute(_STALE_BLOCKERS, (STALE_TRANSACTION_S,)).fetchall()]
