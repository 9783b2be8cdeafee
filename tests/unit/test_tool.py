"""How the operator's tools end, and what they print to a terminal."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import KafkaError, KafkaException

from common.errors import Fatal
from common.terminal import printable, width
from dev.settings import ROOT
from ops import tool
from ops.tool import CELL_CHARS, print_table, run
from ops.topics import strangers
from ops.verify import proof
from ops.verify.__main__ import accepted_ids, main, parser

# With this variable of the caller, output that cannot be written would fail at once, and not at the end.
BUFFERED: Final = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
CAPTURED: Final[dict[str, Any]] = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 60, "env": BUFFERED}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Fatal("dlq: nothing was ever parked from orders/0@1"), "dlq: nothing was ever parked from orders/0@1\n"),
        (KafkaException(KafkaError(KafkaError._TRANSPORT, "broker down")), "Kafka: "),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ZeroDivisionError(), "Traceback"),
    ],
)
def test_each_way_a_tool_ends_has_its_own_exit_code(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Sequence[str]) -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("cust-1", "cust-1"),
        ("Zoë 客", "Zoë 客"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\u202egnp", "\\u202egnp"),
    ],
)
def test_a_key_does_not_control_the_terminal(key: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(key) == shown
    print_table(("customer",), [(key,)])
    assert capsys.readouterr().out == f"customer\n{shown}\n"


def test_one_long_key_does_not_pad_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("customer", "state"), [("k" * 100_000, "parked"), ("cust-1", "parked")])
    assert capsys.readouterr().out.splitlines()[1] == "k" * (CELL_CHARS - 1) + "…  parked"


def test_columns_meet_below_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("customer", "state"), [("客客", "parked"), ("Zoe\u0301", "parked")])
    lines = capsys.readouterr().out.splitlines()
    assert {width(line.partition("parked")[0]) for line in lines[1:]} == {len("customer  ")}


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [(">/dev/full", 2, "No space left on device"), (">&-", 0, ""), (">&- 2>&-", 0, ""), ("<&-", 0, "")],
)
def test_output_that_cannot_be_written_is_no_violation(redirection: str, code: int, message: str) -> None:
    program = "from ops.tool import run; run(lambda _: print('proved') or 0)"
    done = subprocess.run(["sh", "-c", f'exec "$0" "$@" {redirection}', sys.executable, "-c", program], **CAPTURED)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1 if message else 0), done.stderr
    assert message in done.stderr


def test_a_reader_who_leaves_sees_no_traceback() -> None:
    program = "from ops.tool import run; run(lambda _: print('x\\n' * 100_000) or 0)"
    done = subprocess.run(["sh", "-c", f'{sys.executable} -c "{program}" | head -1'], **CAPTURED)
    assert (done.stdout, done.stderr) == ("x\n", "")


def test_every_character_is_printed_in_whatever_encoding() -> None:
    program = "from ops.tool import run; run(lambda _: print('Zoë …') or 0)"
    variables = {**BUFFERED, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], **{**CAPTURED, "env": variables})
    assert (done.returncode, done.stdout) == (0, "Zo\\xeb \\u2026\n")


@pytest.mark.parametrize("text", ["0199aa\n".encode("utf-16"), b"\xff\xfe"])
def test_a_list_that_is_not_utf_8_is_named(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(text)
    with pytest.raises(Fatal, match="ids is not UTF-8 text"):
        accepted_ids(str(tmp_path / "ids"))


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    order_id = "01a20698-5702-759d-bf21-11993ae5d7ab"
    (tmp_path / "ids").write_text(f"{order_id}\n", encoding="utf-8-sig")
    assert accepted_ids(str(tmp_path / "ids")) == [order_id]


def test_a_list_without_a_name_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as `--accepted "$IDS"` where IDS is not set."""
    for name in tool.GROUP_OF:
        monkeypatch.setenv(f"{name.upper()}_AUDITOR_URL", "postgresql://x")
    monkeypatch.setattr(proof, "prove", lambda *_: pytest.fail("it proves without the list"))
    with pytest.raises(Fatal, match="Is a directory"):
        main(["--accepted", ""])


def test_a_list_comes_from_standard_input_too(monkeypatch: pytest.MonkeyPatch) -> None:
    order_id = "01a20698-5702-759d-bf21-11993ae5d7ab"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{order_id}\n".encode())))
    assert accepted_ids("-") == [order_id]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(Fatal, match="the standard input, line 1: '' is not an order id"):
        accepted_ids("-")


def test_a_relative_path_begins_where_the_command_was_typed(tmp_path: Path) -> None:
    program = "import os; from ops.tool import run; run(lambda _: print(os.getcwd()) or 0)"
    variables = {**BUFFERED, "TANDEM_CALLER": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], **{**CAPTURED, "env": variables})
    assert done.stdout == f"{tmp_path}\n"


@pytest.mark.parametrize("package", ["dev", "ops.verify"])
def test_what_nobody_catches_is_no_violation(package: str) -> None:
    """Not even when a module that is needed cannot be imported."""
    done = subprocess.run([sys.executable, "-c", f"import {package}; print('x'); import nonsense"], **CAPTURED)
    assert (done.returncode, done.stdout) == (2, "x\n")
    assert "No module named 'nonsense'" in done.stderr


@pytest.mark.parametrize("option", ["--watch=-1", "--patience=nan", "--settle-within=inf", "--port=70000", "--port=x"])
def test_an_option_that_makes_no_sense_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([option])
    assert ended.value.code == 2
    assert "is not a" in capsys.readouterr().err


def test_a_member_that_another_program_has_put_into_a_group_is_found() -> None:
    assert strangers("payment", ["payment-1", "payment-12", "rdkafka", "console-consumer", ""]) == [
        "rdkafka",
        "console-consumer",
        "",
    ]
