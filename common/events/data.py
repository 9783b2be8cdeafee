"""What an event says, by its topic: the `data` in the envelope."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from common.events.fields import (
    AMOUNT_MAX,
    COUNT_MAX,
    ITEMS_MAX,
    KEY_CHARS_MAX,
    SEPARATOR,
    Amount,
    Currency,
    CurrencyText,
    Identifier,
    NameText,
    OrderIdText,
    Quantity,
    Reason,
    UnitPrice,
    Uuid,
)


class Item(Struct, frozen=True, gc=False):
    """One line of an order. `unit_price` is the price at acceptance, in minor units."""

    product_id: NameText
    quantity: Quantity
    unit_price: UnitPrice


class Line(Struct, frozen=True, gc=False):
    """How many pieces of a product were reserved or released."""

    product_id: NameText
    quantity: Annotated[int, Meta(ge=1, le=COUNT_MAX)]


class OrderRef(Struct, frozen=True, kw_only=True, gc=False):
    """The first fields of the data of every event about an order."""

    order_id: OrderIdText
    customer_id: NameText

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
    currency: CurrencyText

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
    currency: CurrencyText | None = None
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


class _EnteredData(Struct, frozen=True, kw_only=True):
    """What somebody has entered over HTTP. `key` is the Idempotency-Key of the request, or one that the service made:
    no two entries for the same account or product have the same. `by` is who entered it, and `known_by` how that is
    known."""

    key: Annotated[str, Meta(min_length=1, max_length=KEY_CHARS_MAX)]
    by: Annotated[str, Meta(max_length=512)]
    known_by: Literal["token", "key", "user", "anonymous"]


class DepositData(_EnteredData, frozen=True, kw_only=True):
    """Money for a customer's account, in minor units. The first deposit opens it."""

    customer_id: Identifier
    amount: Annotated[int, Meta(ge=1, le=AMOUNT_MAX, description="minor units")]
    currency: Currency

    @property
    def subject(self) -> str:
        """Whose account. It counts, and not what the envelope says, which could name another one."""
        return self.customer_id


class RestockData(_EnteredData, frozen=True, kw_only=True):
    """Pieces of a product that came into stock."""

    product_id: Identifier
    quantity: Annotated[int, Meta(ge=1, le=COUNT_MAX)]

    @property
    def subject(self) -> str:
        """The product. It counts, and not what the envelope says."""
        return self.product_id
