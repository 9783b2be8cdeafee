"""The requests that the order api takes, as types. Unknown fields are refused."""

import base64
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from common.events import ITEMS_MAX, UUID_PATTERN, Amount, Identifier, OrderId, Quantity
from common.http.requests import IDEMPOTENCY_KEY_CHARS_MAX
from common.http.validation import Combined
from order.api.responses import Status

_UUID: Final = re.compile(UUID_PATTERN)
_EITHER_FORM: Final = "must have either product_id and quantity, or items"


class OrderLine(Struct, frozen=True, forbid_unknown_fields=True):
    """A quantity of one product."""

    product_id: Identifier
    quantity: Quantity


class OrderRequest(Combined, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order as a customer sends it: one product, or a list of lines. `expected_amount` is in minor units."""

    forms: ClassVar = (("product_id", "quantity"), ("items",))

    customer_id: Identifier
    product_id: Identifier | UnsetType = UNSET
    quantity: Quantity | UnsetType = UNSET
    items: Annotated[tuple[OrderLine, ...], Meta(min_length=1, max_length=ITEMS_MAX)] | UnsetType = UNSET
    expected_amount: Amount | UnsetType = UNSET

    def __post_init__(self) -> None:
        listed = self.items is not UNSET
        if (self.product_id is UNSET) is not listed or (self.quantity is UNSET) is not listed:
            raise ValueError(_EITHER_FORM)

    @classmethod
    def combination_faults(cls, names: frozenset[str]) -> Iterator[tuple[str, str]]:
        """Explains what `__post_init__` refuses. See `common.http.validation.Combined`."""
        single = names & {"product_id", "quantity"}
        if "items" in names:
            for name in sorted(single):
                yield name, "must not stand beside items"
        elif not single:
            yield "", _EITHER_FORM
        else:
            for name in sorted({"product_id", "quantity"} - single):
                yield name, "is required unless there are items"

    @property
    def names(self) -> int:
        """How many names its JSON has, without repetitions. See `common.http.validation.decode_body`."""
        count = 3 if self.items is UNSET else 2 + 2 * len(self.items)
        return count if self.expected_amount is UNSET else count + 1

    @property
    def lines(self) -> tuple[OrderLine, ...]:
        """The lines as given: two of the same product stay two."""
        if self.items is not UNSET:
            return self.items
        assert self.product_id is not UNSET
        assert self.quantity is not UNSET
        return (OrderLine(self.product_id, self.quantity),)

    def pointer_to_product(self, line: int) -> str:
        """The JSON pointer to the product of line number `line` in the request."""
        return "#/product_id" if self.items is UNSET else f"#/items/{line}/product_id"


class LineRequest(OrderRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a request of many orders: an order, with or without a key of its own."""

    idempotency_key: (
        Annotated[
            str,
            Meta(
                description=f"1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters",
                extra_json_schema={"pattern": f"^[!-~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}$"},
            ),
        ]
        | UnsetType
    ) = UNSET

    @property
    def names(self) -> int:
        return super().names + (self.idempotency_key is not UNSET)


class PageRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a customer's list of orders."""

    customer_id: Identifier
    status: Status | None = None
    cursor: (
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{22}\Z", description="the next_cursor of the page before")] | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


order_request_decoder: Final = msgspec.json.Decoder(OrderRequest)
line_decoder: Final = msgspec.json.Decoder(LineRequest)


def is_order_id(value: str) -> bool:
    """Whether this could be an order's id: a UUID in its 36-character form, in lower case."""
    return _UUID.match(value) is not None


def order_id_in(value: str) -> OrderId | None:
    """The order's id that a client means by a UUID in upper or lower case (RFC 9562 §4)."""
    order_id = value.lower()
    return OrderId(order_id) if is_order_id(order_id) else None


def cursor_after(order_id: str) -> str:
    """The cursor of the page after the one that ends with this order."""
    return base64.urlsafe_b64encode(UUID(order_id).bytes).decode().rstrip("=")


def order_before(cursor: str) -> OrderId:
    """The order that a cursor stands for. Raises `ValueError` for a text that `cursor_after` never makes."""
    return OrderId(str(UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))))
