"""What an operator decides about parked events, each in one transaction with the record of who did it and why."""

import argparse
from collections.abc import Sequence
from typing import Final, get_args

import msgspec

from common.audit import table as audit
from common.audit.entry import Author, Entry
from common.codec import decoded
from common.errors import Fatal
from common.events import AnyOrderEvent, OrderPlaced, type_of
from common.postgres import Conn, transaction
from ops import tool
from ops.dead_letters.parked import ParkedEvent, RecordId, columns_of, counted, find

SQL: Final = tool.statements(__file__)
NAMED_MAX: Final = 10
"""Records that an entry of the audit names; `dead_letter_acts` has all of them."""


class _Typed(msgspec.Struct):
    type: str


_typed: Final = msgspec.json.Decoder(_Typed)
NEVER_DISCARDED: Final = {type_of(kind) for kind in get_args(AnyOrderEvent)} - {type_of(OrderPlaced)}


def mark(connection: Conn, chosen: argparse.Namespace, author: Author) -> int:
    """Mark what was named and record the act, in one transaction. Returns how many events were marked."""
    with transaction(connection):
        connection.execute(SQL["lock_positions"])
        events = find(connection, chosen)
        if chosen.command == "discard":
            events = discardable(events, chosen)
        rows = connection.execute(SQL[chosen.command], columns_of([event.record for event in events])).fetchall()
        if rows:
            act = {"act": chosen.command, "actor": chosen.actor, "why": chosen.why}
            records = [RecordId(*row) for row in rows]
            connection.execute(SQL["record"], act | columns_of(records))
            audit.write(connection, author, entry_of(chosen, records, f"{counted(len(records), 'event')} marked"))
        if chosen.dry_run:
            connection.rollback()
    return len(rows)


def entry_of(chosen: argparse.Namespace, records: Sequence[RecordId], result: str) -> Entry:
    """What the audit says of an act on these records."""
    first, more = ", ".join(map(str, records[:NAMED_MAX])), len(records) - NAMED_MAX
    target = f"{first} and {more} more" if more > 0 else first
    return Entry(chosen.command, target, {"why": chosen.why}, result)


def discardable(events: Sequence[ParkedEvent], chosen: argparse.Namespace) -> list[ParkedEvent]:
    """The events that can be discarded: orders, and records that are no event at all. Everything else stays parked;
    raises `Fatal` when it was named by its record and not by its customer."""
    refused = [event for event in events if type_named(event.value) in NEVER_DISCARDED]
    for event in refused:
        why = (
            f"{event.listed} is {type_named(event.value)}: without it money or stock would stay where it does not "
            "belong; remove the cause and redrive it"
        )
        if not chosen.customer:
            raise Fatal(f"dlq: {why}")
        print(f"not discarded: {why}")
    return [event for event in events if event not in refused]


def type_named(value: bytes) -> str:
    """The type that an event names, whatever else is wrong with it; empty when it names none."""
    typed = decoded(_typed.decode, value)
    return typed.type if typed else ""


def resume(connection: Conn, chosen: argparse.Namespace, author: Author) -> int:
    """End a service's stops and record the act. Returns how many there were."""
    with transaction(connection):
        resumed = connection.execute(SQL["resume"]).rowcount
        if resumed:
            connection.execute(SQL["record_resume"], (chosen.actor, chosen.why))
            entry = Entry("resume", "the consumer", {"why": chosen.why}, f"{counted(resumed, 'stop')} ended")
            audit.write(connection, author, entry)
        if chosen.dry_run:
            connection.rollback()
    return resumed


def skip(service: str, connection: Conn, chosen: argparse.Namespace, author: Author) -> int:
    """Record that the service is to skip these records. Returns how many. Raises `Fatal` for one that it has passed or
    does not read."""
    with transaction(connection):
        rows = connection.execute(SQL["positions"]).fetchall()
        standing = {(topic, partition): (topic_id, offset) for topic, partition, topic_id, offset in rows}
        ids = []
        for record in chosen.records:
            if record[:2] not in standing:
                raise Fatal(f"dlq: {service} does not read {record.topic}/{record.partition}")
            topic_id, offset = standing[record[:2]]
            if record.topic_id not in (None, topic_id):
                raise Fatal(f"dlq: {record} is of an earlier topic, and {service} reads the one that is there now")
            if record.offset < offset:
                raise Fatal(
                    f"dlq: {service} has passed {record}, it stands at offset {offset}; if the record was parked, "
                    "'just dlq list' shows it"
                )
            ids.append(record._replace(topic_id=topic_id))
        connection.execute(SQL["record"], {"act": "skip", "actor": chosen.actor, "why": chosen.why} | columns_of(ids))
        audit.write(connection, author, entry_of(chosen, ids, f"{counted(len(ids), 'record')} will be skipped"))
        if chosen.dry_run:
            connection.rollback()
    return len(ids)
