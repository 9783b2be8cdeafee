"""Pure: what is wrong with an order, by its rows, and how the six statements stand after each round."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from common.consume.positions import Stored
from common.events import READERS, Milliseconds
from common.kafka.broker import Partition
from ops.verify.evidence.progress import GroupPartition
from ops.verify.report import OFFENDERS_SHOWN, Report
from ops.verify.statements import DECIDED, MONEY, ONCE, OUTCOME, STOCK, TEXTS, WAITING, Finding, Statement

WRONG_MAX: Final = 1_000
SAMPLED: Final = (DECIDED, OUTCOME, ONCE)
AUDITED: Final = (MONEY, STOCK, WAITING)
LIGHT: Final[Mapping[Statement, str]] = {
    DECIDED: "The newest orders that all three services have read, at most 50 of each partition at a time; orders that "
    "nobody has decided; where the readers stand in the log. The full proof also checks all other orders.",
    MONEY: "Every account against its entries, double entry, all captures and refunds against all payments. The full "
    "proof also checks which entry belongs to which order.",
    STOCK: "Every product against its movements, all movements against all reservations. The full proof also checks "
    "which movement belongs to which order.",
    OUTCOME: "The same newest orders, once, when they settle. The full proof also checks what changes later, the lines "
    "of each order, and rows of orders that the log does not have.",
    ONCE: "The entries of the same newest orders, and those of all orders in sum. The full proof also checks the "
    "decisions in the log, and idempotency keys.",
    WAITING: "Every unsettled order and every parked event. An order may wait until its deadline. The full proof also "
    "checks that what is parked is what the log has.",
}
"""What the light proof checks of each statement, and what it leaves to the full one."""
UNDONE_PAYMENT: Final = frozenset({"declined", "refunded", "void"})
UNDONE_STOCK: Final = frozenset({"rejected", "released", "void"})

Row = Mapping[str, Any]


class Placed(NamedTuple):
    """An order as the log has it."""

    order_id: str
    customer_id: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Evidence:
    """What the databases say of an order. `parked_by` are the services that have parked its first event."""

    order: Row | None
    payment: Row | None
    entries: Mapping[str, Row]
    """The entries of the ledger, by kind."""
    reservation: Row | None
    parked_by: frozenset[str] = frozenset()

    @property
    def settled(self) -> bool:
        return bool(self.order and self.order["settled"])


def judge(placed: Placed, evidence: Evidence) -> list[Finding]:
    """What is wrong with an order that all readers have passed."""
    sides = {"order": evidence.order, "payment": evidence.payment, "inventory": evidence.reservation}
    findings = [
        Finding(DECIDED, f"the log has it, and the {service} database has no row of it")
        for service, row in sides.items()
        if row is None and service not in evidence.parked_by
    ]
    findings += [
        Finding(DECIDED, f"it belongs to {placed.customer_id}, the {service} database says {row['customer_id']}")
        for service, row in sides.items()
        if row is not None and row["customer_id"] != placed.customer_id
    ]
    if evidence.order is not None and evidence.order["partition"] != placed.partition:
        problem = f"the log has it in partition {placed.partition}, its row says {evidence.order['partition']}"
        findings.append(Finding(OUTCOME, problem))
    findings += [
        Finding(ONCE, f"the ledger has {row['entries']} entries of kind {kind} for it")
        for kind, row in evidence.entries.items()
        if row["entries"] > 1
    ]
    if evidence.settled and evidence.order and evidence.payment and evidence.reservation:
        findings += _outcome(evidence.order, evidence.payment, evidence.entries, evidence.reservation)
    return findings


def _outcome(order: Row, payment: Row, entries: Mapping[str, Row], reservation: Row) -> Iterable[Finding]:
    """What is wrong with the outcome of a settled order: confirmed means captured and reserved, all else neither."""
    status, paid, stock = order["status"], payment["state"], reservation["state"]
    net = sum(entries[kind]["amount"] * sign for kind, sign in (("capture", 1), ("refund", -1)) if kind in entries)
    if status == "confirmed":
        if (paid, stock) != ("completed", "reserved"):
            yield Finding(OUTCOME, f"it is confirmed, with payment {paid} and inventory {stock}")
        elif (payment["amount"], payment["currency"]) != (order["amount"], order["currency"]):
            yield Finding(OUTCOME, f"it is confirmed at {order['amount']}, and payment has {payment['amount']}")
        elif net != order["amount"]:
            yield Finding(OUTCOME, f"it is confirmed at {order['amount']}, and the ledger took {net}")
    else:
        if paid not in UNDONE_PAYMENT or stock not in UNDONE_STOCK:
            yield Finding(OUTCOME, f"it is {status} and settled, with payment {paid} and inventory {stock}")
        if net:
            yield Finding(OUTCOME, f"it is {status} and settled, and the ledger still has {net} of it")


def judge_sums(statement: Statement, table: str, rows: Iterable[Row], report: Report) -> None:
    """Report kinds of entries that are not as many, or not of the sum, that the decisions about all orders demand."""
    for row in rows:
        has = f"{row['entries']} entries of kind {row['kind']}, {row['amount']} in all"
        problem = f"it has {has}; the decisions about all orders demand {row['due']}, {row['due_amount']} in all"
        report.violate(table, Finding(statement, problem))
        if row["entries"] > row["due"]:
            report.violate(table, Finding(ONCE, problem))


def judge_pending(
    pending: Iterable[Row], decided: Mapping[str, Set[str]], blocked: Set[str], report: Report
) -> set[str]:
    """Report orders that no decision was made about, given what is pending though every reader has read everything, and
    the orders that each service has `decided`. Returns, as sentences, the decisions whose answers have not come: each
    may just be published, so it is in doubt only when the next audit misses it too."""
    unanswered = set()
    for row in pending:
        if row["customer_id"] in blocked:
            continue
        for name, orders in decided.items():
            if row["order_id"] not in orders:
                problem = f"every reader has read everything, and {name} has not decided it"
                report.violate(f"order {row['order_id']}", Finding(DECIDED, problem))
            elif row[name] is None:
                unanswered.add(f"order {row['order_id']}: {name} has decided it, and its answer is not in the log")
    return unanswered


def out_of_reach(positions: Mapping[GroupPartition, Stored], bounds: Mapping[Partition, tuple[int, int]]) -> list[str]:
    """Records that were deleted before their reader came to them."""
    return [
        f"{topic}/{number} begins at offset {start}, and {group} has only read up to {stored.next_offset}: "
        "records are gone"
        for (group, topic, number), stored in positions.items()
        if (start := bounds.get(Partition(topic, number), (0, 0))[0]) > stored.next_offset
    ]


def unread(positions: Mapping[GroupPartition, Stored], bounds: Mapping[Partition, tuple[int, int]]) -> list[str]:
    """Partitions with records of which a group has no position: it has not begun to read, or its rows are gone."""
    return [
        f"{group} has no position in {topic}/{number}, which has {end - start} records"
        for (topic, number), (start, end) in bounds.items()
        for group in READERS[topic]
        if end > start and (group, topic, number) not in positions
    ]


def excuse_waiting(report: Report) -> None:
    """While a reader is behind, what waits too long waits for that reader: it is unproven, and no violation."""
    for offender in [offender for offender in report.offenders if offender.statement is WAITING]:
        report.offenders.remove(offender)
        report.doubt(WAITING, f"{offender.subject}: {offender.problem}; a reader is behind")
    del report.violations[WAITING]


@dataclass
class Standing:
    """How each statement stands. Sampled statements count all that was ever checked, audited ones the last audit."""

    checked: Counter[Statement] = field(default_factory=Counter)
    proved_at: dict[Statement, Milliseconds] = field(default_factory=dict)
    """To be shown. The wall clock may jump."""
    proved_s: dict[Statement, float] = field(default_factory=dict)
    """The same by the monotonic clock, in seconds."""
    reasons: dict[Statement, list[str]] = field(default_factory=dict)
    audited: Report = field(default_factory=Report)
    wrong: dict[str, list[Finding]] = field(default_factory=dict)
    """Orders that were found wrong twice."""
    suspects: dict[str, list[Finding]] = field(default_factory=dict)
    """Orders that were found wrong once."""

    def take(self, judged: Mapping[str, Sequence[Finding]]) -> None:
        """The findings of a round, by order. What is found a second time is a violation, until it is right again."""
        for order_id, findings in judged.items():
            known = self.wrong.pop(order_id, None) or self.suspects.pop(order_id, None)
            if findings and known and len(self.wrong) < WRONG_MAX:
                self.wrong[order_id] = list(findings)
            elif findings:
                self.suspects[order_id] = list(findings)

    def looks_wrong(self, order_id: str) -> bool:
        """Whether the order was found wrong, and not right again."""
        return order_id in self.wrong or order_id in self.suspects

    def violations(self, statement: Statement) -> int:
        sampled = sum(finding.statement is statement for findings in self.wrong.values() for finding in findings)
        return sampled + self.audited.violations[statement]

    def hold(self, statements: Iterable[Statement], at: Milliseconds, clock_s: float) -> None:
        """These statements could be checked; those without a violation are proved as of this moment, which is `clock_s`
        by the monotonic clock."""
        for statement in statements:
            self.reasons.pop(statement, None)
            if reasons := self.audited.reasons.get(statement):
                self.reasons[statement] = list(reasons)
            elif not self.violations(statement):
                self.proved_at[statement] = at
                self.proved_s[statement] = clock_s

    def doubt(self, statements: Iterable[Statement], reason: str) -> None:
        for statement in statements:
            self.reasons[statement] = [reason]

    def all_proved_s(self) -> float | None:
        """The moment, by the monotonic clock, when all six were last proved, or None while one of them never was."""
        return min(self.proved_s.values()) if len(self.proved_s) == len(TEXTS) else None

    def shown(self, every_s: Mapping[Statement, float]) -> dict[str, Any]:
        """How the statements stand. `every_s` is how long each rests after it was checked."""
        statements = [
            {
                "statement": int(statement),
                "text": text,
                "light": LIGHT[statement],
                "every_s": round(every_s[statement], 1),
                "counted": counted,
                "checked": (self.audited.checked if statement in AUDITED else self.checked)[statement],
                "violations": self.violations(statement),
                "unproven": len(self.reasons.get(statement, [])),
                "proved_at": self.proved_at.get(statement),
                "reasons": self.reasons.get(statement, []),
            }
            for statement, (text, counted) in TEXTS.items()
        ]
        offenders = [
            {"statement": int(f.statement), "subject": f"order {order_id}", "problem": f.problem}
            for order_id, findings in self.wrong.items()
            for f in findings
        ] + [
            {"statement": int(o.statement), "subject": o.subject, "problem": o.problem} for o in self.audited.offenders
        ]
        unproven = self.reasons or len(self.proved_at) < len(TEXTS)
        verdict = "violated" if offenders else "unproven" if unproven else "proved"
        return {"verdict": verdict, "statements": statements, "offenders": offenders[:OFFENDERS_SHOWN]}
