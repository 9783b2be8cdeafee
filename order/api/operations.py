"""What the order api offers over HTTP."""

from typing import Final

from starlette.convertors import StringConvertor, register_url_convertor

from common.asyncapi import page as asyncapi
from common.auth.access import own
from common.auth.principal import AUDITOR, MERCHANT, OPERATOR
from common.events import Item
from common.http import problem
from common.http.contract.operation import BUFFERING, LINK_NEXT, LOCATION, Answer, Body, Header, Link, Operation
from common.http.contract.service import Contract
from common.http.responses import UuidText
from order.api.place.cancel import NOT_CANCELLABLE
from order.api.place.desk import ACCESS, PRICE_CHANGED
from order.api.place.keyed_requests import KEYS_KEPT_S
from order.api.place.many import BYTES_MAX, LINES_MAX, NDJSON
from order.api.place.single import ORDERS_PATH
from order.api.read.outcomes import WAIT_S_MAX
from order.api.requests import LineRequest, OrderLine, OrderRequest, PageRequest
from order.api.responses import (
    Accepted,
    CancelRequested,
    LineResult,
    OrderPage,
    OrderView,
    StreamedEvent,
    TimelineEntry,
)


class OrderName(StringConvertor):
    """What may be the id of an order in a path: anything but the name of a path of its own."""

    regex = "(?!batch$)[^/]+"


register_url_convertor("order", OrderName())

TAG: Final = "orders"
DAY_S: Final = 86_400
READ: Final = own(MERCHANT, OPERATOR, AUDITOR)
_LINES: Final = tuple(kind.decode() for kind in NDJSON)
_ORDER_ID: Final = "019ab7a2-5c1e-7d60-8f00-2b1f6c0a9e11"
_KEPT: Final = f"A key is kept {KEYS_KEPT_S // DAY_S} days"
_RETRIES: Final = (
    "A client that gets no answer, or a 5xx, cannot know whether its order was accepted. With an Idempotency-Key it "
    "sends the request again until it is answered otherwise, and orders once. Without one it cannot retry safely."
)
_PREFER: Final = Header(
    name="Prefer",
    description=f"wait=N (RFC 7240): answer when the order is decided, within N seconds, at most {WAIT_S_MAX}; the "
    "answer says Preference-Applied",
)
_APPLIED: Final = Header(name="Preference-Applied", description="the wait that was granted, such as wait=5")
_LAST_EVENT_ID: Final = Header(
    name="Last-Event-ID", description="the id of the last event that was received: the stream goes on after it"
)
_RETRY_AFTER: Final = Header(
    name="Retry-After", description="the seconds after which to send the lines again", required=True
)
_LINKS: Final = tuple(
    Link(
        name=operation_id,
        operation_id=operation_id,
        description=description,
        parameters={"order_id": "$response.body#/order_id"},
    )
    for operation_id, description in (
        ("getOrder", "the order, also named by Location"),
        ("streamOrder", "what becomes of it, as it happens"),
        ("cancelOrder", "its cancellation"),
    )
)

_ORDER: Final = OrderRequest(customer_id="cust-000001", product_id="sku-0001", quantity=2)
_BASKET: Final = OrderRequest(
    customer_id="cust-000001",
    items=(OrderLine("sku-0001", 2), OrderLine("sku-0002", 1)),
)
_ACCEPTED: Final = Accepted(_ORDER_ID, "pending", 3_998, "EUR")
_VIEW: Final = OrderView(
    order_id=_ORDER_ID,
    customer_id="cust-000001",
    status="confirmed",
    reason=None,
    amount=3_998,
    currency="EUR",
    items=(Item("sku-0001", 2, 1_999),),
    payment="completed",
    inventory="reserved",
    settled=True,
    placed_at="2026-11-23T04:09:36.775Z",
    decided_at="2026-11-23T04:09:36.809Z",
    settled_at="2026-11-23T04:09:36.809Z",
    timeline=[
        TimelineEntry("order.placed", "2026-11-23T04:09:36.775Z", 0, 5, 0),
        TimelineEntry("inventory.reserved", "2026-11-23T04:09:36.807Z", 32, 5, 0),
        TimelineEntry("payment.completed", "2026-11-23T04:09:36.809Z", 34, 5, 0),
        TimelineEntry("order.confirmed", "2026-11-23T04:09:36.809Z", 34, 5, None),
    ],
)

PLACE: Final = Operation(
    method="POST", path=ORDERS_PATH, id="placeOrder", tag=TAG, access=ACCESS,
    summary="Place an order; it is accepted when the log has it",
    description=f"{_RETRIES} 200 instead of 202 comes only with Prefer: wait.",
    headers=(_PREFER,),
    key=f"the same key and body are the same order, at the price of the first request. A key belongs to its customer. "
    f"{_KEPT}",
    body=Body(kind=OrderRequest, examples={"one product": _ORDER, "several lines": _BASKET}),
    answers=(
        Answer(status=202, kind=Accepted, headers=(LOCATION, _APPLIED), links=_LINKS, example=_ACCEPTED),
        Answer(status=200, kind=OrderView, headers=(LOCATION, _APPLIED), links=_LINKS, example=_VIEW),
    ),
    problems=(PRICE_CHANGED, problem.UNAVAILABLE),
)  # fmt: skip
LIST: Final = Operation(
    method="GET", path=ORDERS_PATH, id="listOrders", tag=TAG, access=READ, conditional=True,
    summary="List a customer's orders, newest first",
    query=PageRequest,
    answers=(Answer(status=200, kind=OrderPage, headers=(LINK_NEXT,), example=OrderPage([_VIEW], None)),),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
PLACE_MANY: Final = Operation(
    method="POST", path=f"{ORDERS_PATH}/batch", id="placeOrders", tag=TAG, access=ACCESS,
    summary=f"Place up to {LINES_MAX} orders, one a line, each accepted or refused by itself",
    description=f"The body has a JSON document a line, and the schema is that of a line; so it is with the answer. "
    f"{_RETRIES} That holds for each line, which can have an idempotency_key.",
    key="the same key and lines are the same orders, and other lines are refused. Lines without a key of their own get "
    f"theirs from it. {_KEPT}",
    body=Body(
        kind=LineRequest, media_types=_LINES, bytes_max=BYTES_MAX,
        examples={"a line": LineRequest(customer_id="cust-000001", product_id="sku-0001", quantity=2)},
    ),
    answers=(
        Answer(
            status=200, kind=LineResult, media_types=_LINES[:1], example=LineResult(1, 202, _ORDER_ID),
            description="at least one order was accepted, or there is no line: a result for each that is not blank",
        ),
        Answer(
            status=422, kind=LineResult, media_types=_LINES[:1],
            description="no order was accepted, and every line is at fault: a result for each",
        ),
        Answer(
            status=503, kind=LineResult, media_types=_LINES[:1], headers=(_RETRY_AFTER,),
            description="no order was accepted, but some lines may be sent again after Retry-After: a result for each",
        ),
    ),
    problems=(problem.UNAVAILABLE,),
)  # fmt: skip
GET: Final = Operation(
    method="GET", path=f"{ORDERS_PATH}/{{order_id:order}}", id="getOrder", tag=TAG, access=READ, conditional=True,
    summary="Look an order up",
    description="An order that was accepted is never \"not found\". A pending one must not be kept by a cache "
    "(`Cache-Control: no-store`).",
    parameters={"order_id": UuidText},
    answers=(Answer(status=200, kind=OrderView, example=_VIEW),),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
STREAM: Final = Operation(
    method="GET", path=f"{ORDERS_PATH}/{{order_id:order}}/events", id="streamOrder", tag=TAG, access=READ,
    summary="Server-sent events until the order is settled: its timeline's entries by name, then 'settled'",
    parameters={"order_id": UuidText},
    headers=(_LAST_EVENT_ID,),
    answers=(
        Answer(
            status=200, kind=StreamedEvent, media_types=("text/event-stream",), headers=(BUFFERING,),
            description="the events; the schema is that of one",
        ),
        Answer(status=204, description="Last-Event-ID is the last event: do not reconnect"),
    ),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
CANCEL: Final = Operation(
    method="POST", path=f"{ORDERS_PATH}/{{order_id:order}}/cancel", id="cancelOrder", tag=TAG, access=ACCESS,
    summary="Ask for an order to be cancelled; a rejection under way wins",
    parameters={"order_id": UuidText},
    key=f"a repeat gets the first answer, also once the order is cancelled. {_KEPT}",
    answers=(
        Answer(
            status=202, kind=CancelRequested, links=_LINKS[:2], example=CancelRequested(_ORDER_ID, "confirmed"),
        ),
    ),
    problems=(problem.NOT_FOUND, NOT_CANCELLABLE, problem.UNAVAILABLE),
)  # fmt: skip

CONTRACT: Final = Contract(
    "Tandem orders",
    "Places orders, and says what becomes of them. An order is accepted as soon as the log has it; payment and stock "
    "then settle it side by side. Amounts are whole numbers of minor units (cents).",
    (PLACE, LIST, PLACE_MANY, GET, STREAM, CANCEL, *asyncapi.OPERATIONS),
)
