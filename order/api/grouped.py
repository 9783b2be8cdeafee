"""Groups the items of many callers: those that arrive while one piece of work is under way, or soon after it began, go
together into the next.

No caller gets an answer that is older than its question.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Grouped(Generic[T, R]):
    """Does one piece of work at a time, so that groups grow with the load."""

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        most: int = sys.maxsize,
        *,
        apart_s: float = 0.0,
        plenty: int = 1,
    ) -> None:
        """`work` returns a result for each of its items, at most `most` of them, or fails. Groups begin at least
        `apart_s` seconds apart, unless `plenty` items wait. Call it in the loop."""
        self._loop = asyncio.get_running_loop()  # asking for it every time is a system call
        self._work = work
        self._most = most
        self._apart_s = apart_s
        self._plenty = plenty
        self._plenty_wait = asyncio.Event()
        self._next_at_s = 0.0
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items whose work has not begun."""
        return len(self._waiting)

    def submit(self, item: T) -> "asyncio.Future[R]":
        """The future ends with the item's result, or with what the work raised."""
        future: asyncio.Future[R] = self._loop.create_future()
        self._waiting.append((item, future))
        if len(self._waiting) == self._plenty:
            self._plenty_wait.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._run())
        return future

    async def close(self, timeout_s: float) -> None:
        """Wait, so long at most, until there is nothing left to do. Those who await results have been called then."""
        if self._worker is not None:
            await asyncio.wait([self._worker], timeout=timeout_s)

    async def _run(self) -> None:
        try:
            while self._waiting:
                if len(self._waiting) < self._plenty and self._next_at_s > self._loop.time():
                    self._plenty_wait.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(self._next_at_s):
                            await self._plenty_wait.wait()
                self._next_at_s = self._loop.time() + self._apart_s
                group = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                await self._serve(group)
        finally:
            self._worker = None

    async def _serve(self, group: "list[tuple[T, asyncio.Future[R]]]") -> None:
        try:
            results = await self._work([item for item, _ in group])
        except Exception as error:
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(group, results, strict=True):
                if not future.done():
                    future.set_result(result)


def shared(read: Callable[[], Awaitable[R]]) -> "Callable[[], asyncio.Future[R]]":
    """One expensive read for many callers: those that call while it is under way share the next one.

    The one under way may have read before they called: an order acknowledged in between would be missing from it.
    """

    async def read_once(callers: Sequence[None]) -> Sequence[R]:
        return [await read()] * len(callers)

    grouped = Grouped(read_once)
    return lambda: grouped.submit(None)
