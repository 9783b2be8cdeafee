"""Waiting for what becomes of orders: one watcher for all who wait, which asks the database only while somebody does.

It asks for all watched orders in one statement, every `LOOK_EVERY_S`, and never spends more than a tenth of its time on
that: with very many watched orders it looks less often. Tailing the topic would decode every outcome for the few that
are waited for.

References: RFC 7240 §4.3 (`wait`).
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from common.errors import Transient
from common.events import OrderId
from order.api.read.queries import OrderQueries, Stored, Watched
from order.api.responses import OrderView

WAIT_S_MAX: Final = 30
"""The longest wait that `Prefer: wait` is given."""
WATCHED_MAX: Final = 10_000
LOOK_EVERY_S: Final = 0.025
PAUSE_BY_LOOK: Final = 9.0

_WAIT: Final = re.compile(r'\s*wait\s*=\s*"?(?P<seconds>[0-9]{1,9})"?\s*', re.IGNORECASE)


def preferred_wait_s(prefer: str) -> int:
    """The seconds of `wait=N` in a Prefer header, at most `WAIT_S_MAX`; 0 without it. What is malformed is ignored."""
    for preference in prefer.split(","):
        if match := _WAIT.fullmatch(preference.partition(";")[0]):
            return min(int(match["seconds"]), WAIT_S_MAX)
    return 0


class Outcomes:
    """Tells who waits for an order what becomes of it."""

    def __init__(self, queries: OrderQueries, stopping: Callable[[], bool]) -> None:
        """Nobody is kept waiting any longer once `stopping` says yes."""
        self._queries = queries
        self._stopping = stopping
        self._waiting: dict[asyncio.Future[Stored | None], Watched] = {}
        self._watch: asyncio.Task[None] | None = None

    @property
    def room(self) -> bool:
        """Whether one more may wait."""
        return len(self._waiting) < WATCHED_MAX

    @property
    def draining(self) -> bool:
        """Whether the process is about to end, so that nothing new is told."""
        return self._stopping()

    async def decided(self, order_id: OrderId, within_s: float) -> OrderView | None:
        """The order, once it is confirmed, rejected or cancelled; None if it is not in time."""
        stored = await self.news(Watched(order_id, None), within_s)
        return stored.view if stored else None

    async def news(self, watched: Watched, within_s: float) -> Stored | None:
        """The order, once it is news; None if it is not in time, or if the process is about to end."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Stored | None] = loop.create_future()
        self._waiting[future] = watched
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_looking())
        timer = loop.call_later(within_s, _end, future)
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(future, None)

    async def _keep_looking(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = LOOK_EVERY_S
        try:
            while self._waiting:
                await asyncio.sleep(pause_s)
                if self._stopping():
                    for future in self._waiting:
                        _end(future)
                    return
                began = loop.time()
                if self._waiting:  # those who waited may have gone meanwhile
                    await self._look()
                pause_s = max(LOOK_EVERY_S, PAUSE_BY_LOOK * (loop.time() - began))
        finally:
            self._watch = None

    async def _look(self) -> None:
        try:
            found = await self._queries.news(list(set(self._waiting.values())))
        except Transient:
            return  # those who wait have their own time limits
        by_id = {stored.view.order_id: stored for stored in found}
        for future, watched in self._waiting.items():
            stored = by_id.get(watched.order_id)
            if stored is not None and _is_news(stored, watched) and not future.done():
                future.set_result(stored)


def _is_news(stored: Stored, watched: Watched) -> bool:
    if watched.seen is None:
        return stored.view.decided_at is not None
    return len(stored.view.timeline) > watched.seen


def _end(future: "asyncio.Future[Stored | None]") -> None:
    if not future.done():
        future.set_result(None)
