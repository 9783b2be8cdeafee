"""The usual order: placed once, decided, settled, all of it read by everybody. Nearly all are, in a few courses.

Such an order need not be taken apart. Its log is one line (`evidence.Whole`), and from that line follows, to the
letter, what the three databases must hold of it. If they do, and `judge` finds nothing in that course, it is judged; in
every other case it is taken apart and judged piece by piece. That makes a million orders cheap and no check weaker.
"""

from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from common.events import READERS
from ops.verify.evidence.lines import REQUEST, TOPIC_OF, WHOLE, placed_items, total
from ops.verify.evidence.progress import ANSWERED, TOPICS, Progress, Trimmed
from ops.verify.judge.order import FINAL, INVENTORY, OUTCOMES, PAYMENT, PLACED, RANK, Seen, Shape, Side, judge_shape


class Course(NamedTuple):
    """How an order went, by the kinds of its records, and which of them say what."""

    status: str
    payment: str
    inventory: str
    paying: tuple[int, ...]
    """The records that name customer, amount and currency."""
    moving: tuple[int, ...]
    """The records that name what was reserved or released."""
    idle: tuple[int, ...]
    """The records that name nothing."""


@lru_cache(4_096)
def course_of(kinds: str) -> Course | None:
    """The course of an order with these records, those of `orders` first. None if it has not come to an end."""
    if kinds[0] != PLACED or kinds.count(PLACED) != 1:
        return None
    status = next((s for s in ("cancelled", "rejected", "confirmed") if OUTCOMES[s] in kinds), "")
    payment, inventory = _furthest(PAYMENT, kinds), _furthest(INVENTORY, kinds)
    if (status, payment, inventory) not in FINAL:
        return None
    places = range(len(kinds))
    return Course(
        status, payment, inventory,
        tuple(i for i in places if TOPIC_OF[kinds[i]] == PAYMENT.topic),
        tuple(i for i in places if kinds[i] in "SL"),
        tuple(i for i in places if kinds[i] in "JW"),
    )  # fmt: skip


def _furthest(side: Side, kinds: str) -> str:
    states = {letter: state for state, letter in side.letters.items()}
    return max((states[k] for k in kinds if k in states), key=lambda state: RANK[side.letters[state]], default="")


class Ordered(NamedTuple):
    """What follows from the items of an order as they were placed."""

    amount: str
    lines: str
    """What a reservation of it holds, as JSON."""
    said: bytes
    """The same, as inventory's events have it."""
    reserved: str
    """Its movements, each after a line break."""
    released: str


class _Line(msgspec.Struct):
    product_id: str
    quantity: int


_encode: Final = msgspec.json.Encoder().encode


@lru_cache(65_536)
def ordered(items: str) -> Ordered | None:
    """None for items that cannot be read."""
    try:
        placed = placed_items(items)
    except (msgspec.DecodeError, ValueError):
        return None
    quantities: dict[str, int] = {}
    for item in msgspec.json.decode(items, type=list[_Line]):
        quantities[item.product_id] = quantities.get(item.product_id, 0) + item.quantity
    said = _encode([_Line(product_id, quantity) for product_id, quantity in quantities.items()])
    moved = [f"{product_id}|{quantity}" for product_id, quantity in quantities.items()]
    reserved = "".join(f"\nM|reserve|{line}" for line in moved)
    released = "".join(f"\nM|release|{line}" for line in moved)
    return Ordered(str(total(placed)), said.decode(), said, reserved, released)


class _Expected(NamedTuple):
    """A course that `judge` has nothing against, and what it leaves behind."""

    course: Course
    has_lines: bool
    is_released: bool
    is_captured: bool
    is_refunded: bool


@lru_cache(4_096)
def _expected(kinds: str, is_free: bool, trimmed: Trimmed) -> _Expected | None:
    """None for a course in which something is wrong."""
    course = course_of(kinds)
    if course is None:
        return None
    captured = course.payment in ("completed", "refunded") and not is_free
    refunded = course.payment == "refunded" and not is_free
    seen: dict[str, list[Seen]] = {topic: [] for topic in TOPICS}
    for kind in kinds:
        topic = TOPIC_OF[kind]
        seen[topic].append(Seen(kind, ANSWERED * len(READERS[topic])))
    shape = Shape(
        orders=tuple(seen["orders"]),
        payments=tuple(seen["payments"]),
        inventory=tuple(seen["inventory"]),
        row=(course.status, course.payment, course.inventory, "t"),
        payment=course.payment,
        stock=course.inventory,
        captures=int(captured),
        refunds=int(refunded),
        is_free=is_free,
        trimmed=trimmed,
        accepted=False,
    )
    verdict = judge_shape(shape)
    if verdict.findings or verdict.waiting:
        return None
    lines = course.inventory in ("reserved", "released")
    return _Expected(course, lines, course.inventory == "released", captured, refunded)


def is_right(text: str, request: str | None, progress: Progress) -> bool:
    """Whether an order is a usual one, with everything as it must be. `text` is all that is known of it (`gather`),
    from its reservation to its log, `request` what is stored under its idempotency key. False does not say that
    something is wrong."""
    whole = text[text.rfind("\n") + 1 :]
    if whole[:1] != WHOLE:
        return False
    _, kinds, number, _, digest, customer, amount, currency, items = whole.split("|", 8)
    found = ordered(items)
    expected = _expected(kinds, amount == "0", progress.trimmed(int(number)))
    if found is None or expected is None or found.amount != amount:
        return False
    if request is not None and request != f"{REQUEST}|{digest}":
        return False
    course = expected.course
    paid = f"{customer}|{amount}|{currency}"
    lines = found.lines if expected.has_lines else "[]"
    moves = found.reserved if expected.has_lines else ""
    if expected.is_released:
        moves += found.released
    entries = f"\nG|capture|{paid}" if expected.is_captured else ""
    if expected.is_refunded:
        entries += f"\nG|refund|{paid}"
    return text == (
        f"R|{customer}|{course.inventory}|{lines}{moves}"
        f"\nO|{customer}|{number}|{course.status}|{course.payment}|{course.inventory}|t|||{amount}|{currency}|{items}"
        f"\nP|{customer}|{course.payment}|{amount}|{currency}{entries}"
        f"\n{whole}"
    )
