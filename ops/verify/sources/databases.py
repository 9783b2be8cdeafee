"""The three databases as the auditor reads them: one snapshot of each, and how far the readers have come by them.

A snapshot is a REPEATABLE READ READ ONLY transaction of the `auditor` role. Rows of orders are streamed out part by
part, already grouped by bucket: nothing is sorted or kept, neither there nor here.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple, Self

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from common.consume.positions import Stored
from common.events import READERS, SAGA
from common.kafka.broker import Partition
from common.postgres import KEEPALIVES
from common.secrets.passwords import connect_by
from ops.tool import GROUP_OF, statements
from ops.verify.evidence.kinds import PLACED, TOPICS, TYPES
from ops.verify.evidence.lines import SEPARATOR, Evidence
from ops.verify.evidence.progress import DISCARDED, DISCARDING, HOLDERS, PARKED, REDRIVEN, GroupPartition, Progress
from ops.verify.statements import Unproven
from order.api.requests import is_order_id

CONNECT_TIMEOUT_S: Final = 5
PAGES_AT_ONCE: Final = 4_096
"""32 MB of a table: the result of one part is in PostgreSQL's memory, and in ours, for a moment."""
TABLES: Final = {"order": ("orders",), "payment": ("payments", "ledger"), "inventory": ("reservations", "movements")}
"""Where each database names orders. The first table has one row for an order."""
SQL: Final = statements(__file__)

Row = dict[str, Any]


@contextmanager
def snapshots(addresses: Mapping[str, str]) -> Iterator[list["Snapshot"]]:
    """A snapshot of each database, the order database first."""
    with ExitStack() as stack:
        yield [stack.enter_context(Snapshot(name, addresses[name])) for name in GROUP_OF]


class Request(NamedTuple):
    """What was first asked for under an idempotency key."""

    customer_id: str
    key: str
    request_hash: bytes
    order_id: str
    event: bytes


class Parked(NamedTuple):
    """What became of a parked event, and the digest of its key and value."""

    fate: str
    digest: str


def _connect(url: str) -> "psycopg.Connection[Any]":
    return psycopg.connect(
        make_conninfo(url, application_name="verify", connect_timeout=CONNECT_TIMEOUT_S, **KEEPALIVES)
    )


class Snapshot:
    """One database as it was at one moment. Every method raises `psycopg.Error` when the database goes away."""

    def __init__(self, database: str, url: str) -> None:
        self.database = database
        self.group = GROUP_OF[database]
        try:
            self._connection = connect_by(url, _connect)
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[0]
            raise Unproven(f"the {database} database cannot be reached: {reason}") from error
        self._connection.isolation_level = IsolationLevel.REPEATABLE_READ
        self._connection.read_only = True
        # The first statement takes the snapshot: the positions are of the same moment as everything that is read later.
        self.positions = {
            (self.group, topic, number): Stored(topic_id, offset)
            for topic, number, topic_id, offset in self._connection.execute(
                "SELECT topic, partition, topic_id, next_offset FROM positions"
            )
        }
        # Each statement reads a table once; the default memory would make it spill to disk.
        self._connection.execute("SET LOCAL work_mem = '64MB'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the transaction: nothing more is read of this snapshot."""
        self._connection.close()

    def query(self, statement: str, **parameters: Any) -> list[Row]:
        cursor = self._connection.cursor(row_factory=dict_row)
        return cursor.execute(statement.encode(), parameters or None).fetchall()

    def blocks(self, digits: int) -> Iterator[tuple[str, str]]:
        """The rows that name an order, by bucket: its name, which has `digits` digits, and its lines in one text."""
        for table in TABLES[self.database]:
            query = sql.SQL(SQL["blocks"]).format(line=sql.SQL(SQL[f"line_of_{table}"]), table=sql.Identifier(table))
            yield from self._by_parts(table, query, digits=digits)

    def _by_parts(self, table: str, query: str | sql.Composed, **parameters: Any) -> Iterator[Any]:
        """The rows of a query, asked of one part of the table after the other: by tuple ids from and to."""
        [[pages]] = self._connection.execute("SELECT pg_relation_size(%s) / 8192", (table,))
        for first in range(0, pages, PAGES_AT_ONCE):
            part = {"first": f"({first},0)", "end": f"({first + PAGES_AT_ONCE},0)"}
            with self._connection.cursor(binary=True) as cursor:
                yield from cursor.execute(query, {**part, **parameters})

    def lines(self, orders: Collection[str]) -> Iterator[str]:
        """A line of each row that names one of these orders."""
        for table in TABLES[self.database]:
            query = sql.SQL(SQL["rows_of"]).format(line=sql.SQL(SQL[f"line_of_{table}"]), table=sql.Identifier(table))
            for (text,) in self._connection.execute(query, (list(orders),)).fetchall():
                yield text

    def requests(self) -> Iterator[Request]:
        """What is stored under idempotency keys."""
        return map(Request._make, self._by_parts("requests", SQL["requests"]))

    def claims(self, starts: Mapping[int, int]) -> Iterator[str]:
        """The orders that were placed by a trimmed record, as their rows say. `starts` are by partition number."""
        trimmed = {"numbers": list(starts), "starts": list(starts.values())}
        return (order_id for (order_id,) in self._by_parts("orders", SQL["claims"], **trimmed))

    def settled(self, orders: Collection[str]) -> set[str]:
        """Which of these orders are settled."""
        return {row["order_id"] for row in self.query(SQL["settled"], orders=list(orders))}

    def parked(self) -> dict[GroupPartition, dict[int, Parked]]:
        """What became of every event of this log that was ever parked, by its offset."""
        parked: dict[GroupPartition, dict[int, Parked]] = {}
        for row in self.query(SQL["parked_ever"]):
            fate = PARKED
            if row["state"] in ("decided", "done"):
                given_up = DISCARDED if row["state"] == "done" else DISCARDING
                fate = given_up if row["discarded"] else REDRIVEN
            events = parked.setdefault((self.group, row["topic"], row["partition"]), {})
            events[row["offset"]] = Parked(fate, row["digest"])
        return parked

    def parked_open(self) -> list[Row]:
        """The operator's list: what is parked and not done."""
        return [{"service": self.database, **row} for row in self.query(SQL["parked_open"])]

    def skipped(self) -> set[tuple[Partition, int]]:
        """The offsets that an operator has had this service skip."""
        return {(Partition(row["topic"], row["partition"]), row["offset"]) for row in self.query(SQL["skipped"])}

    def stops(self) -> list[str]:
        """Why the service waits for an operator, if it does."""
        return [row["reason"] for row in self.query("SELECT reason FROM stops WHERE resumed_at IS NULL")]


def stored_positions(databases: Sequence[Snapshot]) -> dict[GroupPartition, Stored]:
    return {reader: stored for snapshot in databases for reader, stored in snapshot.positions.items()}


def progress_of(
    databases: Sequence[Snapshot],
    starts: Mapping[Partition, int],
    ends: Mapping[Partition, int],
    committed: Mapping[GroupPartition, int],
    published: Mapping[Partition, int],
) -> Progress:
    """`published` is where the outcomes ended before the snapshots were taken. If the order database went back, it may
    lack any of them."""
    parked: dict[GroupPartition, dict[int, str]] = {}
    for snapshot in databases:
        for reader, rows in snapshot.parked().items():
            parked[reader] = {offset: row.fate for offset, row in rows.items()}
    positions = {reader: stored.next_offset for reader, stored in stored_positions(databases).items()}
    went_back = any(committed.get(reader, 0) > at for reader, at in positions.items() if reader[0] == SAGA)
    stored_before = {(SAGA, *partition): 0 if went_back else end for partition, end in published.items()}
    return Progress(starts, ends, positions | stored_before, {**committed, **stored_before}, parked)


def skipped_by_all(databases: Sequence[Snapshot]) -> set[tuple[Partition, int]]:
    """The offsets that every reader of their topic has been had skip."""
    skipped = {snapshot.group: snapshot.skipped() for snapshot in databases}
    return {
        (partition, offset)
        for partition, offset in set().union(*skipped.values())
        if all((partition, offset) in skipped[group] for group in HOLDERS[partition.topic])
    }


def mismatches(
    stored: Mapping[GroupPartition, Stored], topic_ids: Mapping[str, str], ends: Mapping[Partition, int]
) -> list[str]:
    """Why these databases and this log do not belong together, if they do not."""
    problems = []
    for (group, topic, number), (topic_id, offset) in stored.items():
        if topic not in TOPICS:
            continue
        end = ends.get(Partition(topic, number))
        if topic_ids[topic] != topic_id:
            problems.append(f"{group} has read another topic {topic!r} ({topic_id}) than this one ({topic_ids[topic]})")
        elif end is None:
            problems.append(f"{group} has read {topic}/{number}, which does not exist")
        elif offset > end:
            problems.append(
                f"{topic}/{number} ends at offset {end}, and {group} has read up to {offset}: records are gone"
            )
    for topic, groups in READERS.items():
        partitions = sum(partition.topic == topic for partition in ends)
        for group in groups:
            count = sum(reader[:2] == (group, topic) for reader in stored)
            if count not in (0, partitions):
                problems.append(f"{group} has positions in {count} partitions of {topic}, which has {partitions}")
    return list(dict.fromkeys(problems))


def about_order(order_id: str, evidence: Evidence, progress: Progress, databases: Sequence[Snapshot]) -> dict[str, Any]:
    """Everything known of an order that breaks a statement, for the report."""
    details: dict[str, Any] = {}
    customers = {order.customer_id for order in evidence.orders} | {p.customer_id for p in evidence.payments}
    customers |= {reservation.customer_id for reservation in evidence.reservations}
    customers |= {record.content.split(SEPARATOR)[0] for record in evidence.records if record.kind == PLACED}
    for snapshot in databases:
        table = TABLES[snapshot.database][0]
        if is_order_id(order_id):
            rows = snapshot.query(SQL["row"].format(table=table), order_id=order_id)
            details[table.removesuffix("s")] = [row["row"] for row in rows] or "no row"
        for customer in sorted(customers):
            if parked := snapshot.query(SQL["parked_of"], customer_id=customer):
                details[f"parked by {snapshot.group}"] = parked
    details["ledger"] = [row._asdict() for row in evidence.entries] or "no entry"
    details["movements"] = [row._asdict() for row in evidence.movements] or "no movement"
    details["log"] = [
        {
            "event": TYPES[record.kind],
            "at": f"{record.partition}@{record.offset}",
            "says": record.content,
            "read": dict(
                zip(HOLDERS[record.partition.topic], progress.of(*record.partition, record.offset), strict=True)
            ),
        }
        for record in evidence.records
    ] or "no record"
    return details
