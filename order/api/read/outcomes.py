"""Waiting for the outcomes of orders. One watcher serves all waiting clients, and queries only while there are any.

It queries all watched orders in one statement, every `QUERY_EVERY_S`. It never spends more than a tenth of its time on
that, so with very many watched orders it queries less often. Reading the topic instead would decode every outcome for
the few that are waited for.

References: RFC 7240 §4.3 (`wait`).
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from common import metrics
from common.errors import Transient
from common.events import OrderId
from order.api.read.queries import OrderQueries, Stored, Watched
from order.api.responses import OrderView

WAIT_S_MAX: Final = 30
"""The longest wait that `Prefer: wait` gets."""
WATCHED_MAX: Final = 10_000
QUERY_EVERY_S: Final = 0.025
PAUSE_BY_QUERY: Final = 9.0
"""A pause is this many times as long as the query before it."""

_WAIT: Final = re.compile(r'\s*wait\s*=\s*"?(?P<seconds>[0-9]{1,9})"?\s*', re.IGNORECASE)


def preferred_wait_s(prefer: str) -> int:
    """The seconds of `wait=N` in a Prefer header, at most `WAIT_S_MAX`; 0 if it is missing or malformed."""
    for preference in prefer.split(","):
        if match := _WAIT.fullmatch(preference.partition(";")[0]):
            return min(int(match["seconds"]), WAIT_S_MAX)
    return 0


class Outcomes:
    """Wakes those who wait for an order when there is news of it."""

    def __init__(self, queries: OrderQueries, stopping: Callable[[], bool], watched_max: int = WATCHED_MAX) -> None:
        """Every wait ends once `stopping` returns true. There is room for `watched_max` requests that wait."""
        self._queries = queries
        self._stopping = stopping
        self._watched_max = watched_max
        self._waiting: dict[asyncio.Future[Stored | None], Watched] = {}
        self._watch: asyncio.Task[None] | None = None
        metrics.watch_pool("waiting-requests", watched_max, lambda: len(self._waiting))

    @property
    def room(self) -> bool:
        """Whether one more may wait."""
        return len(self._waiting) < self._watched_max

    @property
    def draining(self) -> bool:
        """Whether the process is about to end, so that no news comes any more."""
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
            self._watch = asyncio.create_task(self._keep_querying())
        timer = loop.call_later(within_s, _end, future)
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(future, None)

    async def _keep_querying(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = QUERY_EVERY_S
        try:
            while self._waiting:
                await asyncio.sleep(pause_s)
                if self._stopping():
                    for future in self._waiting:
                        _end(future)
                    return
                began = loop.time()
                if self._waiting:  # the last of them may have given up meanwhile
                    await self._query()
                pause_s = max(QUERY_EVERY_S, PAUSE_BY_QUERY * (loop.time() - began))
        finally:
            self._watch = None

    async def _query(self) -> None:
        try:
            news = await self._queries.news(list(set(self._waiting.values())))
        except Transient:
            return  # those who wait have their own time limits
        by_id = {stored.view.order_id: stored for stored in news}
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
