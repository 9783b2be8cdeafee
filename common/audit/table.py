"""The table `audit` of each service's database: every act that creates value or decides over an event. All of its SQL.

An entry is written in the transaction of the act, so neither is ever there without the other. The service's role may
only add rows, and cannot choose their times (`ops/migrate.py`).
"""

from typing import Final

import msgspec
from loguru import logger

from common.audit.entry import TEXT_CHARS_MAX, Author, Entry
from common.postgres import AsyncConn, Conn

_INSERT: Final = """
    INSERT INTO audit (principal, kind, request_id, credential, act, target, detail, result)
    VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb, %s)
"""
Row = tuple[str, str, str | None, str | None, str, str, str, str]


def row_of(author: Author, entry: Entry) -> Row:
    """The values of the row. Texts are cut to `TEXT_CHARS_MAX`, so that none is refused."""
    detail = msgspec.json.encode(entry.detail).decode()
    target, result = entry.target[:TEXT_CHARS_MAX], entry.result[:TEXT_CHARS_MAX]
    return *author, entry.act, target, detail, result


async def write_async(connection: AsyncConn, author: Author, entry: Entry) -> None:
    """Add the entry. Call it in the transaction of the act, and `log` after its commit."""
    await connection.execute(_INSERT, row_of(author, entry))


def write(connection: Conn, author: Author, entry: Entry) -> None:
    """The same for a command."""
    connection.execute(_INSERT, row_of(author, entry))


def log(author: Author, entry: Entry) -> None:
    """Log the entry of an act that is committed."""
    logger.bind(**author._asdict(), **entry.detail, result=entry.result).info("audit: {} {}", entry.act, entry.target)
