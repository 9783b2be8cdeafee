"""`python -m ops.dead_letters list|show|redrive|discard|resume|skip`: shows parked events, and decides what
becomes of them.

    list      show all parked events, oldest first
    show      show all that is known of an event, which is named topic/partition@offset, as `list` prints it
    redrive   process events again, in order: by record, by customer, or all; always with all events parked behind them
    discard   drop events for good: an order is then decided (declined, rejected) with the reason `discarded`
    resume    let a service continue that has stopped because too many events were parked
    skip      park a record unread that a consumer cannot pass, or pass an offset at which the log has no record

A topic that was created anew has the same offsets again. Events parked from the earlier topic are listed with its id:
orders/3@17#bE1lwQ7ITZa9kXn2gU0v5A.

An act marks rows; the service itself does the rest within a second, in its batch loop (a skip: when it starts to read).
Every act is recorded with who, when and why. `--dry-run` only shows what would be marked. When the tool is killed, an
act is either done or not begun.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, get_args

import msgspec
import psycopg

from common.audit import table as audit
from common.audit.entry import Author, Entry, user_author
from common.codec import decoded
from common.config.env import Env
from common.errors import Fatal, describe
from common.events import AnyOrderEvent, OrderPlaced, type_of
from common.postgres import Conn, connect, transaction
from common.terminal import printable
from ops import tool

SQL: Final = tool.statements(__file__)
NAMED_MAX: Final = 10
"""Records that an entry of the audit names; `dead_letter_acts` has all of them."""
_RECORD_ID: Final = re.compile(r"([a-z]+)/(\d+)@(\d+)(?:#([A-Za-z0-9+/_-]+))?")


class _Typed(msgspec.Struct):
    type: str


_typed: Final = msgspec.json.Decoder(_Typed)
NEVER_DISCARDED: Final = {type_of(kind) for kind in get_args(AnyOrderEvent)} - {type_of(OrderPlaced)}


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


def find(connection: Conn, chosen: argparse.Namespace) -> list[ParkedEvent]:
    """The named records, in whatever state, and what is parked of the named customer. Raises `Fatal` when nothing was
    named, or nothing was parked from a named record."""
    everything = getattr(chosen, "all", False)
    if not (chosen.records or chosen.customer or everything):
        or_all = " or --all" if chosen.command == "redrive" else ""
        raise Fatal(f"dlq: no event is named; name records or --customer{or_all}")
    selection = {**_columns(chosen.records), "customer": chosen.customer, "all": everything}
    rows = connection.execute(SQL["find"], selection).fetchall()
    events = [ParkedEvent(RecordId(*row[:4]), bytes(row[4]), RecordId(row[0], row[1], row[2], row[5])) for row in rows]
    parked = {event.record[:3] for event in events}
    if missing := [str(record) for record in chosen.records if record[:3] not in parked]:
        raise Fatal(f"dlq: nothing was ever parked from {', '.join(missing)}")
    return events


def _columns(records: Sequence[RecordId]) -> dict[str, Any]:
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


def counted(count: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


def mark(connection: Conn, chosen: argparse.Namespace, author: Author) -> int:
    """Mark what was named and record the act, in one transaction. Returns how many events were marked."""
    with transaction(connection):
        connection.execute(SQL["lock_positions"])
        events = find(connection, chosen)
        if chosen.command == "discard":
            events = discardable(events, chosen)
        rows = connection.execute(SQL[chosen.command], _columns([event.record for event in events])).fetchall()
        if rows:
            act = {"act": chosen.command, "actor": chosen.actor, "why": chosen.why}
            records = [RecordId(*row) for row in rows]
            connection.execute(SQL["record"], act | _columns(records))
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
        connection.execute(SQL["record"], {"act": "skip", "actor": chosen.actor, "why": chosen.why} | _columns(ids))
        audit.write(connection, author, entry_of(chosen, ids, f"{counted(len(ids), 'record')} will be skipped"))
        if chosen.dry_run:
            connection.rollback()
    return len(ids)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dlq", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    everywhere, by_record, required = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    for service, text in (
        (everywhere, "only this service (default: all)"),
        (by_record, "only this service (default: all); required when records are named"),
        (required, "the service whose events these are (required)"),
    ):
        service.add_argument("--service", choices=tool.services(), help=text)
    consent = argparse.ArgumentParser(add_help=False)
    tool.add_consent(consent)
    naming = argparse.ArgumentParser(add_help=False)
    naming.add_argument(
        "records", type=record_id, nargs="*", metavar="record",
        help="topic/partition@offset, as 'list' prints it: orders/3@17",
    )  # fmt: skip
    naming.add_argument("--customer", help="all parked events of a customer")
    commands.add_parser("list", parents=[everywhere]).add_argument("--customer")
    commands.add_parser("show", parents=[by_record, naming])
    redriving = commands.add_parser("redrive", parents=[by_record, naming, consent])
    redriving.add_argument("--all", action="store_true", help="all parked events")
    commands.add_parser("discard", parents=[required, naming, consent])
    commands.add_parser("resume", parents=[everywhere, consent])
    commands.add_parser("skip", parents=[required, consent]).add_argument(
        "records", type=record_id, nargs="+", metavar="record", help="topic/partition@offset, as the log line names it"
    )
    return parser.parse_args(arguments)


def connected(service: str, env: Env) -> Conn:
    """A connection to the service's database. Raises `Fatal`."""
    try:
        return connect(env.database_url(f"{service.upper()}_DATABASE_URL"), "dlq")
    except psycopg.OperationalError as error:
        raise Fatal(
            f"dlq: cannot connect to the {service} database; is it up? 'just start postgres' ({describe(error)})"
        ) from error


def main(arguments: Sequence[str]) -> int:
    chosen = parse(arguments)
    env = Env("dlq")
    if chosen.service is None and (chosen.command in ("discard", "skip") or getattr(chosen, "records", None)):
        raise Fatal(f"dlq: the service is not named; add --service {'|'.join(tool.services())}")
    note = tool.DRY_RUN_NOTE if getattr(chosen, "dry_run", False) else ""
    for service in [chosen.service] if chosen.service else tool.services():
        with connected(service, env) as connection:
            match chosen.command:
                case "list":
                    show_list(service, connection, chosen.customer)
                case "show":
                    show(service, connection, chosen)
                case "redrive" | "discard":
                    count = mark(connection, chosen, user_author(chosen.actor))
                    marked = "marked for redrive" if chosen.command == "redrive" else "marked as discarded"
                    print(f"{service}: {counted(count, 'event')} {marked}{note}")
                case "resume":
                    count = resume(connection, chosen, user_author(chosen.actor))
                    ended = f"{counted(count, 'stop')} ended" if count else "was not stopped"
                    print(f"{service}: {ended}{note}")
                case "skip":
                    count = skip(service, connection, chosen, user_author(chosen.actor))
                    print(f"{service}: {counted(count, 'record')} will be skipped when it starts to read{note}")
                    if not chosen.dry_run:
                        print(
                            f"'just restart {tool.services()[service]}' has it start now; it then parks what is there"
                        )
    return 0


if __name__ == "__main__":
    tool.run(main)
