"""The command line of a service: a command runs, and every mistake ends in one line."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from common import command
from common.errors import Fatal


def fail() -> None:
    raise Fatal("payment: no database")


def test_a_command_runs_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    commands = {"": lambda: ran.append("serve"), "load-demo": lambda: ran.append("load-demo")}
    for arguments in ([], ["load-demo"]):
        monkeypatch.setattr("sys.argv", ["payment", *arguments])
        command.run("payment", commands)
    assert ran == ["serve", "load-demo"]


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ({"": fail, "load-demo": fail}, "unknown arguments 'nonsense'; usage: python -m order [load-demo]"),
        ({"api": fail, "saga": fail}, "unknown arguments 'nonsense'; usage: python -m order api|saga"),
        ({"nonsense": fail}, "payment: no database"),
    ],
    ids=["optional", "required", "fatal"],
)
def test_a_mistake_ends_with_one_line(
    commands: dict[str, Callable[[], None]],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["order", "nonsense"])
    with pytest.raises(SystemExit) as ended:
        command.run("order", commands)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"{message}\n")


def test_a_service_whose_stdout_is_closed_serves_without_a_log() -> None:
    code = (
        "from common import command, log; from common.config.telemetry import Logs; "
        "command.run('payment', {'': lambda: log.configure('payment', 'payment-1', Logs('INFO', 'json'))})"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
