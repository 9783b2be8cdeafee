"""Finds an order for whoever asks, also before the saga has stored it: what was accepted is never "not found".

The order database knows it; or this process, which accepted it a moment ago; or it lies in the log unread. To rule out
the last, the ends of `orders` are read and the saga's positions must pass them: then an order that is neither stored
nor parked was never accepted.
"""

import asyncio
from typing import Final

from common.errors import Transient
from common.events import OrderId
from common.http import problem
from common.http.problem import ProblemError
from order.api.log.orders_log import OrdersLog
from order.api.log.recent import RecentOrders
from order.api.read.queries import DatabaseAway, OrderQueries, Stored, as_accepted
from order.api.read.shared_read import SharedRead
from order.api.requests import is_order_id

SAGA_WAIT_S: Final = 1.0
SAGA_LOOK_EVERY_S: Final = 0.025


class Lookup:
    def __init__(self, queries: OrderQueries, recent: RecentOrders, log: OrdersLog) -> None:
        self._queries = queries
        self._recent = recent
        self._log = log
        self._ends = SharedRead(log.ends)
        self._positions = SharedRead(queries.positions)

    async def find(self, order_id: str) -> Stored:
        """The order. Raises `ProblemError` 404 when there is none, 503 when that cannot be known now."""
        if not is_order_id(order_id):
            raise ProblemError(problem.not_found("order", order_id[:64]))
        wanted = OrderId(order_id)
        try:
            return await self._stored_or_recent(wanted) or await self._once_the_saga_has_read_on(wanted)
        except Transient as error:
            raise ProblemError(problem.unavailable(f"order {order_id} cannot be looked up: {error}")) from None

    async def _stored_or_recent(self, order_id: OrderId) -> Stored | None:
        recent = self._recent.get(order_id)
        try:
            stored = await self._queries.by_id(order_id)
        except DatabaseAway:
            if recent is None:
                raise
            stored = None
        if stored is not None or recent is None:
            return stored
        return as_accepted(recent.placed, recent.place)

    async def _once_the_saga_has_read_on(self, order_id: OrderId) -> Stored:
        if self._log.undecided(order_id):
            raise Transient("the log has not said yet whether it took it")
        ends = await self._ends()
        if not await self._saga_passes(ends):
            raise Transient(
                f"the saga is behind the log by more than {SAGA_WAIT_S:g} s; it may be among what is unread"
            )
        # First what is parked: it goes from there to what is stored, never back.
        found = await self._queries.parked(order_id) or await self._stored_or_recent(order_id)
        if found is None:
            raise ProblemError(problem.not_found("order", order_id))
        return found

    async def _saga_passes(self, ends: dict[int, int]) -> bool:
        """Whether the saga has read all that lies before `ends`, or does so within `SAGA_WAIT_S`."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + SAGA_WAIT_S
        while True:
            positions = await self._positions()
            if all(positions.get(partition, 0) >= end for partition, end in ends.items()):
                return True
            if loop.time() >= give_up_at:
                return False
            await asyncio.sleep(SAGA_LOOK_EVERY_S)
