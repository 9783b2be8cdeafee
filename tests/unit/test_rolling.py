"""Processes are replaced one after the other, and each service always has one that serves."""

from collections.abc import Collection
from pathlib import Path

import pytest

from dev.native import rolling
from dev.native.stack import NativeStack
from dev.native.supervise import Status
from dev.native.supervised import SET_UP
from dev.servers.server import StartError
from dev.settings import CONSOLE, SERVICES, Settings

CONSUMERS = {"payment-1", "inventory-1", "order-saga-1"}


class Rolled(NativeStack):
    """A stack whose programs only write down what they are told."""

    def __init__(self, home: Path, scale: dict[str, int], unready: str = "") -> None:
        super().__init__(Settings(home=home))
        self.state.scale = scale
        self.acts: list[str] = []
        self.running = set(self.programs.names)
        self._unready = unready
        for act in ("stop", "renew"):
            setattr(self.supervisor, act, lambda names, act=act: self._do(act, names))
        statuses = {name: Status(name, "RUNNING", 1, 1, "") for name in self.running}
        self.supervisor.statuses = lambda: statuses  # type: ignore[method-assign]

    def _require_running(self) -> None:
        pass

    def _do(self, act: str, names: Collection[str]) -> None:
        if names:
            self.acts.append(" ".join([act, *names]))
        if act == "stop":
            self.running -= set(names)

    def configure_supervisor(self, *, replacing: bool = True) -> None:
        assert not replacing, "all programs that differ would be stopped at once"
        self.running &= set(self.programs.names)

    def set_up(self) -> None:
        self.acts.append("set up")

    def start_programs(self, names: Collection[str], within_s: float = 0) -> None:
        self._do("start", names)
        if self._unready in names:
            raise StartError(f"{self._unready} is not ready")
        known = NativeStack(Settings(home=self.home)).programs.names  # as the program that starts reads it
        assert set(names) <= set(known)
        self.running |= set(names)
        for service in SERVICES:
            assert any(name.startswith(f"{service.name}-") for name in self.running), f"nobody serves {service.name}"


def test_instances_of_a_service_restart_one_after_the_other(tmp_path: Path) -> None:
    stack = Rolled(tmp_path, {"order-api": 2, "payment": 3})
    stack.restart(["payment", "order-api", "kafka"])
    turns = ["kafka", "payment-1 order-api-1", "payment-2 order-api-2", "payment-3"]
    assert stack.acts == [f"{act} {turn}" for turn in turns for act in ("stop", "renew", "start")]


def test_the_only_instance_of_a_service_has_a_stand_in(tmp_path: Path) -> None:
    stack = Rolled(tmp_path, {})
    stack.restart(["payment"])
    assert stack.acts == ["start payment-2", "stop payment-1", "renew payment-1", "start payment-1"]
    assert (stack.state.scale, "payment-2" in stack.running) == ({}, False)


def test_a_service_that_is_stopped_is_just_started(tmp_path: Path) -> None:
    stack = Rolled(tmp_path, {})
    stopped = {name: Status(name, "STOPPED", 0, 0, "") for name in stack.programs.names}
    stack.supervisor.statuses = lambda: stopped  # type: ignore[method-assign]
    stack.restart(["payment"])
    assert stack.acts == ["stop payment-1", "renew payment-1", "start payment-1"]


def test_an_upgrade_migrates_first_and_the_writers_come_after_the_readers(tmp_path: Path) -> None:
    stack = Rolled(tmp_path, {"order-api": 2})
    stack.upgrade()
    assert list(SET_UP) == ["postgres", "kafka"]
    assert stack.acts[0] == "set up"
    started = [set(act.split()[1:]) for act in stack.acts if act.startswith("start ")]
    stand_ins = {"payment-2", "inventory-2", "order-saga-2"}
    assert started == [stand_ins, CONSUMERS, {"order-api-1"}, {"order-api-2"}, {CONSOLE}]


def test_code_that_does_not_start_replaces_nothing(tmp_path: Path) -> None:
    stack = Rolled(tmp_path, {}, unready="payment-2")
    with pytest.raises(StartError):
        stack.restart(["payment"])
    assert stack.acts == ["start payment-2"]
    assert (stack.state.scale, "payment-1" in stack.running) == ({}, True)


def test_a_stand_in_stays_while_nobody_else_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = Rolled(tmp_path, {}, unready="payment-1")
    with pytest.raises(StartError):
        stack.restart(["payment"])
    assert "payment-2 stay beside the others; 'just scale payment=1' ends them" in capsys.readouterr().out
    assert NativeStack(Settings(home=tmp_path)).state.scale == {"payment": 2}


def test_every_service_is_upgraded_once() -> None:
    assert sorted(name for names in rolling.ORDER for name in names) == sorted([*(s.name for s in SERVICES), CONSOLE])
