"""The rules of the saga: what becomes of an order. No I/O, no clock.

`advance` takes an order as stored and one event about it, and returns the order as it is to be stored together with
the events to publish. It is total: any event may arrive at any time, any number of times, in any order between the
three topics. Within one topic the events of an order arrive in order.

    awaiting_placed ──▶ pending ──▶ confirmed ──▶ cancelled (by the customer)
                           ├──────▶ rejected
                           └──────▶ cancelled (by the customer or the deadline)

Rejected and cancelled are never left. A side, payment or stock, only moves forward.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args

import msgspec
from msgspec import Struct

from common.events import (
    AnyOrderEvent,
    CustomerId,
    Event,
    Milliseconds,
    OnInventory,
    OnPayments,
    OrderCancelled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderDeadlinePassed,
    OrderDiscarded,
    OrderId,
    OrderPlaced,
    OrderRejected,
    Outcome,
    OutcomeData,
    PaymentEvent,
    PaymentState,
    Reason,
    StockEvent,
    StockState,
    check_customer,
    make,
)

Status = Literal["awaiting_placed", "pending", "confirmed", "rejected", "cancelled"]


class Order(Struct, frozen=True, gc=False):
    """What the saga has to know of an order, which is not its lines."""

    order_id: OrderId
    customer_id: CustomerId
    traceparent: str
    status: Status = "awaiting_placed"
    reason: Reason | None = None
    payment: PaymentState | None = None
    inventory: StockState | None = None
    # Why a side refused. Kept because a result may come before its order.
    payment_reason: Reason | None = None
    inventory_reason: Reason | None = None
    placed_at: Milliseconds | None = None
    decided_at: Milliseconds | None = None
    settled_at: Milliseconds | None = None


# How far a side has come. It only moves to a higher rank.
_PROGRESS: Final[dict[PaymentState | StockState | None, int]] = {
    None: 0,
    "completed": 1,
    "declined": 1,
    "reserved": 1,
    "rejected": 1,
    "refunded": 2,
    "released": 2,
    "void": 2,
}
_OUTCOME_EVENT: Final[dict[Status, type[OrderConfirmed] | type[OrderRejected] | type[OrderCancelled]]] = {
    "confirmed": OrderConfirmed,
    "rejected": OrderRejected,
    "cancelled": OrderCancelled,
}

# `isinstance` takes 0.1 us for each type of msgspec's that an event is not of: what is done for every event goes by the
# type itself.
_OUTCOMES: Final = frozenset(get_args(Outcome))


def advance(
    order: Order | None, event: AnyOrderEvent | OrderDiscarded, at: Milliseconds
) -> tuple[Order | None, list[Outcome]]:
    """Apply one event. Returns the order, the same object if nothing changed, and what to publish.

    `at` is when the log took the event in, by the broker's clock; what the event decides is decided then, so that a
    replay comes to the same row. `None` stands for an order that has no row, before and after. Raises `Contradiction`
    for an event that names another customer than the order's.
    """
    if order is not None and type(event) is not OrderDiscarded:
        check_customer(order.order_id, order.customer_id, event.data.customer_id)
    after = _apply(order, event, at)
    if after is None or after is order:
        return after, []
    after = _settle(_join(after, at), at)
    # An outcome that is read back is not published again, nor one that has not changed.
    if type(event) in _OUTCOMES or (order is not None and order.status == after.status):
        return after, []
    return after, outcome_of(after)


def _apply(order: Order | None, event: AnyOrderEvent | OrderDiscarded, at: Milliseconds) -> Order | None:
    if rule := _RULES.get(type(event)):
        return rule(order or _awaiting(event), event, at)
    # The other events follow the placed one, in the same partition. Without a row there was none.
    if order is None:
        return None
    match event:
        case OrderCancelRequested() if order.status in ("pending", "confirmed"):
            return _decided(order, "cancelled", "customer", at)
        case OrderDeadlinePassed() if order.status == "pending" and _is_due(order, event, at):
            return _decided(order, "cancelled", "deadline", at)
        case OrderConfirmed() | OrderRejected() | OrderCancelled():
            return _adopt(order, event, at)
    return order


def outcome_of(order: Order) -> list[Outcome]:
    """The event of the order's outcome, if it is decided: published on a transition, and again on a repeat."""
    kind = _OUTCOME_EVENT.get(order.status)
    if kind is None:
        return []
    data = OutcomeData(order_id=order.order_id, customer_id=order.customer_id, reason=order.reason)
    assert order.decided_at is not None
    return [make(kind, data, at=order.decided_at, traceparent=order.traceparent)]


def is_settled(order: Order) -> bool:
    """Whether both sides are final for the order's outcome."""
    if order.status == "confirmed":
        return order.payment == "completed" and order.inventory == "reserved"
    if order.status in ("rejected", "cancelled"):
        return order.payment in ("declined", "refunded", "void") and order.inventory in ("rejected", "released", "void")
    return False


def _awaiting(event: AnyOrderEvent | OrderDiscarded) -> Order:
    """A row for an order whose result came before the order itself."""
    return Order(
        order_id=OrderId(event.data.order_id),
        customer_id=CustomerId(event.data.customer_id),
        traceparent=event.traceparent,
    )


def _place(order: Order, event: OrderPlaced, at: Milliseconds) -> Order:
    if order.status != "awaiting_placed":
        return order
    return msgspec.structs.replace(
        order,
        status="pending",
        traceparent=event.traceparent,
        placed_at=at,
    )


def _discard(order: Order, _: OrderDiscarded, at: Milliseconds) -> Order:
    """Reject an order that could not be processed and was discarded."""
    if order.status != "awaiting_placed":
        return order
    return _decided(msgspec.structs.replace(order, placed_at=at), "rejected", "discarded", at)


def _payment_result(order: Order, event: PaymentEvent, _: Milliseconds) -> Order:
    if _PROGRESS[event.state] <= _PROGRESS[order.payment]:
        return order
    return msgspec.structs.replace(order, payment=event.state, payment_reason=event.data.reason)


def _stock_result(order: Order, event: StockEvent, _: Milliseconds) -> Order:
    if _PROGRESS[event.state] <= _PROGRESS[order.inventory]:
        return order
    return msgspec.structs.replace(order, inventory=event.state, inventory_reason=event.data.reason)


_RULES: Final[Mapping[type[Event], Callable[[Order, Any, Milliseconds], Order]]] = {
    OrderPlaced: _place,
    OrderDiscarded: _discard,
    **dict.fromkeys(get_args(OnPayments), _payment_result),
    **dict.fromkeys(get_args(OnInventory), _stock_result),
}
"""What each event does to its order, which may have no row yet."""


def _join(order: Order, at: Milliseconds) -> Order:
    """Decide a pending order from its two sides, as soon as they allow it."""
    if order.status != "pending":
        return order
    if order.payment == "declined":
        return _decided(order, "rejected", order.payment_reason, at)
    if order.inventory == "rejected":
        return _decided(order, "rejected", order.inventory_reason, at)
    if order.payment == "completed" and order.inventory == "reserved":
        return _decided(order, "confirmed", None, at)
    # If a side is void, refunded or released, it has read an outcome that this row lacks (a restored database). The
    # outcome follows in the log, and `_adopt` takes it.
    return order


def _is_due(order: Order, event: OrderDeadlinePassed, at: Milliseconds) -> bool:
    """Whether the deadline has passed by the broker's clock, which stamped both events: the timer's may be wrong."""
    return order.placed_at is not None and at - order.placed_at >= event.data.deadline_ms


def _adopt(order: Order, event: Outcome, at: Milliseconds) -> Order:
    """Take over an outcome that was published. It differs from the row only after the database was restored from a
    backup."""
    match event:
        case OrderConfirmed() if order.status == "pending":
            return _decided(order, "confirmed", None, at)
        case OrderRejected() if order.status in ("pending", "confirmed"):
            return _decided(order, "rejected", event.data.reason, at)
        case OrderCancelled() if order.status in ("pending", "confirmed"):
            return _decided(order, "cancelled", event.data.reason, at)
    return order


def _decided(order: Order, status: Status, reason: Reason | None, at: Milliseconds) -> Order:
    return msgspec.structs.replace(order, status=status, reason=reason, decided_at=at)


def _settle(order: Order, at: Milliseconds) -> Order:
    """Note when the order became settled; a confirmed order that is cancelled opens again."""
    if not is_settled(order):
        return order if order.settled_at is None else msgspec.structs.replace(order, settled_at=None)
    return order if order.settled_at is not None else msgspec.structs.replace(order, settled_at=at)
