"""One expensive read for many callers, none of whom gets an answer older than its question."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedRead(Generic[T]):
    """Callers that come while a read is under way wait for the next one, and share that.

    The one under way may have looked before they asked: an order acknowledged in between would be missing from it.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._current: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        if self._next is None:
            self._next = asyncio.create_task(self._read_after(self._current))
        # A caller that is cancelled must not take the others' answer with it.
        return await asyncio.shield(self._next)

    async def _read_after(self, previous: "asyncio.Task[T] | None") -> T:
        if previous is not None:
            await asyncio.wait([previous])
        self._current, self._next = self._next, None
        return await self._read()
