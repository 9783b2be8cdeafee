"""Statements that reach PostgreSQL together: sent at once, answered at once, each prepared once in a session.

This is libpq's pipeline mode (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html) by way of `psycopg.pq`.
psycopg's own pipeline sends every statement by itself, and costs a batch three times as much CPU (decision 39).
"""

import select
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import Cursor
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.rows import TupleRow

from common.postgres import Conn, columns, text_of

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

Row = tuple[Any, ...]


class Answer:
    """What a statement in a pipeline returns. It can be fetched when the pipeline has ended."""

    def __init__(self) -> None:
        self._rows: list[Row] | None = None

    def fetchall(self) -> list[Row]:
        """The rows. Raises `psycopg.ProgrammingError` when there are none to fetch."""
        if self._rows is None:
            raise psycopg.ProgrammingError("the pipeline has not ended, has failed, or the statement returns no rows")
        return self._rows

    def receive(self, rows: list[Row]) -> None:
        self._rows = rows


class Pipeline:
    """Statements to send together. `pipeline` makes one and runs it."""

    def __init__(self, connection: Conn) -> None:
        self.connection = connection
        self._queued: list[tuple[str, list[bytes | None], Answer]] = []

    def execute(self, statement: str, parameters: Iterable[Any] = ()) -> Answer:
        """Queue a statement, with `%s` for each parameter. Parameters are sent as text (`common.postgres.text_of`), and
        the statement says of what types they are. Raises `psycopg.DataError` for a value that cannot be sent."""
        answer = Answer()
        self._queued.append((statement, [text_of(value) for value in parameters], answer))
        return answer

    def run(self) -> None:
        """Send all statements and wait for their answers. When one fails, those after it are not run, and its
        `psycopg.Error` is raised."""
        server, prepared = self.connection.pgconn, self.connection.prepared
        names = dict(prepared)
        try:
            server.enter_pipeline_mode()
            for statement, parameters, _ in self._queued:
                if statement not in names:
                    names[statement] = self.connection.new_name()
                    server.send_prepare(names[statement], _numbered(statement))
                server.send_query_prepared(names[statement], parameters)
            server.pipeline_sync()
            results = iter(_results(self.connection))
            server.exit_pipeline_mode()
        except BaseException:
            self.connection.close()  # nobody knows how much of this was sent, nor whose the next answer is
            raise
        for statement, _, answer in self._queued:
            if statement not in prepared:
                _check(next(results))
                prepared[statement] = names[statement]
            result = next(results)
            _check(result)
            if result.status == ExecStatus.TUPLES_OK:
                self.connection.loader.set_pgresult(result)
                answer.receive(self.connection.loader.load_rows(0, result.ntuples, tuple))


def _numbered(statement: str) -> bytes:
    """The statement with `$1`, `$2` ... for its parameters, as the server has them."""
    first, *rest = statement.replace("%%", "\0").split("%s")
    return "".join([first, *(f"${n}{text}" for n, text in enumerate(rest, 1))]).replace("\0", "%").encode()


def _results(connection: Conn) -> "list[PGresult]":
    """The results of a pipeline that has been filled, one for each thing that was queued. When the connection is lost,
    raises the server's reason, or `psycopg.OperationalError`."""
    results: list[PGresult] = []
    try:
        _receive(connection, results)
    except psycopg.OperationalError:
        for result in results:
            _check(result)
        raise
    return results


def _receive(connection: Conn, results: "list[PGresult]") -> None:
    server = connection.pgconn
    ready = select.poll()
    ready.register(server.socket, select.POLLIN | select.POLLOUT)
    while server.flush():
        if any(events != select.POLLOUT for _, events in ready.poll()):
            server.consume_input()
    ready.modify(server.socket, select.POLLIN)
    while True:
        while server.is_busy():
            ready.poll()
            server.consume_input()
        result = server.get_result()
        if result is None:  # it separates the results of two statements
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            return
        results.append(result)
        if server.status != ConnStatus.OK:
            raise psycopg.OperationalError(server.get_error_message())


def _check(result: "PGresult") -> None:
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        raise psycopg.errors.error_from_result(result)


@contextmanager
def pipeline(connection: Conn) -> Iterator[Pipeline]:
    """A pipeline, which runs at the end of the block. Begins a transaction if none is open."""
    statements = Pipeline(connection)
    if connection.info.transaction_status is TransactionStatus.IDLE:
        statements.execute("BEGIN")
    yield statements
    statements.run()


def queue_commit(statements: Pipeline) -> None:
    """Commit by the pipeline's last statement: `Connection.commit` would wait for an answer of its own. If an earlier
    statement fails, nothing is committed."""
    statements.execute("COMMIT")


Statements = Conn | Pipeline
"""Where statements go: to the server one by one, or together."""
Rows = Cursor[TupleRow] | Answer
"""What `execute` returns: `fetchall` gives the rows."""


class Table:
    """A table to insert rows into. The rows have values for the columns given, in that order."""

    def __init__(self, name: str, **types: str) -> None:
        """`types` are the columns with their PostgreSQL types."""
        names = ", ".join(f'"{column}"' for column in types)
        arrays = ", ".join(f"%s::{type_}[]" for type_ in types.values())
        self._copy: Final = f'COPY "{name}" ({names}) FROM STDIN'.encode()
        self._insert: Final = f'INSERT INTO "{name}" ({names}) SELECT * FROM unnest({arrays})'  # noqa: S608 - constants of ours

    def insert(self, statements: Statements, rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows, at least one, within the current transaction; values are escaped.

        By COPY, which costs least a row, but two round trips, and cannot be in a pipeline. In a pipeline by one INSERT
        that goes along with the other statements.
        """
        if isinstance(statements, Pipeline):
            statements.execute(self._insert, columns(rows))
            return
        with statements.cursor().copy(self._copy) as copy:
            for row in rows:
                copy.write_row(row)
