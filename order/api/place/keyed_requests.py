"""The table `requests`: what was first asked for under each idempotency key. All of its SQL.

It is written before the order is published, so that whoever comes again with the key, at whichever process, finds the
very event that was or will be published.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from loguru import logger
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from common.events import OrderId
from common.postgres import pool
from order.api.place.grouped import Grouped
from order.api.read.queries import DatabaseAway

KEYS_KEPT_S: Final = 7 * 86_400
"""A key is good for this long at least: far longer than any client goes on retrying."""
FORGET_EVERY_S: Final = 600.0
FORGET_ROWS_MAX: Final = 1_000

GROUP_MAX: Final = 500
WAITING_MAX: Final = 2_000
ANSWER_TIMEOUT_S: Final = 2.5
POOL_SIZE: Final = 2
"""One statement is under way at a time; the other connection is for deleting, or while one hangs."""

# One order of locking for all processes: two that insert the same keys crosswise would otherwise wait for each other.
_INSERT: Final = """
    INSERT INTO requests (customer_id, idempotency_key, request_hash, order_id, event)
    SELECT * FROM unnest(%b::text[], %b::text[], %b::bytea[], %b::text[]::uuid[], %b::bytea[])
      AS asked(customer_id, idempotency_key, request_hash, order_id, event)
    ORDER BY customer_id COLLATE "C", idempotency_key COLLATE "C"
    ON CONFLICT DO NOTHING RETURNING order_id
"""
# An order that the saga has stored is in the log: it read it there.
_FIND: Final = """
    SELECT customer_id, idempotency_key, request_hash, order_id, event,
      EXISTS (SELECT FROM orders WHERE orders.order_id = requests.order_id AND status <> 'awaiting_placed')
    FROM requests
    JOIN unnest(%b::text[], %b::text[]) AS asked(customer_id, idempotency_key) USING (customer_id, idempotency_key)
"""
_FORGET: Final = """
    DELETE FROM requests WHERE ctid = ANY(ARRAY(
      SELECT ctid FROM requests WHERE created_at < now() - make_interval(secs => %s) ORDER BY created_at LIMIT %s))
"""


class First(NamedTuple):
    """What was first asked for under a key. `event` are the bytes to publish, `in_log` whether the saga read them."""

    request_hash: bytes
    order_id: OrderId
    event: bytes
    in_log: bool = False


class Ask(NamedTuple):
    """A request under a key: stored if it is the first one. With None, the first one is only looked for."""

    customer_id: str
    key: str
    first: First | None


class KeyedRequests:
    """Stores requests by their keys, many in one statement."""

    def __init__(self, url: str, instance: str, reachable: Callable[[], bool]) -> None:
        """While `reachable` says no, nothing is tried."""
        self._pool: AsyncConnectionPool[Any] = pool(url, f"{instance}-keys", size=POOL_SIZE)
        self._reachable = reachable
        self._grouped: Grouped[Ask, First | None] = Grouped(self._answer_in_time, GROUP_MAX)

    async def open(self) -> None:
        """Begin to connect, without waiting for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    def submit(self, ask: Ask) -> "asyncio.Future[First | None]":
        """What was first asked for under the key, by this request or an earlier one. The future raises `DatabaseAway`.

        It ends with None for what was only looked for and is not there. Raises `DatabaseAway` at once while the
        database is known to be away, or too much waits for it.
        """
        if not self._reachable():
            raise DatabaseAway("the order database cannot be reached")
        if self._grouped.waiting >= WAITING_MAX:
            raise DatabaseAway(f"{WAITING_MAX} requests are waiting for the order database already")
        return self._grouped.submit(ask)

    async def _answer_in_time(self, asked: Sequence[Ask]) -> Sequence[First | None]:
        answering = asyncio.ensure_future(self._answer(asked))
        done, _ = await asyncio.wait([answering], timeout=ANSWER_TIMEOUT_S)
        if not done:
            # Not awaited: psycopg first asks the server, which does not answer, to give up.
            answering.add_done_callback(_forget_result)
            answering.cancel()
            raise DatabaseAway(f"the order database has not answered in {ANSWER_TIMEOUT_S:g} s")
        return answering.result()

    async def _answer(self, asked: Sequence[Ask]) -> Sequence[First | None]:
        try:
            async with self._pool.connection() as connection:
                mine = await _insert(connection, asked)
                others = [ask for ask, first in zip(asked, mine, strict=True) if first is None]
                if not others:
                    return mine
                # A statement of its own: the one before cannot see a row that was committed after it had begun.
                known = await _find(connection, others)
        except (psycopg.Error, PoolTimeout) as error:
            raise DatabaseAway(f"the order database does not take it: {error}") from error
        return [first or known.get((ask.customer_id, ask.key)) for ask, first in zip(asked, mine, strict=True)]

    async def keep_forgetting(self) -> None:
        """Delete the keys that are older than `KEYS_KEPT_S`, now and then, for ever."""
        while True:
            try:
                while await self._forget_some() == FORGET_ROWS_MAX:
                    pass
            except (psycopg.Error, PoolTimeout) as error:
                logger.warning("old idempotency keys cannot be deleted now: {}", str(error).strip())
            await asyncio.sleep(FORGET_EVERY_S)

    async def _forget_some(self) -> int:
        async with self._pool.connection() as connection:
            deleted: int = (await connection.execute(_FORGET, (KEYS_KEPT_S, FORGET_ROWS_MAX))).rowcount
            return deleted


async def _insert(connection: "psycopg.AsyncConnection[Any]", asked: Sequence[Ask]) -> list[First | None]:
    """For each request, itself if it is now stored as the first of its key, else None."""
    firsts = [(ask.customer_id, ask.key, *ask.first[:3]) for ask in asked if ask.first is not None]
    if not firsts:
        return [None] * len(asked)
    cursor = await connection.execute(_INSERT, [list(column) for column in zip(*firsts, strict=True)])
    stored = {order_id for (order_id,) in await cursor.fetchall()}
    return [ask.first if ask.first is not None and ask.first.order_id in stored else None for ask in asked]


async def _find(connection: "psycopg.AsyncConnection[Any]", asked: Sequence[Ask]) -> dict[tuple[str, str], First]:
    cursor = await connection.execute(_FIND, ([ask.customer_id for ask in asked], [ask.key for ask in asked]))
    return {
        (customer_id, key): First(bytes(request_hash), order_id, bytes(event), in_log)
        for customer_id, key, request_hash, order_id, event, in_log in await cursor.fetchall()
    }


def _forget_result(task: "asyncio.Task[Any]") -> None:
    """Take note of a failure that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
