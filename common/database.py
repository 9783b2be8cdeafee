"""A service's database as HTTP uses it: connections that read, others that change something, and a probe.

Reads have connections of their own: a change may wait for a row that somebody else has locked, and must keep nobody
waiting but those who want the same row. The probe has one too: a pool whose connections are all in use says nothing
about the database.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import psycopg
from loguru import logger
from psycopg_pool import PoolTimeout

from common import metrics
from common.config.process import Process
from common.errors import Failure, Transient, classify, describe, is_session_stale
from common.postgres import (
    CONNECT_TIMEOUT_S,
    POOL_TIMEOUT_S,
    READS_SIZE,
    WRITES_SIZE,
    AsyncConn,
    connect_async,
    hosts_of,
    pool,
)

PING_EVERY_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 2.5
RUN_TIMEOUT_S: Final = 10.0
"""More than a request waits for a connection and for a lock together."""

T = TypeVar("T")

# The server has rolled back, and says so, except for these: it may end a session that was committing.
_UNKNOWN_CLASSES: Final = frozenset({"08", "57"})
_QUERY_CANCELED: Final = "57014"
_COMPLETION_UNKNOWN: Final = "40003"
_SESSION_ENDED: Final = frozenset({"57P01", "57P02", "57P05"})
"""By an operator or a shutdown, by a crash, or because it was idle."""


class DatabaseUnavailable(Transient):
    """The database is away, busy or read-only, or has failed. `unchanged` says whether it certainly changed nothing."""

    def __init__(self, reason: str, *, unchanged: bool = True) -> None:
        super().__init__(reason)
        self.unchanged = unchanged


class SessionLost(DatabaseUnavailable):
    """The session ended while it was in use, or cannot be used any more: another one may do."""


class DatabaseProbe:
    """Keeps `reachable` up to date: whether the database answers; None until that is known."""

    def __init__(self, url: str, instance: str, name: str) -> None:
        """`name` is the service's, such as `order`."""
        self._url = url
        self._connect_timeout_s = ANSWER_TIMEOUT_S + CONNECT_TIMEOUT_S * (hosts_of(url) - 1)
        """A server that is frozen must not hide the one that took over from it."""
        self._session = f"{instance}-probe"
        self.name = name
        self.reachable: bool | None = None

    async def watch(self) -> None:
        """Ping the database every `PING_EVERY_S`, for ever."""
        connection = None
        try:
            while True:
                try:
                    timeout_s = self._connect_timeout_s if connection is None else ANSWER_TIMEOUT_S
                    connection = await in_time(self._ping(connection), timeout_s)
                    self._report(None)
                except (psycopg.Error, OSError, TimeoutError) as error:
                    if connection is not None:  # only this connection may be lost: try a new one before reporting
                        connection = None
                        continue
                    self._report(error)
                await asyncio.sleep(PING_EVERY_S)
        finally:
            if connection is not None:
                await connection.close()

    async def _ping(self, connection: AsyncConn | None) -> AsyncConn:
        """The connection, or a new one, after it has answered."""
        connection = connection or await connect_async(self._url, self._session)
        try:
            await connection.execute("SELECT 1")
        except BaseException:
            await connection.close()
            raise
        return connection

    def _report(self, error: Exception | None) -> None:
        reachable = error is None
        if reachable is not self.reachable:
            self.reachable = reachable
            if reachable:
                logger.info("the {} database answers", self.name)
            else:
                logger.warning("the {} database does not answer: {}", self.name, str(error).strip() or repr(error))


class DatabasePool:
    """Connections to a database. While the probe finds it away, callers fail at once."""

    def __init__(self, url: str, session: str, probe: DatabaseProbe, *, size: int) -> None:
        self._pool = pool(url, session, size=size)
        self._probe = probe
        self._size = size

    async def open(self, name: str) -> None:
        """Begin to connect, without waiting for it. `name` is that of the pool in the metrics."""
        await self._pool.open(wait=False)
        metrics.watch_pool(f"database-{name}", self._size, self._wanted)

    async def close(self) -> None:
        await self._pool.close()

    def _wanted(self) -> int:
        """The connections in use, and the callers that wait for one."""
        stats = self._pool.get_stats()
        return stats["pool_size"] - stats["pool_available"] + stats["requests_waiting"]

    def check_reachable(self) -> None:
        """Raises `DatabaseUnavailable` while the database is known not to answer."""
        if self._probe.reachable is False:
            raise DatabaseUnavailable(f"the {self._probe.name} database cannot be reached")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConn]:
        """A connection. Raises `DatabaseUnavailable`, also when the database fails at what is done with it. An error
        that `classify` blames on what was sent is raised as it is."""
        self.check_reachable()
        try:
            async with self._pool.connection() as connection:
                try:
                    yield connection
                except psycopg.Error as error:
                    if is_session_stale(error):
                        await connection.close()  # the pool then replaces it
                    raise
        except PoolTimeout:
            self.check_reachable()
            raise DatabaseUnavailable(
                f"the {self._probe.name} database is busy: no connection was free within {POOL_TIMEOUT_S:g} s"
            ) from None
        except psycopg.Error as error:
            failure = classify(error)
            if failure is Failure.POISON:
                raise
            if failure is Failure.FATAL:
                logger.error("the {} database cannot do what a request needs: {}", self._probe.name, describe(error))
            raise _failed(self._probe.name, error) from error

    async def run(self, work: Callable[[AsyncConn], Coroutine[Any, Any, T]]) -> T:
        """What the work with a connection returns. Raises `DatabaseUnavailable` like `connection` and `answer`."""

        async def connect_and_work() -> T:
            async with self.connection() as connection:
                return await work(connection)

        return await self.answer(connect_and_work())

    async def read(self, work: Callable[[AsyncConn], Coroutine[Any, Any, T]]) -> T:
        """Like `run`, for work that changes nothing. If its session is lost, as when a server restarts or an operator
        ends it, the work is repeated once, in another session."""
        try:
            return await self.run(work)
        except SessionLost:
            return await self.run(work)

    async def answer(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result. Raises `DatabaseUnavailable` when there is none within `RUN_TIMEOUT_S`: a server that is
        frozen never gives an answer."""
        try:
            return await in_time(work, RUN_TIMEOUT_S)
        except TimeoutError as error:
            reason = f"the {self._probe.name} database has not answered: {error}"
            raise DatabaseUnavailable(reason, unchanged=False) from None


def _failed(name: str, error: psycopg.Error) -> DatabaseUnavailable:
    match error:
        case psycopg.errors.ReadOnlySqlTransaction():
            reason = f"the {name} database is read-only now"
        case psycopg.errors.LockNotAvailable():
            reason = f"the {name} database is busy: somebody else has locked this"
        case _:
            reason = f"the {name} database failed: {describe(error).removeprefix('PostgreSQL: ')}"
    kind = SessionLost if _is_session_lost(error) else DatabaseUnavailable
    return kind(reason, unchanged=_is_rolled_back(error.sqlstate))


def _is_session_lost(error: psycopg.Error) -> bool:
    if is_session_stale(error):
        return True
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state in _SESSION_ENDED or state[:2] == "08"


def _is_rolled_back(state: str | None) -> bool:
    """Whether the server has said, by this SQLSTATE, that the transaction has no effect."""
    if state is None or state == _COMPLETION_UNKNOWN:
        return False
    return state[:2] not in _UNKNOWN_CLASSES or state == _QUERY_CANCELED


class Database:
    """The pools and the probe of one process."""

    def __init__(self, process: Process, name: str) -> None:
        """`name` is the service's, such as `order`."""
        url, instance = process.database_url, process.instance
        self.probe = DatabaseProbe(url, instance, name)
        self.reads = DatabasePool(url, instance, self.probe, size=READS_SIZE)
        self.writes = DatabasePool(url, f"{instance}-writes", self.probe, size=WRITES_SIZE)
        self._turns: dict[str, asyncio.Lock] = {}
        self._in_line: Counter[str] = Counter()
        self._watch: asyncio.Task[None] | None = None

    def undetermined(self) -> list[str]:
        """Names the database until it is known whether it answers: serving earlier would report it as away."""
        return [] if self.probe.reachable is not None else [f"{self.probe.name} database: not asked yet"]

    def away(self) -> list[str]:
        """Names the database while it does not answer."""
        return [] if self.probe.reachable else [f"{self.probe.name} database: no answer"]

    async def open(self) -> None:
        """Begin to connect, without waiting for it."""
        await self.reads.open("reads")
        await self.writes.open("writes")
        self._watch = asyncio.create_task(self.probe.watch())

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            # A query that is cancelled first asks the server to give up, and a frozen one never answers.
            await asyncio.wait([self._watch], timeout=1)
        await self.writes.close()
        await self.reads.close()

    @asynccontextmanager
    async def change(self, row: str) -> AsyncIterator[AsyncConn]:
        """A connection to change a row, named such as `account cust-1`. Those who change the same row come one after
        the other, so that all of them together wait for its lock with one connection. Raises `DatabaseUnavailable`.
        """
        self.writes.check_reachable()
        lock = self._turns.setdefault(row, asyncio.Lock())
        self._in_line[row] += 1
        try:
            busy = f"{row} is busy: other requests to change it have not ended"
            async with turn(lock, busy), self.writes.connection() as connection:
                yield connection
        finally:
            self._in_line[row] -= 1
            if not self._in_line[row]:
                del self._in_line[row], self._turns[row]


@asynccontextmanager
async def turn(lock: asyncio.Lock | asyncio.Semaphore, busy: str) -> AsyncIterator[None]:
    """Take the lock. Raises `DatabaseUnavailable` with this reason if it is not free within `POOL_TIMEOUT_S`."""
    try:
        async with asyncio.timeout(POOL_TIMEOUT_S):
            await lock.acquire()
    except TimeoutError:
        raise DatabaseUnavailable(f"{busy} within {POOL_TIMEOUT_S:g} s") from None
    try:
        yield
    finally:
        lock.release()


async def in_time(work: Coroutine[Any, Any, T], timeout_s: float = ANSWER_TIMEOUT_S) -> T:
    """The work's result. Raises `TimeoutError` after `timeout_s` without waiting for the work to end: when psycopg is
    cancelled it first asks the server to give up, and a frozen server never answers that."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait([task], timeout=timeout_s)
    if not done:
        task.add_done_callback(_ignore_result)
        task.cancel()
        raise TimeoutError(f"no answer in {timeout_s:g} s")
    return task.result()


def _ignore_result(task: "asyncio.Task[Any]") -> None:
    """Nobody waits for this task any more."""
    if not task.cancelled():
        task.exception()
