"""One event of each type, as its service makes it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from common.events import (
    DeadlineData,
    DepositData,
    Event,
    Item,
    Line,
    Milliseconds,
    OrderCancelled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderDeadlinePassed,
    OrderPlaced,
    OrderRef,
    OrderRejected,
    OutcomeData,
    PaymentCompleted,
    PaymentData,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoid,
    PlacedData,
    ProductData,
    RestockData,
    StockData,
    StockRejected,
    StockReleased,
    StockReserved,
    StockVoid,
    account_deposited,
    make,
    product_changed,
    product_restocked,
)

_AT: Final = Milliseconds(int(datetime(2026, 11, 23, 4, 9, 36, 775_000, UTC).timestamp() * 1000))
_TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_ORDER: Final[dict[str, Any]] = {"order_id": "01a20698-5702-759d-bf21-11993ae5d7ab", "customer_id": "cust-000001"}
_PAID: Final[dict[str, Any]] = {"amount": 3998, "currency": "EUR"}
_LINES: Final = (Line("sku-0001", 2),)
_DATA: Final[Mapping[type[Event], OrderRef]] = {
    OrderPlaced: PlacedData(**_ORDER, items=(Item("sku-0001", 2, 1999),), **_PAID),
    OrderCancelRequested: OutcomeData(**_ORDER, reason="customer"),
    OrderDeadlinePassed: DeadlineData(**_ORDER, reason="deadline", deadline_ms=3_600_000),
    OrderConfirmed: OutcomeData(**_ORDER),
    OrderRejected: OutcomeData(**_ORDER, reason="out_of_stock"),
    OrderCancelled: OutcomeData(**_ORDER, reason="customer"),
    PaymentCompleted: PaymentData(**_ORDER, **_PAID),
    PaymentDeclined: PaymentData(**_ORDER, **_PAID, reason="insufficient_funds"),
    PaymentRefunded: PaymentData(**_ORDER, **_PAID, reason="out_of_stock"),
    PaymentVoid: PaymentData(**_ORDER, reason="customer"),
    StockReserved: StockData(**_ORDER, items=_LINES),
    StockRejected: StockData(**_ORDER, reason="out_of_stock"),
    StockReleased: StockData(**_ORDER, items=_LINES, reason="insufficient_funds"),
    StockVoid: StockData(**_ORDER, reason="customer"),
}
_PRODUCT: Final = product_changed(
    ProductData(product_id="sku-0001", name="Cup", unit_price=1999, currency="EUR", active=True, version=1), at=_AT
)
_BY: Final[dict[str, Any]] = {"key": "8e5f9a0c", "by": "shop", "known_by": "key"}
_BESIDE_ORDERS: Final[tuple[Event, ...]] = (
    _PRODUCT,
    account_deposited(DepositData(customer_id="cust-000001", amount=1000, currency="EUR", **_BY), at=_AT),
    product_restocked(RestockData(product_id="sku-0001", quantity=10, **_BY), at=_AT),
)


def example(kind: type[Event]) -> Event:
    """The example of a type. Raises `KeyError` for one that is never published."""
    for beside in _BESIDE_ORDERS:
        if kind is type(beside):
            return beside
    return make(kind, _DATA[kind], at=_AT, traceparent=_TRACEPARENT)
