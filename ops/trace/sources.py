"""Reads what the databases and the log say of an order. A source that cannot be read is named, with the reason."""

import sys
from collections.abc import Mapping
from typing import Any, Final

import psycopg
from confluent_kafka import KafkaException, TopicPartition

from common.errors import TandemError, describe
from common.events import READERS
from common.kafka.broker import Partition
from ops.log import ANSWER_S, Log
from ops.tool import GROUP_OF, statements
from ops.trace.story import (
    UNREADABLE,
    Found,
    LogRecord,
    ParkedEvent,
    Row,
    concerns,
    event_named,
    partition_of,
    window,
)
from ops.verify.sources.databases import Snapshot
from ops.verify.statements import Unproven

SQL: Final = statements(__file__)
TOPICS: Final = tuple(READERS)
MARGIN_MS: Final = 10_000
"""By how much clocks may differ, and how long after the last event a repeat is still looked for."""
MANY_RECORDS: Final = 1_000_000
"""Reading as many takes seconds: worth a word."""


def find(order_id: str, urls: Mapping[str, str], servers: str) -> Found:
    """All that is known of an order."""
    found = Found()
    for database in GROUP_OF:
        try:
            with Snapshot(database, urls[database]) as snapshot:
                _read_database(order_id, snapshot, found)
        except (Unproven, psycopg.Error) as error:
            found.unread[database] = _first_line(error)
    try:
        found.records = _read_log(order_id, found, servers)
    except (KafkaException, TandemError) as error:
        found.unread["log"] = describe(error)
    return found


def _read_database(order_id: str, snapshot: Snapshot, found: Found) -> None:
    found.positions.update((reader, stored.next_offset) for reader, stored in snapshot.positions.items())
    match snapshot.database:
        case "order":
            found.order = _row(snapshot, "order", order_id=order_id)
            found.request = _row(snapshot, "requests", order_id=order_id)
        case "payment":
            found.payment = _row(snapshot, "payment", order_id=order_id)
            if found.payment is not None:
                customer_id = found.payment["customer_id"]
                found.ledger = snapshot.query(SQL["ledger"], order_id=order_id, customer_id=customer_id)
        case "inventory":
            found.reservation = _row(snapshot, "reservation", order_id=order_id)
            if found.reservation is not None and found.reservation["items"]:
                found.movements = snapshot.query(SQL["movements"], order_id=order_id)
    for row in snapshot.query(SQL["parked"], order_id=order_id):
        if concerns(bytes(row["value"]), order_id):
            found.parked.append(_parked(order_id, snapshot, row))


def _row(snapshot: Snapshot, name: str, **parameters: Any) -> Row | None:
    rows = snapshot.query(SQL[name], **parameters)
    return rows[0] if rows else None


def _parked(order_id: str, snapshot: Snapshot, row: Row) -> ParkedEvent:
    event = event_named(bytes(row["value"]), order_id)
    record = f"{row['topic']}/{row['partition']}@{row['offset']}"
    named = {name: row[name] for name in ("topic", "partition", "offset", "topic_id")}
    acts = snapshot.query(SQL["acts"], **named)
    roots = []
    if not row["root"] and row["state"] != "done":
        roots = snapshot.query(SQL["blocked_by"], key=row["key"])
    return ParkedEvent(
        service=snapshot.database,
        group=snapshot.group,
        record=record,
        event=event.type if event else UNREADABLE,
        event_id=event.id if event else record,
        root=row["root"],
        state=row["state"],
        error=row["error"],
        attempts=row["attempts"],
        record_time=row["record_time"],
        parked_at=row["parked_at"],
        blocked_by=tuple(f"{r['topic']}/{r['partition']}@{r['offset']}" for r in roots),
        acts=tuple(f"{act['act']} by {act['actor']}: {act['why']}" for act in acts),
    )


def _read_log(order_id: str, found: Found, servers: str) -> list[LogRecord]:
    log = Log(servers, "trace")
    log.wait()
    number = partition_of(found)
    bounds = {p: within for p, within in log.bounds(TOPICS).items() if number in (None, p.number)}
    start_ms, end_ms = window(order_id, found, MARGIN_MS)
    starts, ends = _offsets_at(log, bounds, start_ms), _offsets_at(log, bounds, end_ms)
    within = {
        p: (first if start_ms is None else starts[p], end if end_ms is None else ends[p])
        for p, (first, end) in bounds.items()
    }
    if (records := sum(end - first for first, end in within.values())) > MANY_RECORDS:
        print(f"trace: reading {records:,} records of the log", file=sys.stderr, flush=True)
    needle = order_id.encode()
    read = []
    for message in log.read(within):
        value = message.value() or b""
        if needle in value and concerns(value, order_id):
            at = message.timestamp()[1]
            read.append(LogRecord(message.topic() or "", message.partition() or 0, message.offset() or 0, at, value))
    return read


def _offsets_at(log: Log, bounds: Mapping[Partition, tuple[int, int]], at_ms: int | None) -> dict[Partition, int]:
    """The first offset of each partition whose record is not before this time; its end when there is none."""
    if at_ms is None:
        return {}
    consumer = log.consumer()
    try:
        asked = [TopicPartition(*partition, max(0, at_ms)) for partition in bounds]
        offsets = {Partition(a.topic, a.partition): a.offset for a in consumer.offsets_for_times(asked, ANSWER_S)}
    finally:
        consumer.close()
    return {p: end if offsets[p] < 0 else min(max(offsets[p], first), end) for p, (first, end) in bounds.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
