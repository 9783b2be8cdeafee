"""The table `keyed_answers`: the first answer to each request under an `Idempotency-Key`. All of its SQL.

A key belongs to a resource, a method and path such as `POST /api/v1/accounts/cust-1/deposits`. A repeat gets the first
answer, byte for byte, whatever has become of the thing since. A refusal uses up no key.

References: draft-ietf-httpapi-idempotency-key-header.
"""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Final, NamedTuple

from common.postgres import AsyncConn

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
_FIND: Final = """
    SELECT request_hash, status, body FROM keyed_answers WHERE resource = %s AND idempotency_key = %s
"""
_KEEP: Final = """
    INSERT INTO keyed_answers (resource, idempotency_key, request_hash, status, body) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING RETURNING status
"""
_FORGET: Final = """
    DELETE FROM keyed_answers WHERE ctid = ANY(ARRAY(
      SELECT ctid FROM keyed_answers WHERE created_at < now() - make_interval(secs => %s) ORDER BY created_at LIMIT %s))
"""


class KeyReused(Exception):
    """The key came before with another request to this resource."""


class Answer(NamedTuple):
    """An answer as it is stored. `replayed`: it is that to an earlier request under the key."""

    status: int
    body: bytes
    replayed: bool = False


class Keyed(NamedTuple):
    """A request under a key. `request` says what it asks for, in one form however it was written."""

    resource: str
    key: str
    request: bytes

    @property
    def hash(self) -> bytes:
        return sha256(self.request).digest()


async def find(connection: AsyncConn, keyed: Keyed) -> Answer | None:
    """The answer to an earlier request under the key. Raises `KeyReused`."""
    row = await (await connection.execute(_FIND, (keyed.resource, keyed.key))).fetchone()
    if row is None:
        return None
    request_hash, status, body = row
    if bytes(request_hash) != keyed.hash:
        raise KeyReused
    return Answer(status, bytes(body), replayed=True)


async def keep(connection: AsyncConn, keyed: Keyed, answer: Answer) -> Answer:
    """Store the answer, and return it, or that to an earlier request under the key. Raises `KeyReused`.

    Outside a transaction, it sees a request that another process has stored meanwhile.
    """
    row = (keyed.resource, keyed.key, keyed.hash, answer.status, answer.body)
    if await (await connection.execute(_KEEP, row)).fetchone() is not None:
        return answer
    return await find(connection, keyed) or answer  # deleted in between: it was old


async def once(connection: AsyncConn, keyed: Keyed | None, act: Callable[[], Awaitable[Answer]]) -> Answer:
    """Act, in a transaction that also stores the answer, or return the answer to an earlier request under the key.

    Raises `KeyReused`, and what `act` raises; then nothing is changed.
    """
    async with connection.transaction():
        if keyed is None:
            return await act()
        # Of two processes that have the same request at once, the second waits and then finds the answer of the first.
        await connection.execute(_LOCK, (f"{keyed.resource} {keyed.key}",))
        return await find(connection, keyed) or await keep(connection, keyed, await act())


async def forget(connection: AsyncConn, older_s: int, most: int) -> int:
    """Delete answers that are older than `older_s`, at most this many; returns how many."""
    return (await connection.execute(_FORGET, (older_s, most))).rowcount
