"""The regular course of an order: placed once, decided, settled. Nearly all orders take one of a few courses.

From the log of such an order follows, to the letter, what the three databases must hold of it.
"""

from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from ops.verify.evidence.kinds import FINAL, INVENTORY, OUTCOMES, PAYMENT, PLACED, RANK, TOPIC_OF, TYPES, Side
from ops.verify.evidence.lines import Line, decode_placed


class Course(NamedTuple):
    """What an order came to."""

    status: str
    payment: str
    inventory: str


@lru_cache(4_096)
def course_of(kinds: str) -> Course | None:
    """The course of an order with these records, those of `orders` first. None if it has not come to an end."""
    if kinds[0] != PLACED or kinds.count(PLACED) != 1:
        return None
    status = next((s for s in ("cancelled", "rejected", "confirmed") if OUTCOMES[s] in kinds), "")
    course = Course(status, _furthest(PAYMENT, kinds), _furthest(INVENTORY, kinds))
    return course if course in FINAL else None


def _furthest(side: Side, kinds: str) -> str:
    furthest = max((kind for kind in kinds if TOPIC_OF[kind] == side.topic), key=RANK.__getitem__, default="")
    return TYPES[furthest].partition(".")[2] if furthest else ""


class Ordered(NamedTuple):
    """What follows from the items of an order as they were placed."""

    amount: str
    published: bytes
    """What inventory's events say of it, as JSON."""
    reserved: str
    """The same as a reservation's row holds it, and its movements, each after a line break."""
    released: str
    """The same for a reservation that was released."""


_encode: Final = msgspec.json.Encoder().encode


@lru_cache(65_536)
def ordered(items: str) -> Ordered | None:
    """None for items that cannot be read."""
    try:
        placed = decode_placed(items)
    except (msgspec.DecodeError, ValueError):
        return None
    quantities: dict[str, int] = {}
    for item in placed:
        quantities[item.product_id] = quantities.get(item.product_id, 0) + item.quantity
    published = _encode([Line(product_id, quantity) for product_id, quantity in quantities.items()])
    moved = [f"{product_id}|{quantity}" for product_id, quantity in quantities.items()]
    reserved = published.decode() + "".join(f"\nM|reserve|{line}" for line in moved)
    released = reserved + "".join(f"\nM|release|{line}" for line in moved)
    return Ordered(str(sum(i.quantity * i.unit_price for i in placed)), published, reserved, released)
