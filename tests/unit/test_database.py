"""The order database's pool and probe: busy is not away, and a server that does not answer delays no caller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from order.api import database
from order.api.database import DatabasePool, DatabaseProbe, DatabaseUnavailable, in_time
from tests.unit import virtual_time

URL = "postgresql://nowhere"


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


def refusal(error: Exception | None, *, reachable: bool = True) -> str:
    async def main() -> str:
        probe = DatabaseProbe(URL, "test")
        probe.reachable = reachable
        pool = DatabasePool(URL, "test", probe)
        pool._pool = FakePool(error)  # type: ignore[assignment]
        with pytest.raises(DatabaseUnavailable) as caught:
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")
        return str(caught.value)

    return asyncio.run(main())


def test_a_pool_in_use_is_busy_and_a_database_that_does_not_answer_is_away() -> None:
    assert "busy" in refusal(PoolTimeout())
    assert "cannot be reached" in refusal(None, reachable=False)
    assert "failed: lost" in refusal(psycopg.OperationalError("lost"))


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
        probe = DatabaseProbe(URL, "test")
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
