"""A semaphore of which one caller may take several permits at once, first come, first served."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WeightedSemaphore:
    """So many permits. A caller that asks for more than are free waits, and nobody overtakes it."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._turn = asyncio.Lock()  # it serves callers in their order; only the first of them waits for permits
        self._released = asyncio.Event()

    @asynccontextmanager
    async def acquire(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount` permits, at most all there are."""
        async with self._turn:
            while amount > self._free:
                self._released.clear()
                await self._released.wait()
            self._free -= amount
        try:
            yield
        finally:
            self._free += amount
            self._released.set()
