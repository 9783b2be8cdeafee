"""The fast path: an order that took a regular course, with everything as it must be, is judged by one comparison.

Its log is one line (`lines.Whole`). If `judge_states` finds nothing in that course, and the databases hold to the
letter what follows from the line, the order is right. Every other order is taken apart and judged piece by piece. That
makes a million orders cheap and no check weaker.
"""

from functools import lru_cache
from typing import NamedTuple

from common.events import INVENTORY, ORDERS, PAYMENTS, READERS
from ops.verify.evidence.course import Course, course_of, ordered
from ops.verify.evidence.kinds import TOPIC_OF, TOPICS
from ops.verify.evidence.lines import Tag
from ops.verify.evidence.progress import ANSWERED, Progress, Trimmed
from ops.verify.judge.states import Seen, Shape, judge_states


class _Expected(NamedTuple):
    """A course that `judge_states` has nothing against, and what it leaves behind."""

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
        orders=tuple(seen[ORDERS]),
        payments=tuple(seen[PAYMENTS]),
        inventory=tuple(seen[INVENTORY]),
        row=(course.status, course.payment, course.inventory, "t"),
        payment=course.payment,
        stock=course.inventory,
        captures=int(captured),
        refunds=int(refunded),
        is_free=is_free,
        trimmed=trimmed,
        accepted=False,
    )
    if judge_states(shape) != ((), False):
        return None
    has_lines = course.inventory in ("reserved", "released")
    return _Expected(course, has_lines, course.inventory == "released", captured, refunded)


def is_right(text: str, request: str | None, progress: Progress) -> bool:
    """Whether an order took a regular course, with everything as it must be. `text` is all that is known of it
    (`gather`), from its reservation to its log, `request` what is stored under its idempotency key. False does not mean
    that something is wrong."""
    whole = text[text.rfind("\n") + 1 :]
    if whole[:1] != Tag.WHOLE:
        return False
    _, kinds, number, _, digest, customer, amount, currency, items = whole.split("|", 8)
    placed = ordered(items)
    expected = _expected(kinds, amount == "0", progress.trimmed(int(number)))
    if placed is None or expected is None or placed.amount != amount:
        return False
    if request is not None and request != f"{Tag.REQUEST}|{digest}":
        return False
    course = expected.course
    paid = f"{customer}|{amount}|{currency}"
    lines = placed.lines if expected.has_lines else "[]"
    moves = placed.reserved if expected.has_lines else ""
    if expected.is_released:
        moves += placed.released
    entries = f"\nG|capture|{paid}" if expected.is_captured else ""
    if expected.is_refunded:
        entries += f"\nG|refund|{paid}"
    return text == (
        f"R|{customer}|{course.inventory}|{lines}{moves}"
        f"\nO|{customer}|{number}|{course.status}|{course.payment}|{course.inventory}|t|||{amount}|{currency}|{items}"
        f"\nP|{customer}|{course.payment}|{amount}|{currency}{entries}"
        f"\n{whole}"
    )
