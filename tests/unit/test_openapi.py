"""The api answers as its description says."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from common.codec import encode
from common.events import Milliseconds, rfc3339
from order.api.openapi import document
from order.api.read.queries import _stored
from order.api.responses import OrderView
from tests.unit.orders import order_id

AT = Milliseconds(int(datetime(2026, 11, 23, tzinfo=UTC).timestamp() * 1000))


def types_of(schema: dict[str, Any]) -> set[str]:
    return {member["type"] for member in schema.get("anyOf", [schema])}


def test_an_order_discarded_unread_has_no_amount() -> None:
    row = (
        order_id(1),
        "cust-1",
        "rejected",
        "discarded",
        None,
        None,
        "[]",
        "declined",
        "rejected",
        AT,
        AT,
        AT,
        "[]",
        3,
        "",
    )
    view = _stored(row).view
    assert (view.amount, view.currency, view.placed_at) == (None, None, rfc3339(AT))
    assert msgspec.json.decode(encode(view), type=OrderView) == view
    described = document()["components"]["schemas"]["OrderView"]["properties"]
    assert types_of(described["amount"]) == {"integer", "null"}
    assert types_of(described["currency"]) == {"string", "null"}
