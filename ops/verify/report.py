"""The outcome of a proof: as data, as a table for people, as JSON for machines."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from common.terminal import printable, shortened
from ops.tool import CELL_CHARS, print_table
from ops.verify.statements import TEXTS, Finding, Statement

OFFENDERS_SHOWN: Final = 20
PARKED_SHOWN: Final = 20
LINE_CHARS: Final = 2_000

PROVED: Final = 0
VIOLATED: Final = 1
UNPROVEN: Final = 2


@dataclass
class Offender:
    """What breaks a statement, and everything known of it."""

    statement: Statement
    subject: str
    """`order 0199…`, `account cust-1`, `product sku-1`, `record orders/3@17`."""
    problem: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """The outcome of a proof."""

    checked: Counter[Statement] = field(default_factory=Counter)
    violations: Counter[Statement] = field(default_factory=Counter)
    unproven: Counter[Statement] = field(default_factory=Counter)
    reasons: dict[Statement, list[str]] = field(default_factory=dict)
    """Why something is unproven."""
    offenders: list[Offender] = field(default_factory=list)
    parked: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    oldest_unsettled_s: float = 0.0
    took_s: float = 0.0

    @property
    def exit_code(self) -> int:
        if self.violations.total():
            return VIOLATED
        return UNPROVEN if self.unproven.total() else PROVED

    def violate(self, subject: str, finding: Finding, details: dict[str, Any] | None = None) -> None:
        self.violations[finding.statement] += 1
        if sum(o.statement == finding.statement for o in self.offenders) < OFFENDERS_SHOWN:
            self.offenders.append(Offender(finding.statement, subject, finding.problem, details or {}))

    def doubt(self, statement: Statement, reason: str, count: int = 1) -> None:
        """Something of a statement cannot be proved."""
        self.unproven[statement] += count
        reasons = self.reasons.setdefault(statement, [])
        if reason not in reasons:
            reasons.append(reason)

    def doubt_all(self, reason: str) -> None:
        """Nothing can be proved."""
        for statement in Statement:
            self.doubt(statement, reason)

    def as_json(self) -> bytes:
        document = {
            "verdict": {PROVED: "proved", VIOLATED: "violated", UNPROVEN: "unproven"}[self.exit_code],
            "exit_code": self.exit_code,
            "statements": [
                {
                    "statement": s,
                    "text": text,
                    "checked": self.checked[s],
                    "violations": self.violations[s],
                    "unproven": self.unproven[s],
                    "reasons": self.reasons.get(s, []),
                }
                for s, (text, _) in TEXTS.items()
            ],
            "offenders": self.offenders,
            "parked": self.parked,
            "notes": self.notes,
            "records": self.records,
            "oldest_unsettled_s": round(self.oldest_unsettled_s, 3),
            "took_s": round(self.took_s, 3),
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str)

    def shown(self) -> list[Offender]:
        """The first offenders of each statement, `OFFENDERS_SHOWN` together."""
        by_statement = [[o for o in self.offenders if o.statement == s] for s in Statement]
        share = max(1, OFFENDERS_SHOWN // max(1, sum(map(bool, by_statement))))
        return [offender for offenders in by_statement for offender in offenders[:share]]

    def show(self) -> None:
        """Print it for people."""
        print_table(
            ("", "statement", "checked", "", "violations", "unproven"),
            [
                (int(s), text, self.checked[s], counted, self.violations[s], self.unproven[s])
                for s, (text, counted) in TEXTS.items()
            ],
        )
        for reason in dict.fromkeys(reason for _, reasons in sorted(self.reasons.items()) for reason in reasons):
            statements = ", ".join(str(int(s)) for s in Statement if reason in self.reasons.get(s, []))
            print(printable(f"unproven {statements}: {reason}"))
        for offender in self.shown():
            text = f"violation of {int(offender.statement)}: {offender.subject}: {offender.problem}"
            print(shortened(printable(text), LINE_CHARS))
            for name, detail in offender.details.items():
                for line in detail if isinstance(detail, list) else [detail]:
                    text = line if isinstance(line, str) else orjson.dumps(line, default=str).decode()
                    print(f"  {name}: {shortened(printable(text), LINE_CHARS)}")
        if self.parked:
            print(f"\nparked events that are not done: {len(self.parked)}; 'just dlq list' has them all")
        for row in self.parked[:PARKED_SHOWN]:
            record = f"{row['topic']}/{row['partition']}@{row['offset']}"
            customer = shortened(str(row["customer"]), CELL_CHARS)
            text = f"{row['service']}: {record} customer {customer} {row['state']}: {row['error']}"
            print(f"  {shortened(printable(text), LINE_CHARS)}")
        for note in self.notes:
            print(f"note: {note}")
        could = "not everything could" if self.checked.total() else "nothing could"
        verdict = {
            PROVED: f"proved for {self.checked[Statement.DECIDED]} orders",
            VIOLATED: f"VIOLATED: {self.violations.total()} violations",
            UNPROVEN: f"UNPROVEN: nothing wrong was found, but {could} be checked",
        }[self.exit_code]
        print(f"{verdict} ({self.records} records of the log, {self.took_s:.1f} s)")
