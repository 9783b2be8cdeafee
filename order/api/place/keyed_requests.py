"""The table `requests`: the first request of each idempotency key. All of its SQL.

A request is written before its order is published, so that a later request with the key, at any process, finds the very
event that was or will be published.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from loguru import logger

from common import keyed_answers, metrics
from common.database import DatabasePool, DatabaseUnavailable, in_time
from common.events import OrderId
from common.keyed_answers import Answer, Keyed
from common.postgres import AsyncConn, columns
from order.api.grouped import Grouped

KEYS_KEPT_S: Final = 7 * 86_400
"""A key is kept for at least this long: far longer than any client retries."""
FORGET_EVERY_S: Final = 600.0
FORGET_RETRY_S: Final = 10.0
FORGET_ROWS_MAX: Final = 1_000

GROUP_MAX: Final = 500
GROUPS_APART_S: Final = 0.01
"""A request that comes alone is stored at once. As many statements as the database manages would take a quarter more of
the api's CPU, at 1,500 keyed orders a second."""
GROUP_PLENTY: Final = 50
"""So many requests are not kept waiting for others."""
CLOSE_TIMEOUT_S: Final = 1.0
"""After the drain (8 s) and before the log's end (10 s): a process is killed after 20 s."""
WAITING_MAX: Final = 2_000

# All processes lock in one order. Two that insert the same keys crosswise would otherwise wait for each other.
_INSERT: Final = """
    INSERT INTO requests (customer_id, idempotency_key, request_hash, order_id, event)
    SELECT * FROM unnest(%b::text[], %b::text[], %b::bytea[], %b::text[]::uuid[], %b::bytea[])
      AS asked(customer_id, idempotency_key, request_hash, order_id, event)
    ORDER BY customer_id COLLATE "C", idempotency_key COLLATE "C"
    ON CONFLICT DO NOTHING RETURNING order_id
"""
# An order that the saga has stored is in the log: the saga read it there.
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
    """The first request under a key. `event` are the bytes to publish, `in_log` whether the saga has read them."""

    request_hash: bytes
    order_id: OrderId
    event: bytes
    in_log: bool = False


class KeyedRequest(NamedTuple):
    """A request under a key: `first` is stored if it is the key's first. With None, the first is only looked up."""

    customer_id: str
    key: str
    first: First | None


class KeyedRequests:
    """Stores requests by their keys, many in one statement, and the answers to requests of other kinds."""

    def __init__(self, pool: DatabasePool) -> None:
        self._pool = pool
        self._grouped: Grouped[KeyedRequest, First | None] = Grouped(
            self._store_in_time, GROUP_MAX, apart_s=GROUPS_APART_S, plenty=GROUP_PLENTY
        )
        metrics.watch_pool("keyed-requests", WAITING_MAX, lambda: self._grouped.waiting)

    async def close(self) -> None:
        """Wait until what was submitted is stored or has failed, for `CLOSE_TIMEOUT_S` at most."""
        await self._grouped.close(CLOSE_TIMEOUT_S)

    def submit(self, request: KeyedRequest) -> "asyncio.Future[First | None]":
        """The first request under the key, this or an earlier one; None if it was only looked up and there is none.

        The future raises `DatabaseUnavailable`. So does this method, at once, while the database is known to be away or
        too many requests are waiting for it.
        """
        self._pool.check_reachable()
        if self._grouped.waiting >= WAITING_MAX:
            raise DatabaseUnavailable(f"the order database is busy: {WAITING_MAX} requests are waiting for it already")
        return self._grouped.submit(request)

    async def _store_in_time(self, requests: Sequence[KeyedRequest]) -> Sequence[First | None]:
        try:
            return await in_time(self._store(requests))
        except TimeoutError as error:
            raise DatabaseUnavailable(f"the order database has not answered: {error}") from None

    async def _store(self, requests: Sequence[KeyedRequest]) -> Sequence[First | None]:
        async with self._pool.connection() as connection:
            inserted = await _insert(connection, requests)
            others = [request for request, first in zip(requests, inserted, strict=True) if first is None]
            if not others:
                return inserted
            # A statement of its own: the one before cannot see a row that was committed after it had begun.
            earlier = await _find(connection, others)
        return [
            first or earlier.get((request.customer_id, request.key))
            for request, first in zip(requests, inserted, strict=True)
        ]

    async def find(self, keyed: Keyed) -> Answer | None:
        """The answer to an earlier request of another kind. Raises `DatabaseUnavailable` and `KeyReused`."""
        return await self._pool.read(lambda connection: keyed_answers.find(connection, keyed))

    async def keep(self, keyed: Keyed, answer: Answer) -> Answer:
        """Store the answer; returns it, or that to an earlier request. Raises `DatabaseUnavailable` and `KeyReused`."""
        return await self._pool.run(lambda connection: keyed_answers.keep(connection, keyed, answer))

    async def keep_forgetting(self) -> None:
        """Delete the keys that are older than `KEYS_KEPT_S`, every `FORGET_EVERY_S`, for ever."""
        while True:
            pause_s = FORGET_EVERY_S
            try:
                while await self._forget_some() == FORGET_ROWS_MAX:
                    pass
            except DatabaseUnavailable as error:
                logger.warning("old idempotency keys cannot be deleted now: {}", error)
                pause_s = FORGET_RETRY_S
            await asyncio.sleep(pause_s)

    async def _forget_some(self) -> int:
        async with self._pool.connection() as connection:
            deleted: int = (await connection.execute(_FORGET, (KEYS_KEPT_S, FORGET_ROWS_MAX))).rowcount
            return max(deleted, await keyed_answers.forget(connection, KEYS_KEPT_S, FORGET_ROWS_MAX))


async def _insert(connection: AsyncConn, requests: Sequence[KeyedRequest]) -> list[First | None]:
    """For each request, itself if it is now stored as the first of its key, else None."""
    rows = [(request.customer_id, request.key, *request.first[:3]) for request in requests if request.first is not None]
    if not rows:
        return [None] * len(requests)
    cursor = await connection.execute(_INSERT, columns(rows))
    stored = {order_id for (order_id,) in await cursor.fetchall()}
    return [first if first is not None and first.order_id in stored else None for _, _, first in requests]


async def _find(connection: AsyncConn, requests: Sequence[KeyedRequest]) -> dict[tuple[str, str], First]:
    keys = [request.customer_id for request in requests], [request.key for request in requests]
    cursor = await connection.execute(_FIND, keys)
    return {
        (customer_id, key): First(bytes(request_hash), order_id, bytes(event), in_log)
        for customer_id, key, request_hash, order_id, event, in_log in await cursor.fetchall()
    }
