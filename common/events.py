"""The events that travel between the services: one JSON document each, CloudEvents 1.0 in structured form.

Also here: which service reads and publishes which topic. `common.codec` turns bytes into these frozen Structs. Money is
integer minor units with an ISO 4217 code.

An event's `id` is derived from its subject, type and sequence, not drawn at random: a service that publishes an event
again after a crash gives it the same id, and any consumer may drop the repeat. `sequence` is fixed by the type
(`Event.rank`): the event's usual place in the life of an order. It need not rise within a partition: a result may be
published again after the outcome. A product's sequence is its version.

References: CloudEvents 1.0.2 (https://github.com/cloudevents/spec), its partitioning, sequence and distributed
tracing extensions; ISO 4217.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final, Literal, NewType, TypeVar, get_args

from msgspec import Meta, Struct

OrderId = NewType("OrderId", str)
"""A UUIDv7 in its 36-character form."""
CustomerId = NewType("CustomerId", str)
ProductId = NewType("ProductId", str)
Milliseconds = NewType("Milliseconds", int)
"""A point in time: milliseconds since the Unix epoch."""

ORDERS: Final = "orders"
PAYMENTS: Final = "payments"
INVENTORY: Final = "inventory"
PRODUCTS: Final = "products"

SAGA: Final = "order-saga"
READS: Final[Mapping[str, tuple[str, ...]]] = {
    SAGA: (ORDERS, PAYMENTS, INVENTORY),
    "payment": (ORDERS,),
    "inventory": (ORDERS,),
}
"""The topics about orders that each consumer group reads."""
READERS: Final[Mapping[str, tuple[str, ...]]] = {
    topic: tuple(group for group, topics in READS.items() if topic in topics) for topic in READS[SAGA]
}
"""The consumer groups that read each topic about orders."""

QUANTITY_MAX: Final = 10_000
ITEMS_MAX: Final = 100
UNIT_PRICE_MAX: Final = 10**9
"""Minor units. 100 items x 10,000 x 10^9 = 10^15 < 2^53: every amount is exact in JSON, everywhere."""
COUNT_MAX: Final = 2**53
"""The largest counter; exact in JSON. Without a bound, a number may have thousands of digits."""
AMOUNT_MAX: Final = ITEMS_MAX * QUANTITY_MAX * UNIT_PRICE_MAX

# `\Z`, not `$`: `$` also matches before a trailing newline.
IDENTIFIER_PATTERN: Final = r"^[A-Za-z0-9._:-]{1,64}\Z"
UUID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
_IDENTIFIER: Final = "1 to 64 of A-Z a-z 0-9 . _ : -"
_CURRENCY: Final = "ISO 4217 code"
CURRENCY_PATTERN: Final = r"^[A-Z]{3}\Z"
Identifier = Annotated[str, Meta(pattern=IDENTIFIER_PATTERN, description=_IDENTIFIER)]
Uuid = Annotated[str, Meta(pattern=UUID_PATTERN)]
Currency = Annotated[str, Meta(pattern=CURRENCY_PATTERN, description=_CURRENCY)]
Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
UnitPrice = Annotated[int, Meta(ge=0, le=UNIT_PRICE_MAX, description="minor units")]
Amount = Annotated[int, Meta(ge=0, le=AMOUNT_MAX, description="minor units")]

Attribute = Annotated[str, Meta(max_length=256)]
SEPARATOR: Final = "\udfff"
"""Separates texts that are matched together: a lone surrogate, which no decoded text contains. With a blank instead, a
name with a blank in it would pass for two."""


# `common.codec` matches all texts of an event at once: a pattern for each would take three quarters of the decoding
# time. So the types here only limit their length, and their patterns are for the document alone (`common.asyncapi`).
def _matched_by_the_codec(pattern: str, least: int, most: int, description: str) -> Meta:
    return Meta(
        min_length=least or None, max_length=most, description=description, extra_json_schema={"pattern": pattern}
    )


_Name = Annotated[str, _matched_by_the_codec(IDENTIFIER_PATTERN, 1, 64, _IDENTIFIER)]
_OrderId = Annotated[str, _matched_by_the_codec(UUID_PATTERN, 36, 36, "a UUIDv7")]
_CurrencyCode = Annotated[str, _matched_by_the_codec(CURRENCY_PATTERN, 3, 3, _CURRENCY)]
# Results repeat it: without a bound, an order that just fits into the log would have a result that does not.
_TraceParent = Annotated[str, _matched_by_the_codec(r"^[ -~]*\Z", 0, 128, "W3C trace context of the order, or empty")]

Reason = Literal[
    "insufficient_funds", "unknown_account", "currency_mismatch", "out_of_stock", "inactive", "customer", "deadline",
    "discarded",
]  # fmt: skip
PaymentState = Literal["completed", "declined", "refunded", "void"]
StockState = Literal["reserved", "rejected", "released", "void"]


class Item(Struct, frozen=True, gc=False):
    """One line of an order. `unit_price` is the price at acceptance, in minor units."""

    product_id: _Name
    quantity: Quantity
    unit_price: UnitPrice


class Line(Struct, frozen=True, gc=False):
    """How many pieces of a product were reserved or released."""

    product_id: _Name
    quantity: Annotated[int, Meta(ge=1, le=COUNT_MAX)]


class OrderRef(Struct, frozen=True, kw_only=True, gc=False):
    """The first fields of the data of every event about an order."""

    order_id: _OrderId
    customer_id: _Name

    def texts(self) -> str:
        """The texts for the codec to match."""
        return f"{self.order_id}{SEPARATOR}{self.customer_id}"


class StrictRef(OrderRef, frozen=True, kw_only=True):
    """The same, with types that check its texts: for decoding without a `TopicDecoder`."""

    order_id: Uuid
    customer_id: Identifier


class PlacedData(OrderRef, frozen=True, kw_only=True):
    """`amount` is the sum of all lines."""

    items: Annotated[tuple[Item, ...], Meta(min_length=1, max_length=ITEMS_MAX)]
    amount: Amount
    currency: _CurrencyCode

    def texts(self) -> str:
        products = SEPARATOR.join([item.product_id for item in self.items])
        return f"{self.order_id}{SEPARATOR}{self.customer_id}{SEPARATOR}${self.currency}{SEPARATOR}{products}"


class OutcomeData(OrderRef, frozen=True, kw_only=True):
    """`reason` is null for a confirmed order."""

    reason: Reason | None = None


class DeadlineData(OutcomeData, frozen=True, kw_only=True):
    """`deadline_ms` is counted from the broker's time of `order.placed`."""

    deadline_ms: Annotated[int, Meta(ge=0, le=COUNT_MAX)] = 0


class PaymentData(OrderRef, frozen=True, kw_only=True):
    """`amount` and `currency` are null when the order itself was never read, `reason` when nothing was refused or
    revoked."""

    amount: Amount | None = None
    currency: _CurrencyCode | None = None
    reason: Reason | None = None

    def texts(self) -> str:
        if self.currency is None:
            return f"{self.order_id}{SEPARATOR}{self.customer_id}"
        return f"{self.order_id}{SEPARATOR}{self.customer_id}{SEPARATOR}${self.currency}"


class StockData(OrderRef, frozen=True, kw_only=True):
    """`items` are the lines reserved or released; there are none when nothing was reserved."""

    items: tuple[Line, ...] = ()
    reason: Reason | None = None

    def texts(self) -> str:
        return SEPARATOR.join([self.order_id, self.customer_id, *[line.product_id for line in self.items]])


class ProductData(Struct, frozen=True, kw_only=True):
    """A product as it stands at `version`, which rises with every change."""

    product_id: Identifier
    name: str
    unit_price: UnitPrice
    currency: Currency
    active: bool
    version: Annotated[int, Meta(ge=1, le=COUNT_MAX)]


class Event(Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """The CloudEvents envelope. `subject` is the order, `partitionkey` the customer; for a product both are its id."""

    topic: ClassVar[str]
    rank: ClassVar[int]
    origin: ClassVar[str]

    specversion: Literal["1.0"] = "1.0"
    id: Annotated[Attribute, Meta(description="subject, type and sequence: the same when the event is published again")]
    source: Annotated[Attribute, Meta(description="the service that publishes it, /tandem/order for api and saga")]
    subject: Annotated[Attribute, Meta(description="the order's id; of product.changed, the product's")]
    time: Annotated[
        Attribute, Meta(description="RFC 3339, UTC, by the publisher's clock; the record's time is the broker's")
    ]
    partitionkey: Annotated[
        Attribute, Meta(description="the record's key: the customer; of product.changed, the product")
    ]
    traceparent: _TraceParent = ""
    sequence: Annotated[
        int, Meta(ge=0, le=COUNT_MAX, description="fixed by the type; of product.changed, the product's version")
    ]
    datacontenttype: Literal["application/json"] = "application/json"


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
    """An order is paid and its pieces are reserved."""

    rank = 5
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


class Contradiction(Exception):
    """An event that contradicts what is known of its order. It can never be processed."""


def check_customer(order_id: str, known: str, named: str) -> None:
    """An order belongs to one customer. Raises `Contradiction` when an event names another."""
    if known != named:
        raise Contradiction(f"order {order_id} belongs to customer {known!r}, the event names {named!r}")


Outcome = OrderConfirmed | OrderRejected | OrderCancelled
OnOrders = OrderPlaced | OrderCancelRequested | OrderDeadlinePassed | Outcome
OnPayments = PaymentCompleted | PaymentDeclined | PaymentRefunded | PaymentVoid
OnInventory = StockReserved | StockRejected | StockReleased | StockVoid
AnyOrderEvent = OnOrders | OnPayments | OnInventory

SENDS: Final[Mapping[str, tuple[type[Event], ...]]] = {
    "order-api": (OrderPlaced, OrderCancelRequested),
    SAGA: (*get_args(Outcome), OrderDeadlinePassed),
    "payment": get_args(OnPayments),
    "inventory": (*get_args(OnInventory), ProductChanged),
}
"""The events that each service publishes; the deadline timer is part of the saga."""
RECEIVES: Final[Mapping[str, tuple[str, ...]]] = {**READS, "order-api": (PRODUCTS,)}
"""The topics that each service reads: the catalogue without a consumer group, each instance all of it."""
PUBLISHES: Final[Mapping[str, str]] = {service: kinds[0].topic for service, kinds in SENDS.items()}
"""The topic to which each service publishes its events about orders."""

PAYMENT_EVENTS: Final[dict[PaymentState, type[PaymentEvent]]] = {kind.state: kind for kind in get_args(OnPayments)}
STOCK_EVENTS: Final[dict[StockState, type[StockEvent]]] = {kind.state: kind for kind in get_args(OnInventory)}

E = TypeVar("E", bound=Event)


def type_of(kind: type[Event] | Event) -> str:
    """The CloudEvents type: `order.placed` for `OrderPlaced`."""
    return str(kind.__struct_config__.tag)


def make(kind: type[E], data: OrderRef, *, at: Milliseconds, traceparent: str) -> E:
    """Put an order's `data` into the envelope of its `kind`. `at` becomes the event's `time`."""
    order_id = data.order_id
    return kind(
        id=f"{order_id}:{kind.__struct_config__.tag}:{kind.rank}",
        source=kind.origin,
        subject=order_id,
        time=rfc3339(at),
        partitionkey=data.customer_id,
        traceparent=traceparent,
        sequence=kind.rank,
        data=data,  # type: ignore[call-arg]  # every concrete kind declares it; `Event` itself carries none
    )


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


_second: tuple[int, str] = (-1, "")


def rfc3339(at: Milliseconds) -> str:
    """`1700000000123` as `2023-11-14T22:13:20.123Z`. The text up to the second is cached: a batch shares it."""
    global _second
    second, milli = divmod(at, 1000)
    cached, prefix = _second
    if cached != second:
        prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        _second = (second, prefix)
    return f"{prefix}{milli:03d}Z"


def now() -> Milliseconds:
    """The wall clock."""
    return Milliseconds(time.time_ns() // 1_000_000)
