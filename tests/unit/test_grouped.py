"""Grouping: one piece of work at a time, and every caller gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from order.api.grouped import Grouped

WAIT_S = 5.0


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


def test_a_group_begins_some_time_after_the_one_before() -> None:
    async def main() -> None:
        work = Work()
        work.may_end.set()
        grouped = Grouped(work, apart_s=0.05, plenty=3)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await grouped.submit(1) == 2
        assert work.groups == [[1]]
        assert [await future for future in (grouped.submit(2), grouped.submit(3))] == [4, 6]
        assert loop.time() - began_s >= 0.05
        assert work.groups == [[1], [2, 3]]

    asyncio.run(main())


@pytest.mark.parametrize("after", [False, True])
def test_many_items_do_not_wait_for_more(after: bool) -> None:
    async def main() -> None:
        work = Work()
        work.may_end.set()
        grouped = Grouped(work, apart_s=3_600.0, plenty=3)
        await grouped.submit(1)
        futures = [grouped.submit(2)]
        while after and work.groups == [[1]] and len(futures) < 20:
            await asyncio.sleep(0)  # the worker begins to wait
            futures.append(grouped.submit(2))
        if not after:
            futures += [grouped.submit(2), grouped.submit(2)]
        assert await asyncio.wait_for(asyncio.gather(*futures[:3]), WAIT_S) == [4, 4, 4]

    asyncio.run(main())


def test_an_end_waits_for_what_is_left() -> None:
    async def main() -> None:
        work = Work()
        grouped = Grouped(work, most=1)
        await grouped.close(WAIT_S)
        futures = [grouped.submit(1), grouped.submit(2)]
        await work.begun.wait()
        closing = asyncio.ensure_future(grouped.close(WAIT_S))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done()
        work.may_end.set()
        await closing
        assert [future.result() for future in futures] == [2, 4]
        work.may_end.clear()
        grouped.submit(3)
        await grouped.close(0.001)  # one that takes too long is left

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
