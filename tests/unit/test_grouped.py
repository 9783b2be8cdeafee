"""Grouping: one piece of work at a time, and every caller gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from order.api.grouped import Grouped


class Work:
    """Doubles numbers, each group when the test allows it."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.groups.append(list(numbers))
        self.begun.set()
        await self.may_end.wait()
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


def test_calls_made_during_a_group_form_the_next_group() -> None:
    async def main() -> None:
        work = Work()
        grouped = Grouped(work, most=3)
        first = grouped.submit(1)
        await work.begun.wait()
        later = [grouped.submit(number) for number in range(2, 7)]
        assert grouped.waiting == 5
        work.may_end.set()
        assert await first == 2
        assert [await future for future in later] == [4, 6, 8, 10, 12]
        assert work.groups == [[1], [2, 3, 4], [5, 6]]

    asyncio.run(main())


def test_groups_begin_apart_and_the_first_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        slept: list[float] = []
        loop = asyncio.get_running_loop()
        clock_s = loop.time()

        async def sleep(seconds: float) -> None:
            nonlocal clock_s
            slept.append(seconds)
            late = [grouped.submit(number) for number in (3, 4)] if len(slept) == 1 else []
            clock_s += seconds
            later.extend(late)

        monkeypatch.setattr(loop, "time", lambda: clock_s)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        later: list[asyncio.Future[int]] = []
        work = Work()
        work.may_end.set()
        grouped = Grouped(work, apart_s=600.0)
        assert await grouped.submit(1) == 2
        assert slept == []
        clock_s += 200.0
        assert await grouped.submit(2) == 4
        assert [await future for future in later] == [6, 8]
        assert slept == [pytest.approx(400.0)]
        assert work.groups == [[1], [2, 3, 4]]
        clock_s += 600.0
        assert await grouped.submit(5) == 10
        assert len(slept) == 1

    asyncio.run(main())


def test_a_failure_affects_only_its_own_group() -> None:
    async def main() -> None:
        work = Work()
        work.may_end.set()
        grouped = Grouped(work, most=2)
        failing = [grouped.submit(13), grouped.submit(1)]
        fine = grouped.submit(2)
        for future in failing:
            with pytest.raises(ValueError, match="13"):
                await future
        assert await fine == 4
        assert await grouped.submit(3) == 6

    asyncio.run(main())


def test_a_cancelled_caller_does_not_disturb_the_others() -> None:
    async def main() -> None:
        work = Work()
        grouped = Grouped(work, most=9)
        gone, staying = grouped.submit(1), grouped.submit(2)
        gone.cancel()
        work.may_end.set()
        assert await staying == 4

    asyncio.run(main())
