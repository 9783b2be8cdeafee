"""The hot path: an order goes from the request's bytes into the log, and the answer says that the log has it.

`OrderDesk.place` tells the whole way. It knows nothing of HTTP but bytes in and a result or a `ProblemError` out, so
that whatever brings orders in (a single request, a batch, another protocol) shares it.
"""

from collections.abc import Mapping
from time import perf_counter
from typing import Final

from loguru import logger
from msgspec import UNSET
from prometheus_client import Gauge, Histogram
from starlette.types import Receive, Scope, Send

from common import problem, server
from common.events import (
    Item,
    OrderId,
    OrderPlaced,
    PlacedData,
    ProductData,
    encode,
    make,
    now,
)
from common.problem import FieldError, Problem, ProblemError
from common.server import ClientGone
from common.validation import decode_body
from order.catalogue import Catalogue
from order.ids import OrderIds, TraceContexts
from order.orders_log import OrdersLog
from order.requests import OrderRequest, order_request_decoder
from order.responses import Accepted

ORDERS_PATH: Final = "/api/v1/orders"
ACCEPT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

accept_seconds: Final = Histogram(
    "tandem_order_accept_seconds",
    "From a placed order's request to the answer that the log has it.",
    buckets=ACCEPT_BUCKETS_S,
)
in_flight: Final = Gauge("tandem_orders_in_flight", "Records whose acknowledgement by the log is awaited.")


class OrderDesk:
    """Takes orders: prices them from the catalogue and puts them into the log."""

    def __init__(self, catalogue: Catalogue, log: OrdersLog) -> None:
        self._catalogue = catalogue
        self._log = log
        self._order_ids = OrderIds()
        self._traces = TraceContexts()
        in_flight.set_function(lambda: log.in_flight)

    def refusal(self) -> Problem | None:
        """Why no order can be taken now, whatever it says."""
        if not self._catalogue.products:
            return CATALOGUE_UNREAD
        return self._log.refusal()

    async def place(self, body: bytes, traceparent: bytes | None) -> Accepted:
        """Accept an order: on return it is in the log. Raises `ProblemError`."""
        request = decode_body(body, order_request_decoder)
        at = now()
        data = price(request, self._catalogue.products, self._order_ids.draw(at))
        if isinstance(data, Problem):
            raise ProblemError(data)
        await self._log.place(make(OrderPlaced, data, at=at, traceparent=self._traces.adopt(traceparent)))
        return Accepted(data.order_id, "pending", data.amount, data.currency)


CATALOGUE_UNREAD: Final = problem.unavailable("the catalogue has not been read yet; the order was not placed")


def price(request: OrderRequest, products: Mapping[str, ProductData], order_id: OrderId) -> PlacedData | Problem:
    """The order at the prices of now, or what stands against it."""
    items = []
    currencies = set()
    amount = 0
    for line in request.lines:
        product = products.get(line.product_id)
        if product is None or not product.active:
            return _not_orderable(request, products)
        items.append(Item(line.product_id, line.quantity, product.unit_price))
        currencies.add(product.currency)
        amount += line.quantity * product.unit_price
    if len(currencies) > 1:
        return _mixed_currencies(request, products)
    currency = currencies.pop()
    if request.expected_amount is not UNSET and request.expected_amount != amount:
        return _price_changed(request.expected_amount, amount, currency)
    return PlacedData(
        order_id=order_id, customer_id=request.customer_id, items=tuple(items), amount=amount, currency=currency
    )


def _not_orderable(request: OrderRequest, products: Mapping[str, ProductData]) -> Problem:
    found = []
    for number, line in enumerate(request.lines):
        product = products.get(line.product_id)
        if product is None:
            found.append(FieldError(request.pointer_to_product(number), f"there is no product {line.product_id!r}"))
        elif not product.active:
            found.append(FieldError(request.pointer_to_product(number), f"{line.product_id!r} is not for sale now"))
    return problem.validation(*found)


def _mixed_currencies(request: OrderRequest, products: Mapping[str, ProductData]) -> Problem:
    """An order is paid in one currency: the first line's."""
    first = products[request.lines[0].product_id].currency
    return problem.validation(
        *(
            FieldError(request.pointer_to_product(number), f"costs {other}, must be {first} like the first line")
            for number, line in enumerate(request.lines)
            if (other := products[line.product_id].currency) != first
        )
    )


def _price_changed(expected: int, amount: int, currency: str) -> Problem:
    return Problem(
        code="price_changed",
        title="The price has changed",
        status=409,
        detail=f"the order costs {amount} {currency} now, not {expected} (minor units); it was not placed",
    )


class PlaceOrder:
    """`POST /api/v1/orders` as bare ASGI: Request and Response objects would cost a third of its throughput."""

    def __init__(self, desk: OrderDesk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        headers = dict(scope["headers"])
        request_id = server.request_id(headers.get(b"x-request-id"))
        try:
            # Before the body is looked at: a refusal must cost next to nothing.
            if (refused := self._desk.refusal()) is not None:
                raise ProblemError(refused)
            body = await server.receive_json(headers, receive)
            accepted = await self._desk.place(body, headers.get(b"traceparent"))
        except ProblemError as error:
            server.counter("POST", ORDERS_PATH, error.problem.status).inc()
            await server.send_problem(send, error.problem, request_id)
        except ClientGone:
            return
        except Exception:
            logger.exception("unhandled error", path=ORDERS_PATH)
            server.counter("POST", ORDERS_PATH, 500).inc()
            await server.send_problem(send, problem.INTERNAL, request_id)
        else:
            _accepted_count.inc()
            accept_seconds.observe(perf_counter() - began)
            await _send_accepted(send, accepted, request_id)


_accepted_count: Final = server.counter("POST", ORDERS_PATH, 202)
_CONTENT_TYPE: Final = (b"content-type", server.JSON)
_LOCATION: Final = ORDERS_PATH.encode() + b"/"


async def _send_accepted(send: Send, accepted: Accepted, request_id: bytes) -> None:
    body = encode(accepted)
    await send(
        {
            "type": "http.response.start",
            "status": 202,
            "headers": (
                _CONTENT_TYPE,
                (b"content-length", b"%d" % len(body)),
                (b"location", _LOCATION + accepted.order_id.encode()),
                (b"x-request-id", request_id),
            ),
        }
    )
    await send({"type": "http.response.body", "body": body})
