"""Reads what the databases and the log say of an order. A source that cannot be read is named, with the reason."""

import sys
from collections.abc import Mapping
from typing import Any, Final, cast

from confluent_kafka import KafkaException

from common.errors import TandemError, Transient, describe
from common.events import READERS
from ops.databases import Database, Databases, Unreadable
from ops.dead_letters.parked import RecordId
from ops.log import Log
from ops.tool import GROUP_OF, statements
from ops.trace.rows import EntryRow, MovementRow, PaymentRow, ReservationRow
from ops.trace.story import UNREADABLE, Found, LogRecord, ParkedEvent, Row, concerns, event_named, partition_of, window

SQL: Final = statements(__file__)
TOPICS: Final = tuple(READERS)
MARGIN_MS: Final = 10_000
"""By how much clocks may differ, and how long after the last event a repeat is still looked for."""
MANY_RECORDS: Final = 1_000_000
"""Reading as many takes seconds: worth a word."""


def find_stored(order_id: str, databases: Databases) -> Found:
    """What the indexes of the databases lead to: cheap enough to be read twice a second."""
    found = Found()
    for name, database in databases.items():
        try:
            _read_database(order_id, name, database, found)
        except Unreadable as error:
            found.unread[name] = describe(error.__cause__ or error)
    return found


def find(order_id: str, databases: Databases, log: Log, records_max: int | None = None) -> Found:
    """All that is known of an order. Two tables are read through, and the log from when the order was made until it
    was settled: but not if these are more than `records_max` records."""
    found = find_stored(order_id, databases)
    for name, read in (("order", _read_request), ("inventory", _read_movements)):
        if name not in found.unread:
            try:
                read(order_id, databases[name], found)
            except Unreadable as error:
                found.unread[name] = describe(error.__cause__ or error)
    try:
        found.records = _read_log(order_id, found, log, records_max)
    except (KafkaException, TandemError) as error:
        found.unread["log"] = describe(error)
    return found


def find_in_trace(order_id: str, orders: Database, most: int) -> list[str]:
    """Which orders a trace has, whose digits are those of `order_id`; of many, the newest. A trace that an order began
    has the order's own digits. Raises `Unreadable`."""
    named = {"order_id": order_id, "begins": f"00-{order_id.replace('-', '')}-"}
    return [row["order_id"] for row in orders.query(SQL["orders_in_trace"], **named, most=most)]


def _read_database(order_id: str, name: str, database: Database, found: Found) -> None:
    group = GROUP_OF[name]
    for row in database.query(SQL["positions"]):
        found.positions[group, row["topic"], row["partition"]] = row["next_offset"]
    match name:
        case "order":
            found.order = _row(database, "order", order_id)
        case "payment":
            found.payment = cast("PaymentRow | None", _row(database, "payment", order_id))
            if found.payment is not None:
                customer_id = found.payment["customer_id"]
                entries = database.query(SQL["ledger"], order_id=order_id, customer_id=customer_id)
                found.ledger = cast("list[EntryRow]", entries)
        case "inventory":
            found.reservation = cast("ReservationRow | None", _row(database, "reservation", order_id))
    found.parked += [
        _parked(order_id, name, database, row)
        for row in database.query(SQL["parked"], order_id=order_id)
        if concerns(bytes(row["value"]), order_id)
    ]


def _read_request(order_id: str, database: Database, found: Found) -> None:
    found.request = _row(database, "request", order_id)


def _read_movements(order_id: str, database: Database, found: Found) -> None:
    if found.reservation is not None and found.reservation["items"]:
        found.movements = cast("list[MovementRow]", database.query(SQL["movements"], order_id=order_id))


def _row(database: Database, name: str, order_id: str) -> Row | None:
    rows = database.query(SQL[name], order_id=order_id)
    return rows[0] if rows else None


def _parked(order_id: str, name: str, database: Database, row: Mapping[str, Any]) -> ParkedEvent:
    event = event_named(bytes(row["value"]), order_id)
    place = (row["topic"], row["partition"], row["offset"])
    named = dict(zip(("topic", "partition", "offset"), place, strict=True))
    acts = database.query(SQL["acts"], **named, topic_id=row["topic_id"])
    roots = []
    if not row["root"] and row["state"] != "done":
        roots = database.query(SQL["blocked_by"], key=row["key"])
    record = str(RecordId(*place))
    return ParkedEvent(
        service=name,
        group=GROUP_OF[name],
        record=str(RecordId(*place, row["earlier_topic"])),
        event=event.type if event else UNREADABLE,
        event_id=event.id if event else record,
        root=row["root"],
        state=row["state"],
        error=row["error"],
        attempts=row["attempts"],
        record_time=row["record_time"],
        parked_at=row["parked_at"],
        blocked_by=tuple(str(RecordId(r["topic"], r["partition"], r["offset"])) for r in roots),
        acts=tuple(f"{act['act']} by {act['actor']}: {act['why']}" for act in acts),
    )


def _read_log(order_id: str, found: Found, log: Log, records_max: int | None) -> list[LogRecord]:
    log.wait()
    number = partition_of(found)
    bounds = {p: within for p, within in log.bounds(TOPICS).items() if number in (None, p.number)}
    start_ms, end_ms = window(order_id, found, MARGIN_MS)
    starts, ends = ({} if at_ms is None else log.offsets_at(bounds, at_ms) for at_ms in (start_ms, end_ms))
    within = {
        p: (first if start_ms is None else starts[p], end if end_ms is None else ends[p])
        for p, (first, end) in bounds.items()
    }
    records = sum(end - first for first, end in within.values())
    if records_max is None and records > MANY_RECORDS:
        print(f"trace: reading {records:,} records of the log", file=sys.stderr, flush=True)
    elif records_max is not None and records > records_max:
        raise Transient(f"{records:,} records may be about it, more than {records_max:,}; 'just trace' reads them")
    needle = order_id.encode()
    read = []
    for message in log.read(within):
        value = message.value() or b""
        if needle in value and concerns(value, order_id):
            at, place = message.timestamp()[1], (message.topic() or "", message.partition() or 0, message.offset() or 0)
            read.append(LogRecord(*place, at, value, message.key()))
    return read
