"""`POST /api/v1/orders`: the answer says that the log has the order, or why it was not placed.

With `Prefer: wait=N` the answer waits for the outcome, up to N seconds (`order.api.read.outcomes`).
"""

from time import perf_counter
from typing import Final

from loguru import logger
from starlette.types import Receive, Scope, Send

from common import metrics
from common.auth.guard import confined_to
from common.codec import encode
from common.events import OrderId
from common.http import problem
from common.http.problem import Problem, ProblemError
from common.http.requests import JSON, ClientGone, idempotency_key, receive_body
from common.http.responses import header, request_id, send_problem
from order.api.place.desk import OrderDesk
from order.api.place.idempotency import KeyedOrders
from order.api.read.outcomes import Outcomes, preferred_wait_s
from order.api.responses import Accepted, OrderView

ORDERS_PATH: Final = "/api/v1/orders"
LOCATION: Final = ORDERS_PATH.encode() + b"/"
REPLAYED: Final = (b"idempotency-replayed", b"true")

accept_seconds: Final = metrics.BatchHistogram(
    "tandem_order_accept_seconds",
    "From a placed order's request until the log has it.",
    (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
)
accepted_count: Final = metrics.http_requests.labels("POST", ORDERS_PATH, 202)
_decided_count: Final = metrics.http_requests.labels("POST", ORDERS_PATH, 200)
_CONTENT_TYPE: Final = (b"content-type", JSON)


class PlaceOrder:
    """Bare ASGI: Request and Response objects would cost a third of its throughput."""

    def __init__(self, desk: OrderDesk, keyed: KeyedOrders, outcomes: Outcomes) -> None:
        self._desk = desk
        self._keyed = keyed
        self._outcomes = outcomes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        headers = dict(scope["headers"])
        id_ = request_id(headers.get(b"x-request-id"))
        extra = [(b"x-request-id", id_)]
        try:
            # Before the body is read: a refusal must cost next to nothing.
            if (refused := self._desk.refusal()) is not None:
                raise ProblemError(refused)
            body = await receive_body(headers, receive)
            traceparent = headers.get(b"traceparent")
            key = idempotency_key(scope) if b"idempotency-key" in headers else None
            customer = confined_to(scope)
            if key is None:
                order = await self._desk.place(body, traceparent, customer)
            else:
                order, repeated = await self._keyed.place(body, traceparent, key, customer)
                if repeated:
                    extra.append(REPLAYED)
            accept_seconds.observe(perf_counter() - began)
            answer = order if b"prefer" not in headers else await self._outcome(scope, order, extra)
        except ClientGone:
            return
        except Exception as error:
            await send_problem(send, counted_problem(error), id_)
        else:
            await _send_order(send, answer, extra)

    async def _outcome(self, scope: Scope, order: Accepted, extra: list[tuple[bytes, bytes]]) -> Accepted | OrderView:
        """The order once it is decided, if the client prefers to wait for that and it is decided in time."""
        wait_s = preferred_wait_s(header(scope, b"prefer"))
        if not wait_s or not self._outcomes.room:
            return order
        extra.append((b"preference-applied", b"wait=%d" % wait_s))
        return await self._outcomes.decided(OrderId(order.order_id), wait_s) or order


def counted_problem(error: Exception) -> Problem:
    """The problem that answers an error while placing, counted. An unexpected error is logged."""
    if isinstance(error, ProblemError):
        refusal = error.problem
    else:
        logger.opt(exception=error).error("unhandled error", path=ORDERS_PATH)
        refusal = problem.INTERNAL
    metrics.http_requests.labels("POST", ORDERS_PATH, refusal.status).inc()
    return refusal


async def _send_order(send: Send, answer: Accepted | OrderView, extra: list[tuple[bytes, bytes]]) -> None:
    body = encode(answer)
    decided = isinstance(answer, OrderView)
    (_decided_count if decided else accepted_count).inc()
    headers = (
        _CONTENT_TYPE,
        (b"content-length", b"%d" % len(body)),
        (b"location", LOCATION + answer.order_id.encode()),
        *extra,
    )
    await send({"type": "http.response.start", "status": 200 if decided else 202, "headers": headers})
    await send({"type": "http.response.body", "body": body})
