"""How an order gets into the log, and what it costs. Knows nothing of HTTP but a body and a traceparent.

`OrderDesk.place` is the whole of it. `order.api.place.idempotency` and `order.api.place.many` share `draft` and the
log.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from msgspec import UNSET

from common.auth.access import own
from common.auth.guard import not_in_this_name
from common.auth.principal import MERCHANT
from common.codec import encode
from common.events import Item, OrderId, OrderPlaced, PlacedData, ProductData, make, now
from common.http import problem
from common.http.problem import FieldError, Problem, ProblemError, ProblemType
from common.http.validation import decode_body
from common.kafka.produce.batch import Acknowledged
from common.tracing.ids import Sampling
from order.api.log.backlog import Backlog
from order.api.log.catalogue import Catalogue
from order.api.log.orders_log import OrdersLog
from order.api.place.ids import adopted_traceparent, new_order_id
from order.api.requests import OrderRequest, order_request_decoder
from order.api.responses import PLACED_NOTHING, Accepted

ACCESS: Final = own(MERCHANT)
"""Who may place orders, and cancel them: a customer their own, a merchant anyone's."""
CATALOGUE_UNREAD: Final = problem.unavailable(
    f"the catalogue has no product, or has not been read yet; {PLACED_NOTHING}"
)


PRICE_CHANGED: Final = ProblemType(
    code="price-changed",
    status=409,
    title="The price has changed",
    when="the order states an `expected_amount`, and costs another amount now",
    remedy="show the customer the new amount, and send the order again with it; nothing was placed",
    example="the order costs 3998 EUR now, not 3898 (minor units); it was not placed",
)


class OrderDesk:
    """Takes orders: prices them from the catalogue and puts them into the log."""

    def __init__(
        self, catalogue: Catalogue, log: OrdersLog, backlog: Backlog, recorded: Sampling | None = None
    ) -> None:
        """`recorded` says which orders are traced, if any are."""
        self._catalogue = catalogue
        self._log = log
        self._backlog = backlog
        self._recorded = recorded

    def unable(self) -> Problem | None:
        """Why no order at all can be taken now."""
        if not self._catalogue.products:
            return CATALOGUE_UNREAD
        return self._log.refusal()

    def refusal(self) -> Problem | None:
        """Why the next order is not admitted. Nearly free, so that refusing does not cost what serving needs."""
        return self.unable() or self._backlog.refusal()

    def refusal_of_many(self, orders: int) -> Problem | None:
        """Why this number of orders, which arrived together, is not admitted."""
        return self.unable() or self._backlog.refusal_of_many(orders)

    async def place(self, body: bytes, traceparent: bytes | None, customer: str | None) -> Accepted:
        """Accept an order: on return it is in the log. It must be this customer's, if one is given.

        Raises `ProblemError`.
        """
        event, sent = self.send(body, traceparent, customer)
        await self._log.acknowledged(OrderId(event.subject), event.partitionkey, sent)
        return accepted(event)

    def send(
        self, body: bytes, traceparent: bytes | None, customer: str | None
    ) -> "tuple[OrderPlaced, asyncio.Future[Acknowledged]]":
        """Send an order to the log. It is accepted once the future has its acknowledgement; see `OrdersLog.fate`.

        Raises `ProblemError`.
        """
        request = decode_body(body, order_request_decoder)
        check_name(request, customer)
        event = self.draft(request, traceparent)
        return event, self._log.send(OrderId(event.subject), event.partitionkey, encode(event))

    def draft(self, request: OrderRequest, traceparent: bytes | None) -> OrderPlaced:
        """The event that would place this order, with a new id and at current prices. Raises `ProblemError`."""
        at = now()
        order_id = new_order_id()
        data = price(request, self._catalogue.products, order_id)
        return make(OrderPlaced, data, at=at, traceparent=adopted_traceparent(traceparent, order_id, self._recorded))


def check_name(request: OrderRequest, customer: str | None) -> None:
    """Raises `ProblemError` 403 when the request must be this customer's, and is another's."""
    if customer is not None and request.customer_id != customer:
        raise ProblemError(not_in_this_name(customer, ACCESS))


def accepted(event: OrderPlaced) -> Accepted:
    """The answer to the customer once the log has the order."""
    return Accepted(event.subject, "pending", event.data.amount, event.data.currency)


def price(request: OrderRequest, products: Mapping[str, ProductData], order_id: OrderId) -> PlacedData:
    """The order at current prices. Raises `ProblemError` 422 or 409."""
    items = []
    currencies = set()
    amount = 0
    for line in request.lines:
        product = products.get(line.product_id)
        if product is None or not product.active:
            raise ProblemError(_not_orderable(request, products))
        items.append(Item(line.product_id, line.quantity, product.unit_price))
        currencies.add(product.currency)
        amount += line.quantity * product.unit_price
    if len(currencies) > 1:
        raise ProblemError(_mixed_currencies(request, products))
    currency = currencies.pop()
    if request.expected_amount is not UNSET and request.expected_amount != amount:
        raise ProblemError(_price_changed(request.expected_amount, amount, currency))
    return PlacedData(
        order_id=order_id, customer_id=request.customer_id, items=tuple(items), amount=amount, currency=currency
    )


def _not_orderable(request: OrderRequest, products: Mapping[str, ProductData]) -> Problem:
    errors = []
    for number, line in enumerate(request.lines):
        product = products.get(line.product_id)
        if product is None:
            errors.append(FieldError(request.pointer_to_product(number), f"there is no product {line.product_id!r}"))
        elif not product.active:
            errors.append(FieldError(request.pointer_to_product(number), f"{line.product_id!r} is not for sale now"))
    return problem.validation(*errors)


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
    detail = f"the order costs {amount} {currency} now, not {expected} (minor units); it was not placed"
    return Problem(PRICE_CHANGED, detail)
