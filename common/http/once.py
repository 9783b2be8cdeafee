"""Requests that change a row, once however often they are sent under an `Idempotency-Key`."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from common import keyed_answers
from common.audit import table as audit
from common.audit.entry import Author, Entry
from common.auth.guard import principal_of
from common.database import Database
from common.events import Event
from common.http.problem import ProblemError
from common.http.requests import REPLAYED, idempotency_key, idempotency_key_reused, read_body
from common.http.responses import request_id_of
from common.http.validation import decode_body
from common.kafka import outbox
from common.kafka.outbox import Outbox
from common.keyed_answers import Answer, Keyed, KeyReused
from common.postgres import AsyncConn

B = TypeVar("B")


class Change(NamedTuple):
    """What became of a request: its answer, the entry for the audit, and the event for the log; None if nothing was
    changed."""

    answer: Answer
    entry: Entry | None
    event: Event | None = None


def author_of(request: Request) -> Author:
    """Who sent the request. Raises `KeyError` for one to a public operation."""
    who = principal_of(request.scope)
    return Author(who.subject, who.kind, request_id_of(request.scope).decode(), who.credential or None)


def new_key() -> str:
    """For what is entered without an Idempotency-Key: each entry has one, by which the log and the tables know it."""
    return str(uuid4())


def answered(content: object, status: int, *, replayed: bool = False) -> Answer:
    """An answer with this content."""
    return Answer(status, msgspec.json.encode(content), replayed)


def json_answer(answer: Answer) -> Response:
    """The answer as a response."""
    headers = REPLAYED if answer.replayed else None
    return Response(answer.body, answer.status, headers, media_type="application/json")


async def change_once(
    request: Request,
    database: Database,
    row: str,
    decoder: "msgspec.json.Decoder[B]",
    act: Callable[[AsyncConn, B, str | None], Awaitable[Change]],
    into: tuple[Outbox, str] | None = None,
) -> Response:
    """The answer to a request to change a row, named such as `account cust-1`. `act` gets a connection in a
    transaction, the body, and the key. The audit gets its entry in the same transaction. With an outbox and the key of
    the record, the answer is given when the log has the event.

    Raises `ProblemError` when the key or the body is not valid or the key came with another body,
    `DatabaseUnavailable`, and what `act` raises; then nothing is changed.
    """
    key = idempotency_key(request.scope)
    body = decode_body(await read_body(request), decoder)
    path = request.scope["path"]
    keyed = None if key is None else Keyed(f"{request.method} {path}", key, msgspec.json.encode(body))

    author = author_of(request)
    if into is not None:
        into[0].check_open()
    rows: list[outbox.Stored] = []

    async def change() -> Answer:
        entries: list[Entry] = []

        async def act_and_record() -> Answer:
            answer, entry, event = await act(connection, body, key)
            if entry is not None:
                await audit.write_async(connection, author, entry)
                entries.append(entry)
            if event is not None:
                rows.append(outbox.stored(event))
                await outbox.add(connection, rows[0])
            return answer

        async with database.change(row) as connection:
            answer = await keyed_answers.once(connection, keyed, act_and_record)
        for entry in entries:
            audit.log(author, entry)
        return answer

    try:
        answer = await database.writes.answer(change())
    except KeyReused:
        raise ProblemError(idempotency_key_reused(str(key), f"another {request.method} to {path}")) from None
    if into is not None and answer.replayed:  # the first request may have ended before the log had its event
        await into[0].publish_of(into[1])
    elif into is not None:
        await into[0].publish(rows)
    return json_answer(answer)
