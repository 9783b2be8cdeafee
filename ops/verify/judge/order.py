"""The judgement of one order, given all that is known of it. No I/O, no clock.

Each database is a function of the records below its positions, stored in one transaction with them. So a row is held
against exactly those records. A record that its reader has not passed is no fault: the order is waiting, and is judged
again later. What lies above a position does not excuse what lies below it.
"""

from common.events import INVENTORY, ORDERS, PAYMENTS
from ops.verify.evidence.kinds import TOPIC_OF, TOPICS
from ops.verify.evidence.lines import Evidence
from ops.verify.evidence.progress import Progress
from ops.verify.judge.content import judge_content
from ops.verify.judge.states import Seen, Shape, Verdict, judge_states


def judge(evidence: Evidence, progress: Progress) -> Verdict:
    """Judge an order by all that is known of it."""
    fates = [progress.of(TOPIC_OF[r.kind], r.number, r.offset) for r in evidence.records]
    verdict = judge_states(shape_of(evidence, fates, progress))
    differing = tuple(judge_content(evidence, fates))
    return Verdict((*verdict.findings, *differing), verdict.is_waiting) if differing else verdict


def shape_of(evidence: Evidence, fates: list[str], progress: Progress) -> Shape:
    seen: dict[str, list[Seen]] = {topic: [] for topic in TOPICS}
    for record, fate in zip(evidence.records, fates, strict=True):
        seen[TOPIC_OF[record.kind]].append(Seen(record.kind, fate))
    row = evidence.orders[0] if evidence.orders else None
    payment = evidence.payments[0] if evidence.payments else None
    stock = evidence.reservations[0] if evidence.reservations else None
    number = row.partition if row else evidence.records[0].number if evidence.records else None
    entries = [entry.kind for entry in evidence.entries]
    return Shape(
        orders=tuple(seen[ORDERS]),
        payments=tuple(seen[PAYMENTS]),
        inventory=tuple(seen[INVENTORY]),
        row=(row.status, row.payment, row.inventory, row.settled) if row else None,
        payment=payment.state if payment else None,
        stock=stock.state if stock else None,
        captures=entries.count("capture"),
        refunds=entries.count("refund"),
        is_free=payment is not None and payment.amount == "0",
        trimmed=progress.trimmed(number),
        accepted=evidence.accepted,
        claims=evidence.claims,
    )
