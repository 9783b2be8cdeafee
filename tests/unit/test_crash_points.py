"""Every crash point names an existing function, and the launcher kills the process exactly at the named passage."""

import asyncio
import sys
import types
from datetime import timedelta
from typing import Any

import pytest

from dev.settings import SERVICES
from tests.crash.launch import find, install
from tests.crash.points import POINTS, Point

POINTS_MIN = 20


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_every_point_names_a_function(point: Point) -> None:
    for target in filter(None, (point.target, point.following)):
        owners, name = find(target)
        assert callable(getattr(owners[-1], name)), target


def test_every_service_has_points_and_there_are_enough() -> None:
    assert {service.name for service in SERVICES} <= {point.process for point in POINTS.values()}
    assert len(POINTS) >= POINTS_MIN


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with functions of each sort, to be wrapped."""

    class Service:
        def step(self, expected: list[str]) -> str:
            expected.append("step")
            return "stepped"

    def begin() -> None:
        pass

    async def answer(expected: list[str]) -> None:
        expected.append("answer")

    def fail() -> None:
        raise ValueError("no")

    module = types.ModuleType("toy")
    vars(module).update(Service=Service, begin=begin, answer=answer, fail=fail, timedelta=timedelta)
    monkeypatch.setitem(sys.modules, "toy", module)
    return module


def place(at: Any, target: str, passage: int = 1, following: str = "") -> Point:
    return Point("toy", "toy", at, target, passage, following)


@pytest.mark.parametrize(
    ("at", "expected"), [("before", ["step", "died", "step"]), ("after", ["step", "step", "died"])]
)
def test_it_dies_at_the_passage_before_or_after_the_call(toy: Any, at: str, expected: list[str]) -> None:
    calls: list[str] = []
    install(place(at, "toy:Service.step", 2), lambda: calls.append("died"))
    service = toy.Service()
    assert [service.step(calls), service.step(calls)] == ["stepped", "stepped"]
    assert calls == expected


def test_a_call_counts_only_after_the_one_it_follows(toy: Any) -> None:
    calls: list[str] = []
    install(place("before", "toy:Service.step", 2, following="toy:begin"), lambda: calls.append("died"))
    service = toy.Service()
    service.step(calls)
    for _ in range(2):
        toy.begin()
        service.step(calls)
        service.step(calls)
    assert calls == ["step", "step", "step", "died", "step", "step"]


def test_a_coroutine_is_awaited_first(toy: Any) -> None:
    calls: list[str] = []
    install(place("after", "toy:answer"), lambda: calls.append("died"))
    asyncio.run(toy.answer(calls))
    assert calls == ["answer", "died"]


def test_a_call_that_fails_is_not_after(toy: Any) -> None:
    calls: list[str] = []
    install(place("after", "toy:fail"), lambda: calls.append("died"))
    with pytest.raises(ValueError, match="no"):
        toy.fail()
    assert calls == []


def test_a_class_written_in_c_is_replaced_in_its_module(toy: Any) -> None:
    calls: list[str] = []
    install(place("before", "toy:timedelta.total_seconds"), lambda: calls.append("died"))
    assert toy.timedelta(minutes=1).total_seconds() == 60
    assert calls == ["died"]
    assert toy.timedelta is not timedelta
