"""The judgement of what was entered over HTTP: each deposit and each restock in the log is in its database (2, 3)."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from common.events import DEPOSITS, RESTOCKS, AccountDeposited, DepositData, ProductRestocked, RestockData
from ops.tool import chunks, statements
from ops.verify.report import Report
from ops.verify.sources.databases import Snapshot
from ops.verify.statements import MONEY, STOCK, Finding, Statement

SQL: Final = statements(__file__)
Entered = AccountDeposited | ProductRestocked
CHUNK_EVENTS: Final = 10_000


class Kind(NamedTuple):
    """What a topic has: for which database and statement, and of what."""

    database: str
    statement: Statement
    subject: str


KINDS: Final = {DEPOSITS: Kind("payment", MONEY, "account"), RESTOCKS: Kind("inventory", STOCK, "product")}


def audit(topic: str, events: Iterable[Entered], database: Snapshot, report: Report) -> None:
    """The events must have been in the log before the snapshot was taken. An entry whose key came twice is the first
    one: a client may have repeated it when the database had lost it."""
    kind, seen = KINDS[topic], set[tuple[str, str]]()
    for chunk in chunks(events, CHUNK_EVENTS):
        subjects, keys = [event.data.subject for event in chunk], [event.data.key for event in chunk]
        rows = database.query(SQL[topic], subjects=subjects, keys=keys)
        stored = {(row["subject"], row["key"]): row["entered"] for row in rows}
        for event in chunk:
            id_ = (event.data.subject, event.data.key)
            if id_ not in seen and stored.get(id_) != (entered := _text(event.data)):
                there = f"has {stored[id_]}" if id_ in stored else "has nothing"
                problem = f"{entered} are in the log under the key {event.data.key!r}, and the database {there}: it "
                problem += f"went back, or rows are gone; 'just replay {kind.database}' enters what is missing"
                report.violate(f"{kind.subject} {event.data.subject}", Finding(kind.statement, problem))
            seen.add(id_)


def _text(data: DepositData | RestockData) -> str:
    return f"{data.amount} {data.currency}" if isinstance(data, DepositData) else f"{data.quantity} pieces"
