"""The databases as the console and `just trace` read them: as the auditor, who cannot write, one connection each."""

import threading
from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from common.errors import Transient, describe
from common.postgres import Conn, connect, hosts_of
from ops.tool import GROUP_OF

STATEMENT_TIMEOUT_MS: Final = 4_000
"""A page that is open must never be what keeps a database busy."""
TURN_S: Final = 5.0


class Unreadable(Transient):
    """A database cannot be read now. The message says which and why."""


class Database:
    """A connection to one service's database, for one caller at a time. It connects when it is needed."""

    def __init__(self, service: str, url: str, session: str, statement_timeout_ms: int) -> None:
        self.service = service
        self.servers = hosts_of(url)
        """How many there are: one, and its standbys."""
        self._url = url
        self._session = session
        self._statement_timeout_ms = statement_timeout_ms
        self._turn = threading.Lock()
        self._connection: Conn | None = None

    def query(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a statement. Raises `Unreadable`."""
        if not self._turn.acquire(timeout=TURN_S):
            raise Unreadable(f"the {self.service} database has not answered for {TURN_S:.0f} s")
        try:
            try:
                return self._execute(statement, parameters)
            except psycopg.OperationalError:
                if self._connection is not None and not self._connection.closed:
                    raise  # the statement took too long
                self._connection = None  # the session was lost: the next one may do
                return self._execute(statement, parameters)
        except psycopg.Error as error:
            raise Unreadable(f"the {self.service} database cannot be read: {describe(error)}") from error
        finally:
            self._turn.release()

    def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._url, self._session, statement_timeout_ms=self._statement_timeout_ms)
        cursor = self._connection.cursor(row_factory=dict_row)
        return cursor.execute(statement.encode(), parameters or None).fetchall()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


Databases = Mapping[str, Database]


def databases(
    urls: Mapping[str, str], session: str, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS
) -> dict[str, Database]:
    """A connection to each service's database, by service. A timeout of 0 is none."""
    return {service: Database(service, urls[service], session, statement_timeout_ms) for service in GROUP_OF}
