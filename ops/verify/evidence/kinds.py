"""The protocol in letters: one for each type of event, and what the two sides, payment and inventory, may come to."""

from functools import lru_cache
from typing import Final, NamedTuple

from common.events import INVENTORY as INVENTORY_TOPIC
from common.events import ORDERS
from common.events import OUTCOMES as OUTCOMES_TOPIC
from common.events import PAYMENTS as PAYMENTS_TOPIC

TOPICS: Final = (ORDERS, OUTCOMES_TOPIC, PAYMENTS_TOPIC, INVENTORY_TOPIC)
KINDS: Final = {
    "order.placed": "p",
    "order.cancel_requested": "q",
    "order.deadline_passed": "t",
    "order.confirmed": "c",
    "order.rejected": "j",
    "order.cancelled": "x",
    "payment.completed": "C",
    "payment.declined": "D",
    "payment.refunded": "R",
    "payment.void": "V",
    "inventory.reserved": "S",
    "inventory.rejected": "J",
    "inventory.released": "L",
    "inventory.void": "W",
}
"""One letter for each type of event. In `orders`, a confirmation is of an older version."""
_ANNOUNCED: Final = {"order.confirmed": "k", "order.rejected": "n", "order.cancelled": "y"}
"""The same for the topic `outcomes`."""
TYPES: Final = {letter: name for name, letter in (*KINDS.items(), *_ANNOUNCED.items())}
_TOPIC_OF_PREFIX: Final = {"order": ORDERS, "payment": PAYMENTS_TOPIC, "inventory": INVENTORY_TOPIC}
TOPIC_OF: Final = {
    **{letter: _TOPIC_OF_PREFIX[name.split(".")[0]] for name, letter in KINDS.items()},
    **dict.fromkeys(_ANNOUNCED.values(), OUTCOMES_TOPIC),
}
KINDS_OF: Final = {t: {name: letter for letter, name in TYPES.items() if TOPIC_OF[letter] == t} for t in TOPICS}

PLACED: Final = "p"
CANCEL_REQUESTED: Final = "q"
DEADLINE_PASSED: Final = "t"
OUTCOMES: Final = {"confirmed": "ck", "rejected": "jn", "cancelled": "xy"}
"""Each outcome as it is in `orders` and in `outcomes`."""
ANY_OUTCOME: Final = frozenset("".join(OUTCOMES.values()))
REVOCATIONS: Final = frozenset("jx")
"""What tells the two sides to undo their parts. They read it in `orders`."""
MOVING: Final = "SL"
"""Inventory's events that name products; the others name none."""
RANK: Final = {"": 0, "C": 1, "D": 1, "R": 2, "V": 2, "S": 1, "J": 1, "L": 2, "W": 2}
"""How far a side has come: it only moves forward."""


class Side(NamedTuple):
    """Payment and inventory follow the same rules under other names."""

    name: str
    topic: str
    reader: int
    """Which letter of an `orders` record's progress is this side's."""
    good: str
    bad: str
    undone: str
    void: str = "void"

    def kind(self, state: str) -> str:
        return KINDS.get(f"{self.name}.{state}", "")


PAYMENT: Final = Side("payment", PAYMENTS_TOPIC, 1, "completed", "declined", "refunded")
INVENTORY: Final = Side("inventory", INVENTORY_TOPIC, 2, "reserved", "rejected", "released")
FINAL: Final = frozenset(
    {("confirmed", PAYMENT.good, INVENTORY.good)}
    | {
        (status, payment, stock)
        for status in ("rejected", "cancelled")
        for payment in (PAYMENT.bad, PAYMENT.undone, PAYMENT.void)
        for stock in (INVENTORY.bad, INVENTORY.undone, INVENTORY.void)
    }
)
"""The settled orders: status, payment, inventory."""


class Course(NamedTuple):
    """The outcome of an order."""

    status: str
    payment: str
    inventory: str


@lru_cache(4_096)
def course_of(kinds: str) -> Course | None:
    """The course of an order with these records, those of `orders` first. None unless it is a regular one: placed once,
    decided, settled. Nearly all orders take one of a few courses."""
    if kinds[0] != PLACED or kinds.count(PLACED) != 1:
        return None
    status = next((s for s in ("cancelled", "rejected", "confirmed") if not set(OUTCOMES[s]).isdisjoint(kinds)), "")
    course = Course(status, _furthest(PAYMENT, kinds), _furthest(INVENTORY, kinds))
    return course if course in FINAL else None


def _furthest(side: Side, kinds: str) -> str:
    furthest = max((kind for kind in kinds if TOPIC_OF[kind] == side.topic), key=RANK.__getitem__, default="")
    return TYPES[furthest].partition(".")[2] if furthest else ""
