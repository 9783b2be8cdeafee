"""`python -m ops.dead_letters list|show|redrive|discard|resume`: what is parked, and what becomes of it.

    list      what is parked, oldest first
    show      events with all that is known of them: a place is written topic/partition@offset, as `list` prints it
    redrive   take events again, in order: by place, by customer, or all; always with all that is parked behind them
    discard   give events up: an order is then decided (declined, rejected) with the reason `discarded`
    resume    let a service go on that has stopped because too much was parked

A topic that was made anew has the same places again. What is parked of the one before is listed, and named, with that
topic's id behind the place: orders/3@17#bE1lwQ7ITZa9kXn2gU0v5A.

An act marks rows; the service itself does the rest within a second, in its batch loop. Every act is recorded with who,
when and why. `--dry-run` says what would be marked. Being killed half-way leaves a thing done or not begun.
"""

import argparse
import getpass
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, get_args

import msgspec
import psycopg

from common.config import Env
from common.errors import Fatal
from common.events import AnyOrderEvent, OrderPlaced, type_of
from common.postgres import Conn, connect, transaction
from ops.topics import table

SERVICES: Final = ("payment", "inventory", "order")
PLACE_HELP: Final = "topic/partition@offset, as 'list' prints it: orders/3@17"
WHICH: Final = "name places or --customer"
ERROR_CHARS_SHOWN: Final = 60
_PLACE: Final = re.compile(r"([a-z]+)/(\d+)@(\d+)(?:#([A-Za-z0-9_-]+))?")


class _Typed(msgspec.Struct):
    type: str


_typed: Final = msgspec.json.Decoder(_Typed)
OURS: Final = frozenset(type_of(kind) for kind in get_args(AnyOrderEvent))


class Place(NamedTuple):
    """Where the log has an event, or had it: without a `topic_id`, in the topic as it is now."""

    topic: str
    partition: int
    offset: int
    topic_id: str | None = None

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}" + (f"#{self.topic_id}" if self.topic_id else "")


def place(text: str) -> Place:
    """Read `topic/partition@offset`. Raises `argparse.ArgumentTypeError`."""
    found = _PLACE.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a place; write it as 'list' prints it: orders/3@17")
    return Place(found[1], int(found[2]), int(found[3]), found[4])


# The topic as it is now is the one that the service reads.
_LIST: Final = """
    SELECT topic, partition, "offset", nullif(row.topic_id, positions.topic_id), encode(key, 'escape'), root, state,
      attempts, to_char(parked_at, 'YYYY-MM-DD HH24:MI:SS'), error
    FROM parked_events AS row LEFT JOIN positions USING (topic, partition)
    WHERE state <> 'done' AND (%(customer)s::text IS NULL OR key = convert_to(%(customer)s, 'UTF8'))
    ORDER BY row.record_time, topic, partition, "offset"
"""
_STOPS: Final = "SELECT reason, to_char(stopped_at, 'YYYY-MM-DD HH24:MI:SS') FROM stops WHERE resumed_at IS NULL"
# With the positions locked no batch can park an event behind these while they are being marked.
_LOCK_POSITIONS: Final = "SELECT FROM positions ORDER BY topic, partition FOR UPDATE"
_FIND: Final = """
    SELECT topic, partition, "offset", row.topic_id, value, state FROM parked_events AS row
    LEFT JOIN positions USING (topic, partition)
    WHERE %(all)s AND state = 'parked' OR key = convert_to(%(customer)s, 'UTF8') AND state = 'parked'
      OR (topic, partition, "offset", row.topic_id) IN (
        SELECT n.topic, n.partition, n."offset", coalesce(n.topic_id, positions.topic_id, row.topic_id)
        FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[], %(topic_ids)s::text[])
          AS n(topic, partition, "offset", topic_id))
    ORDER BY row.record_time, topic, partition, "offset"
"""
_THESE: Final = """
    SELECT * FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[], %(topic_ids)s::text[])
"""
_SHOW: Final = f"""
    SELECT topic, partition, "offset", topic_id, key, value, headers, record_time, root, error, state, parked_at,
      attempts
    FROM parked_events WHERE (topic, partition, "offset", topic_id) IN ({_THESE})
"""  # noqa: S608 - a statement of ours
_ACTS: Final = """
    SELECT act, actor, why, acted_at FROM dead_letter_acts
    WHERE topic = %s AND partition = %s AND "offset" = %s AND coalesce(topic_id, %s) = %s ORDER BY act_id
"""
# All that is parked of a customer goes together, or the later events would wait for ever behind nothing.
_MARK_REDRIVE: Final = f"""
    WITH named AS (SELECT * FROM parked_events WHERE (topic, partition, "offset", topic_id) IN ({_THESE}))
    UPDATE parked_events AS row SET state = 'redrive'
    WHERE state = 'parked' AND (
      key IN (SELECT key FROM named)
      OR (topic, partition, "offset", topic_id) IN (SELECT topic, partition, "offset", topic_id FROM named))
    RETURNING topic, partition, "offset", topic_id
"""  # noqa: S608 - a statement of ours
_MARK_DISCARD: Final = f"""
    UPDATE parked_events SET state = 'discard', given_up = true
    WHERE state = 'parked' AND (topic, partition, "offset", topic_id) IN ({_THESE})
    RETURNING topic, partition, "offset", topic_id
"""  # noqa: S608 - a statement of ours
_RECORD: Final = """
    INSERT INTO dead_letter_acts (act, topic, partition, "offset", topic_id, actor, why)
    SELECT %s, topic, partition, o, topic_id, %s, %s
    FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::text[]) AS row(topic, partition, o, topic_id)
"""
_RESUME: Final = "UPDATE stops SET resumed_at = now() WHERE resumed_at IS NULL"
_RECORD_RESUME: Final = "INSERT INTO dead_letter_acts (act, actor, why) VALUES ('resume', %s, %s)"


class Found(NamedTuple):
    """A parked event that an operator has named."""

    place: Place
    value: bytes
    state: str


def find(connection: Conn, chosen: argparse.Namespace) -> list[Found]:
    """What was named: the places, in whatever state, and what is parked of the customer. Raises `Fatal` when nothing
    was named, or a place holds nothing."""
    customer, everything = chosen.customer, getattr(chosen, "all", False)
    if not (chosen.places or customer or everything):
        raise Fatal(f"dlq: {chosen.command} what? {WHICH}" + (" or --all" if chosen.command == "redrive" else ""))
    wanted = {**_columns(chosen.places), "customer": customer, "all": everything}
    rows = connection.execute(_FIND, wanted).fetchall()
    found = [Found(Place(*row[:4]), bytes(row[4]), row[5]) for row in rows]
    here = {f.place[:3] for f in found}
    if missing := [str(p) for p in chosen.places if p[:3] not in here]:
        raise Fatal(f"dlq: nothing was ever parked from {', '.join(missing)}")
    return found


def _columns(places: Sequence[Place]) -> dict[str, Any]:
    return {
        "topics": [p.topic for p in places],
        "partitions": [p.partition for p in places],
        "offsets": [p.offset for p in places],
        "topic_ids": [p.topic_id for p in places],
    }


def show_list(service: str, connection: Conn, customer: str | None) -> None:
    """Print what is parked in a service, and whether it has stopped."""
    rows = connection.execute(_LIST, {"customer": customer}).fetchall()
    for reason, at in connection.execute(_STOPS).fetchall():
        print(f"{service}: STOPPED since {at}: {reason}; 'just dlq resume --service {service} --why …' lets it go on")
    if not rows:
        print(f"{service}: nothing is parked")
        return
    print(f"{service}: {len(rows)} events of {len({row[4] for row in rows})} customers are parked")
    table(
        ("place", "customer", "as", "state", "attempts", "since", "error"),
        [
            (Place(*row[:4]), row[4] or "-", "root" if row[5] else "follower", *row[6:9], row[9][:ERROR_CHARS_SHOWN])
            for row in rows
        ],
    )


def show(service: str, connection: Conn, chosen: argparse.Namespace) -> None:
    """Print all that is known of parked events. Raises `Fatal`."""
    events = find(connection, chosen)
    if not events:
        print(f"{service}: nothing is parked of {chosen.customer}")
    for found in events:
        print(f"{'service':12} {service}")
        cursor = connection.execute(_SHOW, _columns([found.place]))
        for column, value in zip(cursor.description or (), cursor.fetchone() or (), strict=True):
            print(f"{column.name:12} {value.decode(errors='backslashreplace') if isinstance(value, bytes) else value}")
        topic_id = found.place.topic_id
        for act, actor, why, at in connection.execute(_ACTS, (*found.place, topic_id)).fetchall():
            print(f"{'act':12} {act} by {actor} at {at}: {why}")


def mark(connection: Conn, statement: str, chosen: argparse.Namespace) -> int:
    """Mark what was named and record the act, in one transaction; returns how many were marked."""
    with transaction(connection):
        connection.execute(_LOCK_POSITIONS)
        found = find(connection, chosen)
        if chosen.command == "discard":
            found = discardable(found, chosen)
        rows = connection.execute(statement, _columns([f.place for f in found])).fetchall()
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            connection.execute(_RECORD, (chosen.command, chosen.actor, chosen.why, *columns))
        if chosen.dry_run:
            connection.rollback()
    return len(rows)


def discardable(found: Sequence[Found], chosen: argparse.Namespace) -> list[Found]:
    """Only orders, and what is no event at all, can be given up. Of a customer, all else stays parked; raises `Fatal`
    when it was named by its place."""
    kept = [parked for parked in found if not is_discardable(parked.value)]
    for parked in kept:
        why = (
            f"{parked.place} is {type_named(parked.value)}: without it money or stock would stay where it does not "
            "belong; mend the cause and redrive it"
        )
        if not chosen.customer:
            raise Fatal(f"dlq: {why}")
        print(f"not discarded: {why}")
    return [parked for parked in found if parked not in kept]


def is_discardable(value: bytes) -> bool:
    kind = type_named(value)
    return kind not in OURS or kind == type_of(OrderPlaced)


def type_named(value: bytes) -> str:
    """The type that an event names, whatever else is wrong with it; empty when it names none."""
    try:
        return _typed.decode(value).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def resume(connection: Conn, chosen: argparse.Namespace) -> int:
    with transaction(connection):
        resumed = connection.execute(_RESUME).rowcount
        if resumed:
            connection.execute(_RECORD_RESUME, (chosen.actor, chosen.why))
        if chosen.dry_run:
            connection.rollback()
    return resumed


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dlq", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument("--service", choices=SERVICES, help="only this service (default: all)")
    acting = argparse.ArgumentParser(add_help=False)
    acting.add_argument("--why", required=True, help="why; it is recorded")
    acting.add_argument("--actor", default=getpass.getuser(), help="who; default: the user")
    acting.add_argument("--dry-run", action="store_true", help="say what would be marked, and change nothing")
    naming = argparse.ArgumentParser(add_help=False)
    naming.add_argument("places", type=place, nargs="*", metavar="place", help=PLACE_HELP)
    naming.add_argument("--customer", help="all that is parked of a customer")
    commands.add_parser("list", parents=[everywhere]).add_argument("--customer")
    commands.add_parser("show", parents=[everywhere, naming])
    redriving = commands.add_parser("redrive", parents=[everywhere, naming, acting])
    redriving.add_argument("--all", action="store_true", help="all that is parked")
    commands.add_parser("discard", parents=[everywhere, naming, acting])
    commands.add_parser("resume", parents=[everywhere, acting])
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    chosen = parse(arguments)
    env = Env("dlq")
    if chosen.service is None and (chosen.command == "discard" or getattr(chosen, "places", None)):
        raise Fatal(f"dlq: {chosen.command} which service's events? add --service {'|'.join(SERVICES)}")
    for service in [chosen.service] if chosen.service else SERVICES:
        with connect(env.text(f"{service.upper()}_DATABASE_URL"), "dlq") as connection:
            match chosen.command:
                case "list":
                    show_list(service, connection, chosen.customer)
                case "show":
                    show(service, connection, chosen)
                case "redrive":
                    say(service, mark(connection, _MARK_REDRIVE, chosen), "marked for redrive", chosen)
                case "discard":
                    say(service, mark(connection, _MARK_DISCARD, chosen), "marked as discarded", chosen)
                case "resume":
                    print(f"{service}: {resume(connection, chosen)} stops ended{_dry(chosen)}")


def say(service: str, count: int, what: str, chosen: argparse.Namespace) -> None:
    print(f"{service}: {count} {'event' if count == 1 else 'events'} {what}{_dry(chosen)}")


def _dry(chosen: argparse.Namespace) -> str:
    return " (dry run: nothing was changed)" if chosen.dry_run else ""


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Fatal, psycopg.Error) as error:
        sys.exit(str(error))
