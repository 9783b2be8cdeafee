"""Transactions that stay open make tables grow: services name them, idle ones are ended, a proof keeps them short."""

from typing import Any

import psycopg
import pytest
from loguru import logger

from common.errors import Failure, classify
from common.pipeline import pipeline
from common.postgres import connect
from common.vacuum import VacuumWatch
from ops.verify.judge import bucket
from tests.proof import Proof
from tests.stack import Stack
from tests.waiting import eventually

OPEN = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'verify' AND xact_start IS NOT NULL"


def test_a_service_sees_whose_transaction_is_open_though_it_may_not_see_sessions(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.vacuum.SNAPSHOT_OLD_S", -1.0)
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    with (
        stack.postgres.connect("payment") as operator,
        operator.transaction(),
        connect(stack.variables["PAYMENT_DATABASE_URL"], "test") as service,
    ):
        operator.execute("SET application_name = 'forgotten psql'")
        operator.execute("DECLARE rows CURSOR FOR SELECT * FROM accounts")
        VacuumWatch("payment").check_when_due(service, 0.0)
    logger.remove(sink)
    assert "of postgres (forgotten psql) has had a transaction open" in "".join(lines)


@pytest.mark.parametrize(("role", "limit"), [("DATABASE", "1min"), ("AUDITOR", "30min")])
def test_who_leaves_a_transaction_open_is_disconnected(stack: Stack, role: str, limit: str) -> None:
    for service in ("order", "payment", "inventory"):
        with psycopg.connect(stack.variables[f"{service.upper()}_{role}_URL"]) as session:
            assert session.execute("SHOW idle_in_transaction_session_timeout").fetchone() == (limit,)


def test_a_proof_ends_its_snapshots_before_it_judges(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.product("judged", price=100, pieces=10)
    stack.await_settled(stack.await_orderable("judged"))
    judge, opened = bucket.judge_all, []

    def judge_all(*arguments: Any) -> Any:
        with stack.postgres.connect() as owner:
            opened.extend(owner.execute(OPEN).fetchall())
        return judge(*arguments)

    monkeypatch.setattr(bucket, "judge_all", judge_all)
    assert Proof.here(stack).checked(1) > 0
    assert set(opened) == {(0,)}


def test_a_service_that_froze_within_a_pipeline_loses_its_session_and_retries(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'frozen'"
    with connect(stack.variables["PAYMENT_DATABASE_URL"], "frozen") as session, stack.postgres.connect() as owner:
        assert session.execute("SHOW transaction_timeout").fetchone() == ("30s",)
        session.execute("SET transaction_timeout = '100ms'")
        names = iter((b"begin", b"lock"))

        def new_name() -> bytes:
            if name := next(names, None):
                return name
            eventually(lambda: owner.execute(present).fetchone() == (0,), "PostgreSQL ends the session")
            return b"late"

        monkeypatch.setattr(session, "new_name", new_name)

        def freeze_in_pipeline() -> None:
            with pipeline(session) as statements:
                # So long that libpq sends it before the rest is there.
                statements.execute("SELECT FROM positions WHERE topic <> %s FOR UPDATE", ("x" * 100_000,))
                statements.execute("SELECT 1")

        with pytest.raises(psycopg.Error) as raised:
            freeze_in_pipeline()
        assert classify(raised.value) is Failure.TRANSIENT
