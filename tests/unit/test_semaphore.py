"""The weighted semaphore: never more permits than there are, and first come, first served."""

import asyncio

from order.api.place.many import WeightedSemaphore


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_caller_that_does_not_fit_waits_and_is_not_overtaken() -> None:
    async def main() -> None:
        semaphore = WeightedSemaphore(10)
        inside: list[str] = []
        leave = {name: asyncio.Event() for name in ("large", "larger", "small")}

        async def stay(name: str, amount: int) -> None:
            async with semaphore.acquire(amount):
                inside.append(name)
                await leave[name].wait()
            inside.remove(name)

        tasks = [asyncio.create_task(stay(*waiter)) for waiter in (("large", 8), ("larger", 10), ("small", 1))]
        await settle()
        assert inside == ["large"]
        leave["large"].set()
        await settle()
        assert inside == ["larger"]
        leave["larger"].set()
        await settle()
        assert inside == ["small"]
        leave["small"].set()
        await asyncio.gather(*tasks)
        async with semaphore.acquire(10):
            pass

    asyncio.run(main())


def test_a_caller_that_gives_up_waiting_takes_nothing_with_it() -> None:
    async def main() -> None:
        semaphore = WeightedSemaphore(2)

        async def pass_through(amount: int) -> None:
            async with semaphore.acquire(amount):
                pass

        async with semaphore.acquire(1):
            gone, small = asyncio.create_task(pass_through(2)), asyncio.create_task(pass_through(1))
            await settle()
            assert not small.done()
            gone.cancel()
            await settle()
            assert small.done()
            admitted = asyncio.create_task(pass_through(2))
            await settle()
        admitted.cancel()  # in the moment in which it has been let in
        await settle()
        async with semaphore.acquire(2):
            pass

    asyncio.run(main())
