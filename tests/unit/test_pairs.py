"""Which of two clusters is the primary, and what each is configured to do: its folder says it."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from common.secrets.passwords import write_password
from dev.native import failover
from dev.native.pairs import Pairs
from dev.native.programs import Programs
from dev.servers.member import FOLLOWS, RETIRED
from dev.servers.server import StartError
from dev.settings import SERVICES, Settings, Standbys
from dev.stack import StackError

COUNTS = {service.name: 1 for service in SERVICES}


def settings(home: Path, standbys: Standbys = "1") -> Settings:
    write_password(home / "secrets", "postgres", "s3cret")
    return Settings(home=home, standbys=standbys)


def mark(home: Path, name: str, *marks: str) -> None:
    folder = home / "pairs" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("PG_VERSION", *marks):
        (folder / file).touch()


def names(pairs: Pairs) -> list[str]:
    return [member.name for member in pairs.of("payment")]


def test_the_first_of_two_new_clusters_is_the_primary(tmp_path: Path) -> None:
    assert names(Pairs(settings(tmp_path))) == ["postgres-payment-1", "postgres-payment-2"]


def test_the_promoted_one_is_the_primary_and_the_retired_one_is_no_program(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    mark(tmp_path, "postgres-payment-1", FOLLOWS, RETIRED)
    mark(tmp_path, "postgres-payment-2")
    assert names(Pairs(chosen)) == ["postgres-payment-2", "postgres-payment-1"]
    programs = Programs(chosen, COUNTS)
    assert "postgres-payment-1" not in programs.names
    assert programs.matching(["postgres-payment"]) == ["postgres-payment-2"]
    assert len(programs.matching(["postgres"])) == 5
    with pytest.raises(StartError, match="was the primary before a failover; 'just rejoin' makes it a standby"):
        Pairs(chosen).member("postgres-payment-1").prepare()
    # Copied anew, it follows.
    mark(tmp_path, "postgres-payment-1", FOLLOWS)
    (tmp_path / "pairs/postgres-payment-1" / RETIRED).unlink()
    assert names(Pairs(chosen)) == ["postgres-payment-2", "postgres-payment-1"]


def test_a_primary_waits_for_its_standby_unless_that_is_retired_or_nobody_wants_it(tmp_path: Path) -> None:
    def waits(standbys: Standbys, name: str) -> str:
        return Pairs(settings(tmp_path, standbys)).member(name).configuration()["synchronous_standby_names"]

    mark(tmp_path, "postgres-payment-1")
    mark(tmp_path, "postgres-payment-2", FOLLOWS)
    assert waits("1", "postgres-payment-1") == 'ANY 1 ("postgres-payment-2")'
    assert waits("async", "postgres-payment-1") == ""
    assert waits("1", "postgres-payment-2") == "", "it is promoted without a standby of its own"
    mark(tmp_path, "postgres-payment-2", FOLLOWS, RETIRED)
    assert waits("1", "postgres-payment-1") == ""


def test_a_stack_without_standbys_cannot_fail_over(tmp_path: Path) -> None:
    pairs = Pairs(settings(tmp_path, "0"))
    assert pairs.ports == {}
    with pytest.raises(StackError, match="have no standbys; it has them with STANDBYS=1 from its start"):
        pairs.of("payment")


def fail_over(monkeypatch: pytest.MonkeyPatch, connect: Any) -> None:
    """`just failover payment`, between two clusters that only say what they are."""
    common: dict[str, Any] = {"is_retired": False, "retire": lambda: None, "promote": lambda: None}
    primary = SimpleNamespace(name="postgres-payment-1", is_followed=lambda: True, **common)
    standby = SimpleNamespace(name="postgres-payment-2", unready=lambda: None, connect=connect, **common)
    monkeypatch.setattr(failover, "Pairs", lambda _: SimpleNamespace(of=lambda _: (primary, standby)))
    supervisor = SimpleNamespace(statuses=dict, stop=lambda names: None)
    stack: Any = SimpleNamespace(
        settings=SimpleNamespace(standbys="1"), supervisor=supervisor, configure_supervisor=lambda: None
    )
    failover.fail_over(stack, "payment")


def test_a_failover_is_recorded_in_the_database_that_took_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Any] = []
    connection = SimpleNamespace(execute=lambda _, row: rows.append(row))
    fail_over(monkeypatch, lambda database: nullcontext(connection))
    [(_, kind, *_, act, target, detail, result)] = rows
    assert (kind, act, target) == ("user", "failover", "database payment")
    assert result == "postgres-payment-2 is the primary"
    assert detail == '{"from":"postgres-payment-1","handed_over":true}'

    def refuse(_: str) -> None:
        raise psycopg.OperationalError("the disk is full")

    fail_over(monkeypatch, refuse)
    assert "failover of payment is not recorded in the audit: PostgreSQL: the disk is full" in capsys.readouterr().out
