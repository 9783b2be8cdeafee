"""A pipeline against a real PostgreSQL: one transaction, one answer, and statements that stay prepared."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import PipelineStatus, TransactionStatus

from common.pipeline import Pipeline, pipeline, queue_commit
from common.postgres import Conn, connect, transaction_of_pipeline
from tests.stack import Stack

MANY = [f"{number}-{'x' * 100}" for number in range(20_000)]
BACK = "SELECT * FROM unnest(%s::text[])"


@pytest.fixture
def connection(stack: Stack) -> Iterator[Conn]:
    """The superuser's, who may make a table of his own."""
    with connect(stack.postgres.url("payment"), "test") as opened:
        opened.execute("CREATE TEMPORARY TABLE kept (number integer PRIMARY KEY)")
        yield opened


def numbers(connection: Conn) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM kept ORDER BY number")]


def keep(statements: Pipeline, number: int) -> None:
    statements.execute("INSERT INTO kept VALUES (%s)", (number,))


def test_a_pipeline_begins_the_transaction_that_ends_with_the_block(connection: Conn) -> None:
    with transaction_of_pipeline(connection):
        with pipeline(connection) as statements:
            first = statements.execute("SELECT pg_current_xact_id()::text")
        with pipeline(connection) as statements:
            second = statements.execute("SELECT pg_current_xact_id()::text")
        assert first.fetchall() == second.fetchall()
    assert connection.info.transaction_status is TransactionStatus.IDLE


def test_its_last_statement_may_commit(connection: Conn) -> None:
    with pipeline(connection) as statements:
        keep(statements, 1)
        queue_commit(statements)
    connection.rollback()
    assert numbers(connection) == [1]


def test_a_statement_that_fails_undoes_those_before_it_and_stops_those_behind(connection: Conn) -> None:
    def insert_and_fail() -> None:
        with transaction_of_pipeline(connection), pipeline(connection) as statements:
            keep(statements, 1)
            keep(statements, 1)
            queue_commit(statements)

    with pytest.raises(errors.UniqueViolation, match="kept_pkey"):
        insert_and_fail()
    assert connection.info.transaction_status is TransactionStatus.IDLE
    assert connection.info.pipeline_status is PipelineStatus.OFF
    with transaction_of_pipeline(connection), pipeline(connection) as statements:
        keep(statements, 2)
    assert numbers(connection) == [2]


def test_a_statement_is_prepared_once_whatever_becomes_of_its_transaction(connection: Conn) -> None:
    for _ in range(10):
        connection.execute("SELECT 1")  # psycopg would prepare it, and deallocate all after a rollback
    for number in (1, 1, 2):
        try:
            with transaction_of_pipeline(connection), pipeline(connection) as statements:
                keep(statements, number)
        except errors.UniqueViolation:
            assert number == 1
    prepared = connection.execute("SELECT statement FROM pg_prepared_statements ORDER BY prepare_time").fetchall()
    assert prepared == [("BEGIN",), ("INSERT INTO kept VALUES ($1)",)]


def test_a_statement_that_cannot_be_prepared_is_tried_again(connection: Conn) -> None:
    def read() -> list[tuple[int, ...]]:
        with transaction_of_pipeline(connection), pipeline(connection) as statements:
            rows = statements.execute("SELECT number FROM made_later")
        return rows.fetchall()

    with pytest.raises(errors.UndefinedTable):
        read()
    connection.execute("CREATE TEMPORARY TABLE made_later AS SELECT 7 AS number")
    assert read() == [(7,)]


def test_a_value_that_cannot_be_sent_leaves_nothing_begun(connection: Conn) -> None:
    def send(value: object) -> None:
        with pipeline(connection) as statements:
            keep(statements, 1)
            statements.execute("SELECT %s::text", (value,))

    for value in ("a\0b", ["a\0b"], 1.5):
        with pytest.raises(psycopg.DataError):
            send(value)
        assert connection.info.transaction_status is TransactionStatus.IDLE
    assert numbers(connection) == []


def test_answers_are_read_while_more_is_sent(connection: Conn) -> None:
    """Both sides fill what the system buffers for a connection."""
    with transaction_of_pipeline(connection), pipeline(connection) as statements:
        answers = [statements.execute(BACK, (MANY,)) for _ in range(10)]
    for answer in answers:
        assert [text for (text,) in answer.fetchall()] == MANY


def test_rows_are_there_when_the_pipeline_has_ended(connection: Conn) -> None:
    with transaction_of_pipeline(connection), pipeline(connection) as statements:
        answer = statements.execute("SELECT %s::uuid, NULL, 1 %% 2", ("01997c00-0000-7000-8000-000000000001",))
        with pytest.raises(psycopg.ProgrammingError, match="not ended"):
            answer.fetchall()
    assert answer.fetchall() == [("01997c00-0000-7000-8000-000000000001", None, 1)]


def test_a_lost_connection_is_an_operational_error(stack: Stack, connection: Conn) -> None:
    def run() -> None:
        with transaction_of_pipeline(connection), pipeline(connection) as statements:
            statements.execute("SELECT 1")

    with stack.postgres.connect("payment") as owner:
        owner.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            run()
    assert connection.closed


def test_a_session_that_is_ended_at_work_is_an_operational_error(connection: Conn) -> None:
    def run() -> None:
        with transaction_of_pipeline(connection), pipeline(connection) as statements:
            statements.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            keep(statements, 1)

    with pytest.raises(errors.AdminShutdown):
        run()
    assert connection.closed


def test_a_pipeline_that_is_interrupted_ends_the_connection(connection: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the next one would take the answers for its own."""

    def interrupted(_: Conn) -> None:
        raise KeyboardInterrupt

    def run() -> None:
        with transaction_of_pipeline(connection), pipeline(connection) as statements:
            keep(statements, 1)

    monkeypatch.setattr("common.pipeline._results", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert connection.closed
