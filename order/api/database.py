"""The order database as HTTP uses it: pools of connections, and a probe that knows whether the database answers.

The probe has a connection of its own: a pool whose connections are all in use says nothing about the database.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import psycopg
from loguru import logger
from psycopg_pool import PoolTimeout

from common.errors import Transient
from common.postgres import POOL_SIZE, POOL_TIMEOUT_S, AsyncConn, connect_async, pool

PING_EVERY_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 2.5

T = TypeVar("T")


class DatabaseUnavailable(Transient):
    """The order database is away, busy, or failed."""


class DatabaseProbe:
    """Keeps `reachable` true to whether the order database answers."""

    def __init__(self, url: str, instance: str) -> None:
        self._url = url
        self._name = f"{instance}-probe"
        self.reachable = False

    async def watch(self) -> None:
        """Ask the database every `PING_EVERY_S`, for ever."""
        connection = None
        try:
            while True:
                try:
                    connection = await in_time(self._ping(connection))
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
        connection = connection or await connect_async(self._url, self._name)
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
                logger.info("the order database answers")
            else:
                logger.warning("the order database does not answer: {}", str(error).strip() or repr(error))


class DatabasePool:
    """Connections to the order database. While the probe finds it away, callers fail at once."""

    def __init__(self, url: str, name: str, probe: DatabaseProbe, *, size: int = POOL_SIZE) -> None:
        self._pool = pool(url, name, size=size)
        self._probe = probe

    async def open(self) -> None:
        """Begin to connect, without waiting for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    def check_reachable(self) -> None:
        """Raises `DatabaseUnavailable` while the database does not answer."""
        if not self._probe.reachable:
            raise DatabaseUnavailable("the order database cannot be reached")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConn]:
        """A connection. Raises `DatabaseUnavailable`, also when what is done with the connection fails."""
        self.check_reachable()
        try:
            async with self._pool.connection() as connection:
                yield connection
        except PoolTimeout:
            self.check_reachable()
            raise DatabaseUnavailable(
                f"the order database is busy: no connection was free within {POOL_TIMEOUT_S:g} s"
            ) from None
        except psycopg.Error as error:
            raise DatabaseUnavailable(f"the order database failed: {str(error).strip()}") from error


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
    """Take the task's error, since nothing else awaits it any more: asyncio would log it."""
    if not task.cancelled():
        task.exception()
