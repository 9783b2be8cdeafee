"""Every kind of event, by the topic that it is in."""

from hashlib import sha256
from typing import ClassVar, Final, TypeVar, get_args

from common.events.clock import rfc3339
from common.events.data import (
    DeadlineData,
    DepositData,
    OrderRef,
    OutcomeData,
    PaymentData,
    PlacedData,
    ProductData,
    RestockData,
    StockData,
)
from common.events.envelope import Event, type_of
from common.events.fields import Milliseconds, PaymentState, StockState

ORDERS: Final = "orders"
OUTCOMES: Final = "outcomes"
PAYMENTS: Final = "payments"
INVENTORY: Final = "inventory"
PRODUCTS: Final = "products"
DEPOSITS: Final = "deposits"
RESTOCKS: Final = "restocks"
ENTERED: Final = (DEPOSITS, RESTOCKS)
"""What was entered over HTTP. No service decides by it: `just replay` restores it from there, and `verify` compares it
with the databases."""


class OrderEvent(Event, frozen=True, kw_only=True):
    topic = ORDERS
    origin = "/tandem/order"


class OrderPlaced(OrderEvent, frozen=True, kw_only=True, tag="order.placed"):
    """An order was accepted, at these prices."""

    rank = 1
    data: PlacedData


class OrderDiscarded(OrderEvent, frozen=True, kw_only=True, tag="order.discarded"):
    """An `order.placed` that an operator has discarded. It replaces the parked event and is never published."""

    rank = 1
    data: OrderRef


class OrderCancelRequested(OrderEvent, frozen=True, kw_only=True, tag="order.cancel_requested"):
    """A customer asks for an order to be cancelled."""

    rank = 3
    data: OutcomeData


class OrderDeadlinePassed(OrderEvent, frozen=True, kw_only=True, tag="order.deadline_passed"):
    """Says that `deadline_ms` have passed since the order was placed; the saga judges by the broker's clock."""

    rank = 4
    data: DeadlineData


class OrderConfirmed(OrderEvent, frozen=True, kw_only=True, tag="order.confirmed"):
    """An order is paid and its pieces are reserved. No service has to do more. Older versions wrote it to `orders`."""

    rank = 5
    topic = OUTCOMES
    data: OutcomeData


class OrderRejected(OrderEvent, frozen=True, kw_only=True, tag="order.rejected"):
    """Payment or inventory refuses an order; the other side undoes its part."""

    rank = 6
    data: OutcomeData


class OrderCancelled(OrderEvent, frozen=True, kw_only=True, tag="order.cancelled"):
    """An order is cancelled, by its customer or its deadline; both sides undo their parts."""

    rank = 6
    data: OutcomeData


class PaymentEvent(Event, frozen=True, kw_only=True):
    topic = PAYMENTS
    origin = "/tandem/payment"
    state: ClassVar[PaymentState]
    data: PaymentData


class PaymentCompleted(PaymentEvent, frozen=True, kw_only=True, tag="payment.completed"):
    """The amount was captured."""

    rank = 2
    state = "completed"


class PaymentDeclined(PaymentEvent, frozen=True, kw_only=True, tag="payment.declined"):
    """Nothing was captured, and nothing will be."""

    rank = 2
    state = "declined"


class PaymentRefunded(PaymentEvent, frozen=True, kw_only=True, tag="payment.refunded"):
    """The captured amount was given back."""

    rank = 7
    state = "refunded"


class PaymentVoid(PaymentEvent, frozen=True, kw_only=True, tag="payment.void"):
    """The order was rejected or cancelled before its payment was decided. Nothing will be captured."""

    rank = 7
    state = "void"


class StockEvent(Event, frozen=True, kw_only=True):
    topic = INVENTORY
    origin = "/tandem/inventory"
    state: ClassVar[StockState]
    data: StockData


class StockReserved(StockEvent, frozen=True, kw_only=True, tag="inventory.reserved"):
    """All lines of the order are reserved."""

    rank = 2
    state = "reserved"


class StockRejected(StockEvent, frozen=True, kw_only=True, tag="inventory.rejected"):
    """Nothing is reserved of any line, and nothing will be."""

    rank = 2
    state = "rejected"


class StockReleased(StockEvent, frozen=True, kw_only=True, tag="inventory.released"):
    """The reserved pieces are back in stock."""

    rank = 7
    state = "released"


class StockVoid(StockEvent, frozen=True, kw_only=True, tag="inventory.void"):
    """The order was rejected or cancelled before its stock was decided. Nothing will be reserved."""

    rank = 7
    state = "void"


class ProductChanged(Event, frozen=True, kw_only=True, tag="product.changed"):
    """The catalogue's entry for a product. Its sequence is the product's version."""

    topic = PRODUCTS
    rank = 0
    origin = "/tandem/inventory"
    data: ProductData


class AccountDeposited(Event, frozen=True, kw_only=True, tag="account.deposited"):
    """Money was deposited in a customer's account."""

    topic = DEPOSITS
    rank = 0
    origin = "/tandem/payment"
    data: DepositData


class ProductRestocked(Event, frozen=True, kw_only=True, tag="product.restocked"):
    """Pieces of a product came into stock."""

    topic = RESTOCKS
    rank = 0
    origin = "/tandem/inventory"
    data: RestockData


Outcome = OrderConfirmed | OrderRejected | OrderCancelled
OnOrders = OrderPlaced | OrderCancelRequested | OrderDeadlinePassed | Outcome
OnPayments = PaymentCompleted | PaymentDeclined | PaymentRefunded | PaymentVoid
OnInventory = StockReserved | StockRejected | StockReleased | StockVoid
AnyOrderEvent = OnOrders | OnPayments | OnInventory

Entered = TypeVar("Entered", AccountDeposited, ProductRestocked)

PAYMENT_EVENTS: Final[dict[PaymentState, type[PaymentEvent]]] = {kind.state: kind for kind in get_args(OnPayments)}
STOCK_EVENTS: Final[dict[StockState, type[StockEvent]]] = {kind.state: kind for kind in get_args(OnInventory)}


def product_changed(data: ProductData, *, at: Milliseconds) -> ProductChanged:
    """The catalogue event for a product as it stands at `data.version`."""
    return ProductChanged(
        id=f"{data.product_id}:product.changed:{data.version}",
        source=ProductChanged.origin,
        subject=data.product_id,
        time=rfc3339(at),
        partitionkey=data.product_id,
        sequence=data.version,
        data=data,
    )


def account_deposited(data: DepositData, *, at: Milliseconds) -> AccountDeposited:
    """The event for a deposit."""
    return _entered(AccountDeposited, data, data.customer_id, at)


def product_restocked(data: RestockData, *, at: Milliseconds) -> ProductRestocked:
    """The event for a restock."""
    return _entered(ProductRestocked, data, data.product_id, at)


def _entered(kind: type[Entered], data: DepositData | RestockData, subject: str, at: Milliseconds) -> Entered:
    """A key may be too long for an id, which has its digest instead."""
    digest = sha256(data.key.encode()).hexdigest()[:32]
    return kind(
        id=f"{subject}:{type_of(kind)}:{digest}",
        source=kind.origin,
        subject=subject,
        time=rfc3339(at),
        partitionkey=subject,
        sequence=kind.rank,
        data=data,  # type: ignore[arg-type]  # that of its kind
    )


class Contradiction(Exception):
    """An event that contradicts what is known of its order. It can never be processed."""


def check_customer(order_id: str, known: str, named: str) -> None:
    """An order belongs to one customer. Raises `Contradiction` when an event names another."""
    if known != named:
        raise Contradiction(f"order {order_id} belongs to customer {known!r}, the event names {named!r}")
