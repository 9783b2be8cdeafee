"""What is stored under idempotency keys, checked by itself. Against the log it is checked order by order, by `judge`.

A key whose row was deleted cannot be missed: nothing else says that an order had one. What is stored matters, because a
retry is answered from it and publishes it again.
"""

from typing import Final

import msgspec

from common.events import OrderPlaced
from ops.verify.sources.databases import Request
from order.api.place.idempotency import request_hash
from order.api.requests import OrderLine

_placed: Final = msgspec.json.Decoder(OrderPlaced)


def fault(request: Request) -> str | None:
    """What is wrong with a stored request, if anything is."""
    try:
        event = _placed.decode(request.event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"what is stored is not an order: {error}"
    data = event.data
    if {event.subject, data.order_id} != {request.order_id}:
        return f"it stands for order {request.order_id}, and what is stored would place {data.order_id}"
    if data.customer_id != request.customer_id:
        return f"it belongs to customer {request.customer_id}, and what is stored is an order of {data.customer_id}"
    lines = tuple(OrderLine(item.product_id, item.quantity) for item in data.items)
    hashes = {request_hash(data.customer_id, lines, expected) for expected in (None, data.amount)}
    if request.request_hash not in hashes:
        return "its hash is not that of the stored order: a retry would be refused, and another order answered"
    return None
