"""`POST /api/v1/orders/{id}/cancel`: asks the saga to cancel an order. The answer says that the log has the request.

Under an `Idempotency-Key` a repeat gets the first answer, also when the order is cancelled by then. The answer is
stored before the request is published, so a repeat publishes it again, unless the order is final already. That is safe:
the saga ignores a request that changes nothing.
"""

from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.auth.guard import confined_to
from common.events import OrderCancelRequested, OutcomeData, make, now
from common.http.once import answered, json_answer
from common.http.problem import Problem, ProblemError, ProblemType
from common.http.requests import idempotency_key, idempotency_key_reused
from common.keyed_answers import Answer, Keyed, KeyReused
from order.api.log.orders_log import OrdersLog
from order.api.place.keyed_requests import KeyedRequests
from order.api.place.single import ORDERS_PATH
from order.api.read.lookup import Lookup
from order.api.read.queries import Stored
from order.api.responses import CancelRequested

NOT_CANCELLABLE: Final = ProblemType(
    code="not-cancellable",
    status=409,
    title="The order cannot be cancelled",
    when="the order is rejected or cancelled already, and that is final",
    remedy="nothing is left to do: no money is taken and no stock is reserved for it",
    example="order 019ab7a2-5c1e-7d60-8f00-2b1f6c0a9e11 is rejected already, and that is final",
)


class CancelOrder:
    """Bare ASGI, behind the router."""

    def __init__(self, lookup: Lookup, requests: KeyedRequests, log: OrdersLog) -> None:
        self._lookup = lookup
        self._requests = requests
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stored = await self._lookup.find(scope["path_params"]["order_id"], confined_to(scope))
        response = await self._respond(stored, idempotency_key(scope))
        await response(scope, receive, send)

    async def _respond(self, stored: Stored, key: str | None) -> Response:
        answer = _answer(stored) if key is None else await self._first_answer(stored, key)
        if not _is_final(stored):
            order = stored.view
            data = OutcomeData(order_id=order.order_id, customer_id=order.customer_id, reason="customer")
            event = make(OrderCancelRequested, data, at=now(), traceparent=stored.traceparent)
            await self._log.request_cancel(event, stored.partition)
        return json_answer(answer)

    async def _first_answer(self, stored: Stored, key: str) -> Answer:
        path = f"{ORDERS_PATH}/{stored.view.order_id}/cancel"
        keyed = Keyed(f"POST {path}", key, b"")
        try:
            return await self._requests.find(keyed) or await self._requests.keep(keyed, _answer(stored))
        except KeyReused:  # only if somebody has changed the row: all requests to cancel an order are the same
            raise ProblemError(idempotency_key_reused(key, f"another POST to {path}")) from None


def _answer(stored: Stored) -> Answer:
    """The answer to a first request. Raises `ProblemError` 409 when the order is final."""
    order = stored.view
    if _is_final(stored):
        detail = f"order {order.order_id} is {order.status} already, and that is final"
        raise ProblemError(Problem(NOT_CANCELLABLE, detail))
    return answered(CancelRequested(order.order_id, order.status), 202)


def _is_final(stored: Stored) -> bool:
    return stored.view.status in ("rejected", "cancelled")
