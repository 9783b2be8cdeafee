"""The order database's pool and probe: busy is not away, and a server that does not answer delays no caller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from loguru import logger
from psycopg import errors
from psycopg_pool import PoolTimeout

from common import database
from common.config.env import Env
from common.config.process import process_settings
from common.database import Database, DatabasePool, DatabaseProbe, DatabaseUnavailable, in_time
from common.postgres import POOL_TIMEOUT_S, AsyncConn
from tests.unit import virtual_time

URL = "postgresql://nowhere"
PROCESS = process_settings(Env("test", {"DATABASE_URL": URL, "AUTH": "off"}), database="DATABASE_URL", port=1)


class FakeConnection:
    """Answers unless told otherwise."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed = False

    async def execute(self, query: str) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.closed = True


class FakePool:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[FakeConnection]:
        if isinstance(self.error, PoolTimeout):
            raise self.error
        yield FakeConnection(self.error)


def refusal(error: Exception | None, *, reachable: bool | None = True) -> DatabaseUnavailable:
    async def main() -> DatabaseUnavailable:
        probe = DatabaseProbe(URL, "test", "order")
        probe.reachable = reachable
        pool = DatabasePool(URL, "test", probe, size=1)
        pool._pool = FakePool(error)  # type: ignore[assignment]
        with pytest.raises(DatabaseUnavailable) as caught:
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")
        return caught.value

    return asyncio.run(main())


def test_a_pool_in_use_is_busy_and_a_database_that_does_not_answer_is_away() -> None:
    assert "the order database is busy" in str(refusal(PoolTimeout()))
    assert "cannot be reached" in str(refusal(None, reachable=False))
    assert "failed: lost" in str(refusal(psycopg.OperationalError("lost"), reachable=None))
    assert "failed: lost" in str(refusal(psycopg.OperationalError("lost")))
    assert "read-only" in str(refusal(errors.ReadOnlySqlTransaction()))
    assert "locked" in str(refusal(errors.LockNotAvailable()))


@pytest.mark.parametrize(
    ("error", "unchanged"),
    [
        (PoolTimeout(), True),
        (psycopg.OperationalError("server closed the connection unexpectedly"), False),
        (errors.AdminShutdown(), False),
        (errors.IdleSessionTimeout(), False),
        (errors.ConnectionFailure(), False),
        (errors.StatementCompletionUnknown(), False),
        (errors.QueryCanceled(), True),
        (errors.LockNotAvailable(), True),
        (errors.DeadlockDetected(), True),
        (errors.SerializationFailure(), True),
        (errors.ReadOnlySqlTransaction(), True),
        (errors.TooManyConnections(), True),
        (errors.DiskFull(), True),
        (errors.UndefinedTable(), True),
        (errors.InsufficientPrivilege(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_certainly_changed_nothing_is_said_to(error: Exception, unchanged: bool) -> None:
    assert refusal(error).unchanged is unchanged


@pytest.mark.parametrize(
    ("error", "logged"),
    [(errors.UndefinedTable("no orders"), 1), (errors.InsufficientPrivilege(), 1), (errors.DeadlockDetected(), 0)],
    ids=lambda value: type(value).__name__,
)
def test_only_what_an_operator_has_to_repair_is_logged_as_an_error(error: psycopg.Error, logged: int) -> None:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="ERROR")
    try:
        refusal(error)
    finally:
        logger.remove(sink)
    assert len(lines) == logged
    assert all("the order database cannot do what a request needs: PostgreSQL: " in line for line in lines)


@pytest.mark.parametrize(
    ("error", "sessions"),
    [
        (errors.AdminShutdown(), 2),
        (psycopg.OperationalError("server closed the connection unexpectedly"), 2),
        (errors.FeatureNotSupported("cached plan must not change result type"), 2),
        (errors.LockNotAvailable(), 1),
        (errors.QueryCanceled(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("changes", [False, True])
def test_what_only_reads_is_repeated_once_when_its_session_is_lost(
    error: psycopg.Error, sessions: int, changes: bool
) -> None:
    begun: list[Any] = []

    async def work(connection: AsyncConn) -> None:
        begun.append(connection)
        await connection.execute("SELECT 1")

    async def main() -> None:
        pool = DatabasePool(URL, "test", DatabaseProbe(URL, "test", "order"), size=1)
        pool._pool = FakePool(error)  # type: ignore[assignment]
        with pytest.raises(DatabaseUnavailable):
            await (pool.run if changes else pool.read)(work)

    virtual_time.run(main())
    assert len(begun) == (1 if changes else sessions)


@pytest.mark.parametrize("error", [errors.CheckViolation(), errors.NumericValueOutOfRange(), psycopg.DataError("NUL")])
def test_what_the_request_is_to_blame_for_is_not_blamed_on_the_database(error: psycopg.Error) -> None:
    with pytest.raises(type(error)):
        refusal(error)


def test_those_who_change_one_row_take_turns_and_keep_nobody_else_waiting() -> None:
    async def main() -> None:
        database = Database(PROCESS, "payment")
        database.probe.reachable = True
        database.writes._pool = FakePool(None)  # type: ignore[assignment]
        release = asyncio.Event()
        inside: list[str] = []

        async def change(row: str) -> None:
            async with database.change(row):
                inside.append(row)
                await release.wait()

        same = [asyncio.create_task(change("account a")) for _ in range(5)]
        other = asyncio.create_task(change("account b"))
        await asyncio.sleep(POOL_TIMEOUT_S / 2)
        assert inside == ["account a", "account b"]
        await asyncio.sleep(POOL_TIMEOUT_S)
        for waiting in same[1:]:
            with pytest.raises(DatabaseUnavailable, match="account a is busy") as caught:
                waiting.result()
            assert caught.value.unchanged
        release.set()
        await asyncio.gather(same[0], other)
        await change("account a")
        assert (database._turns, database._in_line) == ({}, {})

    virtual_time.run(main())


def test_a_server_that_is_frozen_keeps_no_request_for_ever() -> None:
    async def main() -> None:
        probe = DatabaseProbe(URL, "test", "order")
        pool = DatabasePool(URL, "test", probe, size=1)
        pool._pool = FakePool(None)  # type: ignore[assignment]

        async def ask(_: Any) -> None:
            await asyncio.Event().wait()

        with pytest.raises(
            DatabaseUnavailable, match="the order database has not answered: no answer in 10 s"
        ) as caught:
            await pool.run(ask)
        assert not caught.value.unchanged

    virtual_time.run(main())


def test_the_probe_tries_a_new_connection_before_it_reports_the_database_away(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = FakeConnection(), FakeConnection()
    answers: list[Any] = [first, second, psycopg.OperationalError("refused")]

    async def connect(url: str, name: str) -> FakeConnection:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, FakeConnection)
        return answer

    monkeypatch.setattr(database, "connect_async", connect)

    async def main() -> None:
        probe = DatabaseProbe(URL, "test", "order")
        watching = asyncio.create_task(probe.watch())
        await asyncio.sleep(0.5)
        assert probe.reachable
        first.error = psycopg.OperationalError("lost")
        await asyncio.sleep(1)
        assert (probe.reachable, first.closed, answers) == (True, True, answers[-1:])
        second.error = psycopg.OperationalError("lost")
        await asyncio.sleep(1)
        assert (probe.reachable, second.closed) == (False, True)
        watching.cancel()

    virtual_time.run(main())


def test_work_that_does_not_end_is_not_waited_for() -> None:
    async def frozen() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(60)  # as psycopg does when it is cancelled

    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError):
            await in_time(frozen(), 1.0)
        assert loop.time() - began < 2

    virtual_time.run(main())
