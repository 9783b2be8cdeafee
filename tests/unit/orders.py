"""Orders and the events about them. There is no clock: the n-th event arrives at time n."""

from collections.abc import Iterable
from typing import TypeVar

from common.events import (
    DeadlineData,
    E,
    Item,
    OrderCancelled,
    OrderDeadlinePassed,
    OrderId,
    OrderPlaced,
    OrderRejected,
    OutcomeData,
    PlacedData,
    Reason,
    make,
)
from common.events import Milliseconds as At

CUSTOMER = "cust-1"

T = TypeVar("T")


def order_id(number: int) -> OrderId:
    return OrderId(f"01997c00-0000-7000-8000-{number:012x}")


def placed(
    number: int = 1,
    *,
    items: Iterable[tuple[str, int]] = (("tea", 1),),
    unit_price: int = 100,
    customer: str = CUSTOMER,
    currency: str = "EUR",
) -> OrderPlaced:
    """The order of this number was accepted."""
    lines = tuple(Item(product_id, quantity, unit_price) for product_id, quantity in items)
    amount = sum(line.quantity * line.unit_price for line in lines)
    data = PlacedData(order_id=order_id(number), customer_id=customer, items=lines, amount=amount, currency=currency)
    return make(OrderPlaced, data, at=At(0), traceparent="")


def rejected(number: int = 1, reason: Reason = "out_of_stock", customer: str = CUSTOMER) -> OrderRejected:
    return about(OrderRejected, number, reason, customer)


def cancelled(number: int = 1, reason: Reason = "customer", customer: str = CUSTOMER) -> OrderCancelled:
    return about(OrderCancelled, number, reason, customer)


def about(kind: type[E], number: int = 1, reason: Reason | None = None, customer: str = CUSTOMER) -> E:
    """An event of this kind, with nothing in it but a reason."""
    data_of = DeadlineData if kind is OrderDeadlinePassed else OutcomeData
    data = data_of(order_id=order_id(number), customer_id=customer, reason=reason)
    return make(kind, data, at=At(0), traceparent="")


def as_read(events: Iterable[T]) -> list[tuple[T, At]]:
    """The events as the log has them: each with its time."""
    return [(event, At(n)) for n, event in enumerate(events)]


def cut(events: list[T], cut_at: Iterable[int]) -> list[list[T]]:
    """The events in batches, cut at these places."""
    cuts = sorted({min(offset, len(events)) for offset in cut_at})
    return [events[start:end] for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True)]
