"""The rows of the databases that belong to an order's story, as `sources.sql` reads them.

Amounts are in minor units, quantities in pieces, times in ms since the Unix epoch.
"""

from typing import Literal, TypedDict

from common.events import Milliseconds, PaymentState, Reason, StockState


class ItemRow(TypedDict):
    """A line of the order."""

    product_id: str
    quantity: int
    unit_price: int


class PaymentRow(TypedDict):
    """The decision about the order's payment, and the customer's balance now; without an account there is none."""

    customer_id: str
    state: PaymentState
    reason: Reason | None
    amount: int | None
    currency: str | None
    balance: int | None
    decided_at: Milliseconds
    revoked_at: Milliseconds | None


class EntryRow(TypedDict):
    """An entry of the ledger: the amount moves from the debited account to the credited one."""

    entry_id: int
    kind: str
    debit: str
    credit: str
    amount: int
    currency: str
    recorded_at: Milliseconds


class LineRow(TypedDict):
    """What was reserved of a product."""

    product_id: str
    quantity: int


class ReservationRow(TypedDict):
    """The decision about the order's stock."""

    customer_id: str
    state: StockState
    reason: Reason | None
    items: list[LineRow]
    decided_at: Milliseconds
    revoked_at: Milliseconds | None


class MovementRow(TypedDict):
    """Pieces that left the stock for the order, or came back from it."""

    movement_id: int
    kind: Literal["reserve", "release"]
    product_id: str
    quantity: int
    recorded_at: Milliseconds
