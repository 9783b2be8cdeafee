import asyncio

import pytest

from order.api.grouped import shared
from tests.unit import virtual_time


class Clock:
    """A read that takes a while and answers with the moment it began."""

    def __init__(self) -> None:
        self.reads = 0

    async def __call__(self) -> int:
        self.reads += 1
        began = self.reads
        await asyncio.sleep(0.01)
        return began


def test_callers_together_share_one_read() -> None:
    async def main() -> None:
        clock = Clock()
        read = shared(clock)
        assert await asyncio.gather(*(read() for _ in range(50))) == [1] * 50

    virtual_time.run(main())


def test_a_caller_during_a_read_gets_one_that_began_later() -> None:
    async def main() -> None:
        clock = Clock()
        read = shared(clock)
        first = read()
        await asyncio.sleep(0.005)
        later = [read() for _ in range(50)]
        assert await first == 1
        assert await asyncio.gather(*later) == [2] * 50
        assert clock.reads == 2

    virtual_time.run(main())


def test_a_caller_that_gives_up_takes_nothing_from_the_others() -> None:
    async def main() -> None:
        read = shared(Clock())
        impatient = read()
        patient = read()
        await asyncio.sleep(0.005)
        impatient.cancel()
        assert await patient == 1

    virtual_time.run(main())


def test_a_failure_reaches_every_caller_and_the_next_read_starts_afresh() -> None:
    async def main() -> None:
        answers = iter([OSError("away"), None])

        async def fail_once() -> str:
            await asyncio.sleep(0)
            error = next(answers)
            if error is not None:
                raise error
            return "back"

        read = shared(fail_once)
        failed = await asyncio.gather(read(), read(), return_exceptions=True)
        assert all(isinstance(each, OSError) for each in failed)
        assert await read() == "back"

    virtual_time.run(main())


@pytest.mark.parametrize("rounds", [5])
def test_reads_follow_one_another(rounds: int) -> None:
    async def main() -> None:
        read = shared(Clock())
        assert [await read() for _ in range(rounds)] == list(range(1, rounds + 1))

    virtual_time.run(main())
