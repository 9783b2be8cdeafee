"""How `just dlq` reads the name of a record, and how it prints parked events."""

import argparse

import pytest

from common.errors import Fatal
from ops.dead_letters.__main__ import main, parse
from ops.dead_letters.parked import RecordId, counted, record_id


@pytest.mark.parametrize("topic_id", [None, "v8T0wx7bRLakzx0z8//h9Q", "a+b/c", "bE1lwQ7ITZa9kXn2gU0v5A", "_-9"])
def test_a_record_is_read_as_it_is_printed(topic_id: str | None) -> None:
    record = RecordId("inventory", 1, 3, topic_id)
    assert record_id(str(record)) == record


@pytest.mark.parametrize("text", ["", "orders", "orders/3", "orders/3@", "orders/3@17#", "orders/3@17#a b", "3@17"])
def test_text_that_names_no_record_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write it as 'list' prints it"):
        record_id(text)


def test_a_count_of_one_is_singular() -> None:
    assert [counted(count, "event") for count in (0, 1, 2)] == ["0 events", "1 event", "2 events"]


@pytest.mark.parametrize(
    ("command", "message"), [("list", "default: all)"), ("show", "records are named"), ("discard", "(required)")]
)
def test_help_says_when_the_service_must_be_named(
    command: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    assert message in capsys.readouterr().out


def test_a_database_that_is_away_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMENT_DATABASE_URL", "postgresql://payment@127.0.0.1:1/payment")
    with pytest.raises(Fatal, match=r"dlq: cannot connect to the payment database; is it up\? 'just start postgres'"):
        main(["list", "--service", "payment"])
