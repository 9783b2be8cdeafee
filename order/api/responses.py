"""What the order api answers, as types; OpenAPI is made from them."""

from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from common.events import Item, PaymentState, Reason, StockState

Status = Literal["pending", "confirmed", "rejected", "cancelled"]


class Accepted(Struct, frozen=True):
    """The log has the order. `amount` in minor units."""

    order_id: str
    status: Literal["pending"]
    amount: int
    currency: str


class BatchResult(Struct, frozen=True, omit_defaults=True):
    """What became of a line of a batch: the order that the log has, or the problem document that says why not.

    `retry_after` is, in seconds, what the header of that name tells a single order.
    """

    line: int
    status: int
    order_id: str | UnsetType = UNSET
    idempotency_replayed: bool = False
    problem: Raw | UnsetType = UNSET
    retry_after: int | UnsetType = UNSET


class TimelineEntry(Struct, frozen=True):
    """An event of an order: when the log took it (RFC 3339), how long after the order was placed, and where it is.

    The order's own outcome is decided and published by the saga; it has a partition but no offset here.
    """

    event: str
    at: str
    after_ms: int
    partition: int
    offset: int | None


class OrderView(Struct, frozen=True, kw_only=True):
    """An order as it stands. `payment` and `inventory` are "pending" as long as that side has not answered.

    Of an order that could not be read and was given up (rejected, `discarded`), nobody knows `amount` and `currency`.
    """

    order_id: str
    customer_id: str
    status: Status
    reason: Reason | None
    amount: int | None
    currency: str | None
    items: tuple[Item, ...]
    payment: PaymentState | Literal["pending"]
    inventory: StockState | Literal["pending"]
    settled: bool
    placed_at: str
    decided_at: str | None
    settled_at: str | None
    timeline: list[TimelineEntry]


class OrderPage(Struct, frozen=True):
    """A customer's orders, newest first. `next_cursor` is null on the last page."""

    orders: list[OrderView]
    next_cursor: str | None


class CancelRequested(Struct, frozen=True):
    """The wish to cancel is in the log; `status` is how the order stood when it was made."""

    order_id: str
    status: Status
    cancel: Literal["requested"] = "requested"
