"""Finds an order, also before the saga has stored it: an accepted order is never "not found".

An order is in the order database; or this process has just accepted it; or it is unread in the log. To rule out the
last, the ends of `orders` are read, and the saga's positions must pass them. After that, an order that is neither
stored nor parked was never accepted.
"""

import asyncio
from typing import Final

from common.database import DatabaseUnavailable
from common.errors import Fatal, Transient
from common.events import OrderId, now
from common.http import problem
from common.http.problem import ProblemError
from order.api.grouped import shared
from order.api.log.orders_log import OrdersLog
from order.api.log.recent import RecentOrders
from order.api.read.queries import OrderQueries, Stored, as_accepted
from order.api.requests import order_id_in

SAGA_WAIT_S: Final = 1.0
SAGA_CHECK_EVERY_S: Final = 0.025
JUST_ACCEPTED_MS: Final = 5_000
"""Without the database, an order this young is called pending; an older one may have been settled."""


class Lookup:
    def __init__(self, queries: OrderQueries, recent: RecentOrders, log: OrdersLog) -> None:
        """Call it in the event loop."""
        self._queries = queries
        self._recent = recent
        self._log = log
        self._ends = shared(log.ends)
        self._positions = shared(queries.positions)

    async def find(self, named: str, customer: str | None) -> Stored:
        """The order of this id. If a customer is given, others' orders are not there: the same is done and answered for
        them as for an id that nobody has.

        Raises `ProblemError` 404 when there is none, 503 when that cannot be known now.
        """
        order_id = order_id_in(named)
        if order_id is None:
            raise ProblemError(problem.not_found("order", named[:64]))
        try:
            return await self._stored_or_recent(order_id, customer) or await self._read_by_saga(order_id, customer)
        except (Transient, Fatal) as error:
            raise ProblemError(problem.unavailable(f"order {order_id} cannot be looked up: {error}")) from None

    async def _stored_or_recent(self, order_id: OrderId, customer: str | None) -> Stored | None:
        recent = self._recent.get(order_id)
        try:
            stored = await self._queries.by_id(order_id)
        except DatabaseUnavailable:
            if recent is None or now() - recent.acknowledged.at > JUST_ACCEPTED_MS:
                raise
            stored = None
        if stored is None and recent is not None:
            stored = as_accepted(recent.placed, recent.acknowledged)
        return _if_of(customer, stored)

    async def _read_by_saga(self, order_id: OrderId, customer: str | None) -> Stored:
        """The order once the saga has read to the end of the log. Raises `Transient` if it does not in time."""
        if self._log.undecided(order_id, customer):
            raise Transient("the log has not acknowledged it yet and may still take it")
        ends = await self._ends()
        if not await self._saga_passes(ends):
            raise Transient(f"the saga is over {SAGA_WAIT_S:g} s behind the log; the order may be among what is unread")
        # Parked events first: an order goes from there to the stored ones, never back.
        parked = _if_of(customer, await self._queries.parked(order_id))
        order = parked or await self._stored_or_recent(order_id, customer)
        if order is None:
            raise ProblemError(problem.not_found("order", order_id))
        return order

    async def _saga_passes(self, ends: dict[tuple[str, int], int]) -> bool:
        """Whether the saga has read everything before `ends`, or does so within `SAGA_WAIT_S`."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + SAGA_WAIT_S
        while True:
            positions = await self._positions()
            # A topic created anew has offsets of its own, of which the saga has read none.
            if all(positions.get(partition, -1) >= end for partition, end in ends.items()):
                return True
            if loop.time() >= give_up_at:
                return False
            await asyncio.sleep(SAGA_CHECK_EVERY_S)


def _if_of(customer: str | None, order: Stored | None) -> Stored | None:
    """The order, unless it must be this customer's and is another's."""
    return None if order is None or customer not in (None, order.view.customer_id) else order
