"""The judgement of one order, given all that is known of it. No I/O, no clock.

Each database is a function of the records below its positions, stored in one transaction with them. So a row is held
against exactly those records. A record that its reader has not passed is no fault: the order is waiting, and is judged
again later. A record above a position does not excuse one below it.

An order that took a regular course, with everything as it must be, is judged by one comparison (`is_right`). Every
other order is taken apart and judged piece by piece (`judge`). That makes a million orders cheap and no check weaker.
"""

from functools import lru_cache

from ops.verify.evidence.kinds import INVENTORY, PAYMENT, TOPIC_OF, Course, course_of
from ops.verify.evidence.lines import Evidence, Tag, ordered
from ops.verify.evidence.progress import ANSWERED, HOLDERS, Progress, Trimmed
from ops.verify.judge.content import judge_content
from ops.verify.judge.states import Seen, Shape, Verdict, by_topic, judge_states


def is_right(text: str, request: str | None, progress: Progress) -> bool:
    """Whether an order took a regular course, with everything as it must be. `text` is all that is known of it
    (`gather`), from its reservation to its log, `request` what is stored under its idempotency key. False does not mean
    that something is wrong.

    The log of such an order is one line (`lines.Whole`). The databases must hold to the letter what follows from it."""
    whole = text[text.rfind("\n") + 1 :]
    if whole[:1] != Tag.WHOLE:
        return False
    _, kinds, number, _, digest, customer, amount, currency, items = whole.split("|", 8)
    placed = ordered(items)
    course = _sound_course(kinds, amount == "0", progress.trimmed(int(number)))
    if course is None or placed.amount != amount:
        return False
    if request is not None and request != f"{Tag.REQUEST}|{digest}":
        return False
    status, payment, stock = course
    reservation = "[]"
    if stock == INVENTORY.good:
        reservation = placed.reserved
    elif stock == INVENTORY.undone:
        reservation = placed.released
    paid, entries = f"{customer}|{amount}|{currency}", ""
    if payment in (PAYMENT.good, PAYMENT.undone) and amount != "0":
        entries = f"\nG|capture|{paid}"
        if payment == PAYMENT.undone:
            entries += f"\nG|refund|{paid}"
    return text == (
        f"R|{customer}|{stock}|{reservation}"
        f"\nO|{customer}|{number}|{status}|{payment}|{stock}|t|||{amount}|{currency}|{items}"
        f"\nP|{customer}|{payment}|{amount}|{currency}{entries}"
        f"\n{whole}"
    )


@lru_cache(4_096)
def _sound_course(kinds: str, is_free: bool, trimmed: Trimmed) -> Course | None:
    """The course of an order with these records. None unless it has one, and `judge_states` finds nothing wrong."""
    course = course_of(kinds)
    if course is None:
        return None
    captured = course.payment in (PAYMENT.good, PAYMENT.undone) and not is_free
    shape = Shape(
        *by_topic(Seen(kind, ANSWERED * len(HOLDERS[TOPIC_OF[kind]])) for kind in kinds),
        row=(course.status, course.payment, course.inventory, "t"),
        payment=course.payment,
        stock=course.inventory,
        captures=int(captured),
        refunds=int(captured and course.payment == PAYMENT.undone),
        is_free=is_free,
        trimmed=trimmed,
        accepted=False,
    )
    return course if judge_states(shape) == ((), False) else None


def judge(evidence: Evidence, progress: Progress) -> Verdict:
    """Judge an order by all that is known of it."""
    fates = [progress.of(TOPIC_OF[r.kind], r.number, r.offset) for r in evidence.records]
    verdict = judge_states(_shape_of(evidence, fates, progress))
    differing = tuple(dict.fromkeys(judge_content(evidence, fates)))
    return Verdict((*verdict.findings, *differing), verdict.is_waiting) if differing else verdict


def _shape_of(evidence: Evidence, fates: list[str], progress: Progress) -> Shape:
    row = evidence.orders[0] if evidence.orders else None
    payment = evidence.payments[0] if evidence.payments else None
    stock = evidence.reservations[0] if evidence.reservations else None
    number = row.partition if row else evidence.records[0].number if evidence.records else None
    entries = [entry.kind for entry in evidence.entries]
    return Shape(
        *by_topic(Seen(record.kind, fate) for record, fate in zip(evidence.records, fates, strict=True)),
        row=(row.status, row.payment, row.inventory, row.settled) if row else None,
        payment=payment.state if payment else None,
        stock=stock.state if stock else None,
        captures=entries.count("capture"),
        refunds=entries.count("refund"),
        is_free=payment is not None and payment.amount == "0",
        trimmed=progress.trimmed(number),
        accepted=evidence.accepted,
        claims=evidence.claims,
        is_discarded=row is not None and row.discarded == "t",
    )
