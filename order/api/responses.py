"""The answers of the order api, as types; OpenAPI is made from them."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from common.events import Item, PaymentState, Reason, StockState
from common.http.problem import Problem
from common.http.responses import Moment, UuidText

PLACED_NOTHING: Final = "this request placed nothing, send it again"
LINE_PLACED_NOTHING: Final = "this line placed nothing, send this line again"
"""For one line of many only that line is refused: others of the same request may be in the log."""

Status = Literal["pending", "confirmed", "rejected", "cancelled"]


class Accepted(Struct, frozen=True):
    """The log has the order. `amount` in minor units."""

    order_id: UuidText
    status: Literal["pending"]
    amount: int
    currency: str


class LineResult(Struct, frozen=True, omit_defaults=True):
    """What became of one line of many: the order that the log has, or the problem document that says why not.

    `retry_after` is in seconds, like the header of that name for a single order.
    """

    line: int
    status: int
    order_id: UuidText | UnsetType = UNSET
    idempotency_replayed: bool = False
    problem: Raw | UnsetType = UNSET
    retry_after: int | UnsetType = UNSET


class TimelineEntry(Struct, frozen=True):
    """An event of an order: when the log took it (RFC 3339), how long after the order was placed, and where it is.

    The saga decides and publishes the order's outcome itself, so that has a partition but no offset here.
    """

    event: str
    at: Moment
    after_ms: int
    partition: int
    offset: int | None


class OrderView(Struct, frozen=True, kw_only=True):
    """An order as it stands. `payment` and `inventory` are "pending" until that side has answered.

    An order that was discarded because it could not be read (rejected, `discarded`) has no `amount` and `currency`.
    """

    order_id: UuidText
    customer_id: str
    status: Status
    reason: Reason | None
    amount: int | None
    currency: str | None
    items: tuple[Item, ...]
    payment: PaymentState | Literal["pending"]
    inventory: StockState | Literal["pending"]
    settled: bool
    placed_at: Moment
    decided_at: Moment | None
    settled_at: Moment | None
    timeline: list[TimelineEntry]


class StreamedEvent(Struct, frozen=True):
    """An event of the stream: an entry of the timeline by its name, or `settled` with the order."""

    id: str
    event: str
    data: Annotated[
        str,
        Meta(
            extra_json_schema={
                "contentMediaType": "application/json",
                "contentSchema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/TimelineEntry"},
                        {"$ref": "#/components/schemas/OrderView"},
                    ]
                },
            }
        ),
    ]


class OrderPage(Struct, frozen=True):
    """A customer's orders, newest first. `next_cursor` is null on the last page."""

    orders: list[OrderView]
    next_cursor: str | None


class CancelRequested(Struct, frozen=True):
    """The request to cancel is in the log; `status` is the order's at that time."""

    order_id: UuidText
    status: Status
    cancel: Literal["requested"] = "requested"


def of_line(refusal: Problem) -> Problem:
    """The refusal in the words for one line of many."""
    return msgspec.structs.replace(refusal, detail=refusal.detail.replace(PLACED_NOTHING, LINE_PLACED_NOTHING))
