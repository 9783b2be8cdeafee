"""Parked events: how they are named, found and shown."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import psycopg

from common.config.env import Env
from common.errors import Fatal, describe
from common.postgres import Conn, connect
from common.terminal import printable
from ops import tool

SQL: Final = tool.statements(__file__)
_RECORD_ID: Final = re.compile(r"([a-z]+)/(\d+)@(\d+)(?:#([A-Za-z0-9+/_-]+))?")


class RecordId(NamedTuple):
    """Where the log has a record, or had it: without a `topic_id`, in the topic as it is now."""

    topic: str
    partition: int
    offset: int
    topic_id: str | None = None

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}" + (f"#{self.topic_id}" if self.topic_id else "")


def record_id(text: str) -> RecordId:
    """Read `topic/partition@offset`. Raises `argparse.ArgumentTypeError`."""
    match = _RECORD_ID.fullmatch(text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a record; write it as 'list' prints it: orders/3@17")
    return RecordId(match[1], int(match[2]), int(match[3]), match[4])


class ParkedEvent(NamedTuple):
    """A parked event that an operator has named."""

    record: RecordId
    value: bytes
    listed: RecordId
    """The record as `list` prints it."""


def connected(service: str, env: Env) -> Conn:
    """A connection to the service's database. Raises `Fatal`."""
    try:
        return connect(env.database_url(f"{service.upper()}_DATABASE_URL"), "dlq")
    except psycopg.OperationalError as error:
        raise Fatal(
            f"dlq: cannot connect to the {service} database; is it up? 'just start postgres' ({describe(error)})"
        ) from error


def find(connection: Conn, chosen: argparse.Namespace) -> list[ParkedEvent]:
    """The named records, in whatever state, and what is parked of the named customer. Raises `Fatal` when nothing was
    named, or nothing was parked from a named record."""
    everything = getattr(chosen, "all", False)
    if not (chosen.records or chosen.customer or everything):
        or_all = " or --all" if chosen.command == "redrive" else ""
        raise Fatal(f"dlq: no event is named; name records or --customer{or_all}")
    selection = {**columns_of(chosen.records), "customer": chosen.customer, "all": everything}
    rows = connection.execute(SQL["find"], selection).fetchall()
    events = [ParkedEvent(RecordId(*row[:4]), bytes(row[4]), RecordId(row[0], row[1], row[2], row[5])) for row in rows]
    parked = {event.record[:3] for event in events}
    if missing := [str(record) for record in chosen.records if record[:3] not in parked]:
        raise Fatal(f"dlq: nothing was ever parked from {', '.join(missing)}")
    return events


def columns_of(records: Sequence[RecordId]) -> dict[str, Any]:
    names = ("topics", "partitions", "offsets", "topic_ids")
    return {name: [record[i] for record in records] for i, name in enumerate(names)}


def show_list(service: str, connection: Conn, customer: str | None) -> None:
    """Print what is parked in a service, and whether it has stopped."""
    rows = connection.execute(SQL["list"], {"customer": customer}).fetchall()
    for reason, at in connection.execute(SQL["stops"]).fetchall():
        print(
            f"{service}: STOPPED since {at}: {printable(reason)}; to start it again: 'just dlq resume --service "
            f"{service} --why …'"
        )
    if not rows:
        print(f"{service}: nothing is parked")
        return
    events, customers = counted(len(rows), "event"), counted(len({row[4] for row in rows}), "customer")
    print(f"{service}: {events} of {customers} {'is' if len(rows) == 1 else 'are'} parked")
    tool.print_table(
        ("record", "customer", "as", "state", "attempts", "since", "error"),
        [
            (
                RecordId(*row[:4]),
                row[4] or "-",
                "root" if row[5] else "follower",
                *row[6:9],
                row[9],
            )
            for row in rows
        ],
    )


def show(service: str, connection: Conn, chosen: argparse.Namespace) -> None:
    """Print all that is known of parked events. Raises `Fatal`."""
    events = find(connection, chosen)
    if not events:
        print(f"{service}: nothing is parked of {printable(chosen.customer)}")
    for number, event in enumerate(events):
        if number:
            print()
        print(f"{'service':12} {service}")
        cursor = connection.execute(SQL["show"], event.record)
        for column, value in zip(cursor.description or (), cursor.fetchone() or (), strict=True):
            text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
            print(f"{column.name:12} {printable(text)}")
        for act, actor, why, at in connection.execute(SQL["acts"], (*event.record, event.record.topic_id)).fetchall():
            print(f"{'act':12} {printable(f'{act} by {actor} at {at}: {why}')}")


def counted(count: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
