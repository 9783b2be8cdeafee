"""The fields of events: ids, points in time, and how long a text and how large a number may be."""

from typing import Annotated, Final, Literal, NewType

from msgspec import Meta

OrderId = NewType("OrderId", str)
"""A UUIDv7 in its 36-character form."""
CustomerId = NewType("CustomerId", str)
ProductId = NewType("ProductId", str)
Milliseconds = NewType("Milliseconds", int)
"""A point in time: milliseconds since the Unix epoch."""

QUANTITY_MAX: Final = 10_000
ITEMS_MAX: Final = 100
UNIT_PRICE_MAX: Final = 10**9
"""Minor units. 100 items x 10,000 x 10^9 = 10^15 < 2^53: every amount is exact in JSON, everywhere."""
COUNT_MAX: Final = 2**53
"""The largest counter; exact in JSON. Without a bound, a number may have thousands of digits."""
KEY_CHARS_MAX: Final = 255
"""The length of an Idempotency-Key."""
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
def matched_by_the_codec(pattern: str, least: int, most: int, description: str) -> Meta:
    return Meta(
        min_length=least or None, max_length=most, description=description, extra_json_schema={"pattern": pattern}
    )


NameText = Annotated[str, matched_by_the_codec(IDENTIFIER_PATTERN, 1, 64, _IDENTIFIER)]
OrderIdText = Annotated[str, matched_by_the_codec(UUID_PATTERN, 36, 36, "a UUIDv7")]
CurrencyText = Annotated[str, matched_by_the_codec(CURRENCY_PATTERN, 3, 3, _CURRENCY)]
# Results repeat it: without a bound, an order that just fits into the log would have a result that does not.
TraceParentText = Annotated[str, matched_by_the_codec(r"^[ -~]*\Z", 0, 128, "W3C trace context of the order, or empty")]

Reason = Literal[
    "insufficient_funds", "unknown_account", "currency_mismatch", "out_of_stock", "inactive", "customer", "deadline",
    "discarded",
]  # fmt: skip
PaymentState = Literal["completed", "declined", "refunded", "void"]
StockState = Literal["reserved", "rejected", "released", "void"]
