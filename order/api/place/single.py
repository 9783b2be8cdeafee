"""`POST /api/v1/orders`: the answer says that the log has the order, or what stands against it.

A client that gets no answer, or a 503 with an order id, cannot know whether its order was accepted. With an
`Idempotency-Key` it sends the request again until it is answered (`order.api.place.idempotency`). Without one it cannot
do that safely: it has to ask for the order by its id, or look for it among the customer's orders, before it orders
again.

With `Prefer: wait=N` the answer waits for the outcome, up to N seconds (`order.api.read.outcomes`).
"""

from time import perf_counter
from typing import Final

from loguru import logger
from prometheus_client import Histogram
from starlette.types import Receive, Scope, Send

from common.codec import encode
from common.events import OrderId
from common.http import bodies, problem, responses
from common.http.bodies import ClientGone
from common.http.problem import ProblemError
from order.api.place.desk import OrderDesk
from order.api.place.idempotency import KeyedOrders
from order.api.read.outcomes import Outcomes, preferred_wait_s
from order.api.responses import Accepted, OrderView

ORDERS_PATH: Final = "/api/v1/orders"
ACCEPT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

accept_seconds: Final = Histogram(
    "tandem_order_accept_seconds",
    "From a placed order's request until the log has it.",
    buckets=ACCEPT_BUCKETS_S,
)


class PlaceOrder:
    """Bare ASGI: Request and Response objects would cost a third of its throughput."""

    def __init__(self, desk: OrderDesk, keyed: KeyedOrders, outcomes: Outcomes) -> None:
        self._desk = desk
        self._keyed = keyed
        self._outcomes = outcomes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        headers = dict(scope["headers"])
        request_id = responses.request_id(headers.get(b"x-request-id"))
        more = [(b"x-request-id", request_id)]
        try:
            # Before the body is looked at: a refusal must cost next to nothing.
            if (refused := self._desk.refusal()) is not None:
                raise ProblemError(refused)
            body = await bodies.receive_body(headers, receive)
            traceparent = headers.get(b"traceparent")
            if b"idempotency-key" not in headers:
                accepted = await self._desk.place(body, traceparent)
            else:
                key = responses.header(scope, b"idempotency-key")
                accepted, repeated = await self._keyed.place(body, traceparent, key)
                if repeated:
                    more.append(REPLAYED)
            accept_seconds.observe(perf_counter() - began)
            answer = accepted if b"prefer" not in headers else await self._outcome(scope, accepted, more)
        except ProblemError as error:
            responses.counter("POST", ORDERS_PATH, error.problem.status).inc()
            await responses.send_problem(send, error.problem, request_id)
        except ClientGone:
            return
        except Exception:
            logger.exception("unhandled error", path=ORDERS_PATH)
            responses.counter("POST", ORDERS_PATH, 500).inc()
            await responses.send_problem(send, problem.INTERNAL, request_id)
        else:
            await _send_order(send, answer, more)

    async def _outcome(self, scope: Scope, accepted: Accepted, more: list[tuple[bytes, bytes]]) -> Accepted | OrderView:
        """The order once it is decided, if the client prefers to wait for that and it is so in time."""
        wait_s = preferred_wait_s(responses.header(scope, b"prefer"))
        if not wait_s or not self._outcomes.room:
            return accepted
        more.append((b"preference-applied", b"wait=%d" % wait_s))
        return await self._outcomes.decided(OrderId(accepted.order_id), wait_s) or accepted


_accepted_count: Final = responses.counter("POST", ORDERS_PATH, 202)
_decided_count: Final = responses.counter("POST", ORDERS_PATH, 200)
_CONTENT_TYPE: Final = (b"content-type", bodies.JSON)
LOCATION: Final = ORDERS_PATH.encode() + b"/"
REPLAYED: Final = (b"idempotency-replayed", b"true")


async def _send_order(send: Send, answer: Accepted | OrderView, more: list[tuple[bytes, bytes]]) -> None:
    body = encode(answer)
    if isinstance(answer, Accepted):
        _accepted_count.inc()
        status = 202
    else:
        _decided_count.inc()
        status = 200
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": (
                _CONTENT_TYPE,
                (b"content-length", b"%d" % len(body)),
                (b"location", LOCATION + answer.order_id.encode()),
                *more,
            ),
        }
    )
    await send({"type": "http.response.body", "body": body})
