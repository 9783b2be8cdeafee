"""`python -m ops.dead_letters list|show|redrive|discard|resume`: what is parked, and what becomes of it.

    list      what is parked, oldest first
    show      one event with all that is known of it: its place is written topic/partition@offset, as `list` prints it
    redrive   take events again, in order: by place, by customer, or all; always with all that is parked behind them
    discard   give an event up: an order is then decided (declined, rejected) with the reason `discarded`
    resume    let a service go on that has stopped because too much was parked

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
ERROR_CHARS_SHOWN: Final = 60
_PLACE: Final = re.compile(r"([a-z]+)/(\d+)@(\d+)")


class _Typed(msgspec.Struct):
    type: str


_typed: Final = msgspec.json.Decoder(_Typed)
OURS: Final = frozenset(type_of(kind) for kind in get_args(AnyOrderEvent))


class Place(NamedTuple):
    """Where the log has an event."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


def place(text: str) -> Place:
    """Read `topic/partition@offset`. Raises `argparse.ArgumentTypeError`."""
    found = _PLACE.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a place; write it as 'list' prints it: orders/3@17")
    return Place(found[1], int(found[2]), int(found[3]))


_LIST: Final = """
    SELECT topic, partition, "offset", encode(key, 'escape'), root, state, attempts,
      to_char(parked_at, 'YYYY-MM-DD HH24:MI:SS'), error
    FROM parked_events WHERE state <> 'done' AND (%(customer)s::text IS NULL OR key = convert_to(%(customer)s, 'UTF8'))
    ORDER BY record_time, topic, partition, "offset"
"""
_STOPS: Final = "SELECT reason, to_char(stopped_at, 'YYYY-MM-DD HH24:MI:SS') FROM stops WHERE resumed_at IS NULL"
_SHOW: Final = """
    SELECT topic, partition, "offset", topic_id, key, value, headers, record_time, root, error, state, parked_at,
      attempts
    FROM parked_events WHERE topic = %s AND partition = %s AND "offset" = %s
"""
_ACTS: Final = """
    SELECT act, actor, why, acted_at FROM dead_letter_acts
    WHERE topic = %s AND partition = %s AND "offset" = %s ORDER BY act_id
"""
# With the positions locked no batch can park an event behind these while they are being marked.
_LOCK_POSITIONS: Final = "SELECT FROM positions ORDER BY topic, partition FOR UPDATE"
# All that is parked of a customer goes together, or the later events would wait for ever behind nothing.
_MARK_REDRIVE: Final = """
    WITH named AS (
      SELECT row.* FROM parked_events AS row
      JOIN unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[]) AS p(topic, partition, "offset")
      USING (topic, partition, "offset")
    )
    UPDATE parked_events AS row SET state = 'redrive'
    WHERE state = 'parked' AND (
      %(all)s OR key = convert_to(%(customer)s, 'UTF8') OR key IN (SELECT key FROM named)
      OR (topic, partition, "offset") IN (SELECT topic, partition, "offset" FROM named))
    RETURNING topic, partition, "offset"
"""
_MARK_DISCARD: Final = """
    UPDATE parked_events SET state = 'discard', given_up = true
    WHERE topic = %s AND partition = %s AND "offset" = %s AND state = 'parked' RETURNING topic, partition, "offset"
"""
_RECORD: Final = """
    INSERT INTO dead_letter_acts (act, topic, partition, "offset", actor, why)
    SELECT %s, topic, partition, o, %s, %s
    FROM unnest(%s::text[], %s::integer[], %s::bigint[]) AS row(topic, partition, o)
"""
_RESUME: Final = "UPDATE stops SET resumed_at = now() WHERE resumed_at IS NULL"
_RECORD_RESUME: Final = "INSERT INTO dead_letter_acts (act, actor, why) VALUES ('resume', %s, %s)"


def show_list(service: str, connection: Conn, customer: str | None) -> None:
    """Print what is parked in a service, and whether it has stopped."""
    rows = connection.execute(_LIST, {"customer": customer}).fetchall()
    for reason, at in connection.execute(_STOPS).fetchall():
        print(f"{service}: STOPPED since {at}: {reason}; 'just dlq resume --service {service} --why …' lets it go on")
    if not rows:
        print(f"{service}: nothing is parked")
        return
    print(f"{service}: {len(rows)} events of {len({row[3] for row in rows})} customers are parked")
    table(
        ("place", "customer", "as", "state", "attempts", "since", "error"),
        [
            (Place(*row[:3]), row[3] or "-", "root" if row[4] else "follower", *row[5:8], row[8][:ERROR_CHARS_SHOWN])
            for row in rows
        ],
    )


def show_one(connection: Conn, wanted: Place) -> None:
    """Print all that is known of a parked event. Raises `Fatal`."""
    cursor = connection.execute(_SHOW, wanted)
    row = cursor.fetchone()
    if row is None:
        raise Fatal(f"dlq: nothing was ever parked from {wanted}")
    for column, value in zip(cursor.description or (), row, strict=True):
        print(f"{column.name:12} {value.decode(errors='backslashreplace') if isinstance(value, bytes) else value}")
    for act, actor, why, at in connection.execute(_ACTS, wanted).fetchall():
        print(f"{'act':12} {act} by {actor} at {at}: {why}")


def mark(connection: Conn, act: str, statement: str, parameters: Any, actor: str, why: str, *, dry_run: bool) -> int:
    """Mark rows and record the act, in one transaction; returns how many were marked."""
    with transaction(connection):
        connection.execute(_LOCK_POSITIONS)
        rows = connection.execute(statement, parameters).fetchall()
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            connection.execute(_RECORD, (act, actor, why, *columns))
        if dry_run:
            connection.rollback()
    return len(rows)


def redrive(connection: Conn, chosen: argparse.Namespace) -> int:
    """Mark events to be taken again. Raises `Fatal` when none was named."""
    if not (chosen.all or chosen.customer or chosen.places):
        raise Fatal("dlq: redrive what? name places, --customer or --all")
    wanted = {
        "all": chosen.all,
        "customer": chosen.customer,
        "topics": [p.topic for p in chosen.places],
        "partitions": [p.partition for p in chosen.places],
        "offsets": [p.offset for p in chosen.places],
    }
    return mark(connection, "redrive", _MARK_REDRIVE, wanted, chosen.actor, chosen.why, dry_run=chosen.dry_run)


def discard(connection: Conn, chosen: argparse.Namespace) -> int:
    """Mark one event to be given up. Raises `Fatal` for one that must not be."""
    [wanted] = chosen.places
    check_discardable(connection, wanted)
    return mark(connection, "discard", _MARK_DISCARD, wanted, chosen.actor, chosen.why, dry_run=chosen.dry_run)


def check_discardable(connection: Conn, wanted: Place) -> None:
    """Only an order, or what is no event at all, can be given up. Raises `Fatal`."""
    row = connection.execute(_SHOW, wanted).fetchone()
    if row is None:
        raise Fatal(f"dlq: nothing is parked from {wanted}")
    kind = type_named(row[5])
    if kind in OURS and kind != type_of(OrderPlaced):
        raise Fatal(
            f"dlq: {wanted} is {kind}: without it money or stock would stay where it does not belong; mend the cause "
            "and redrive it"
        )


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
    listing = commands.add_parser("list", parents=[everywhere])
    listing.add_argument("--customer")
    commands.add_parser("show", parents=[everywhere]).add_argument(
        "places", type=place, nargs=1, metavar="place", help=PLACE_HELP
    )
    redriving = commands.add_parser("redrive", parents=[everywhere, acting])
    redriving.add_argument("places", type=place, nargs="*", metavar="place", help=PLACE_HELP)
    redriving.add_argument("--customer", help="all that is parked of a customer")
    redriving.add_argument("--all", action="store_true", help="all that is parked")
    discarding = commands.add_parser("discard", parents=[everywhere, acting])
    discarding.add_argument("places", type=place, nargs=1, metavar="place", help=PLACE_HELP)
    commands.add_parser("resume", parents=[everywhere, acting])
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    chosen = parse(arguments)
    env = Env("dlq")
    if chosen.command in ("show", "discard") and chosen.service is None:
        raise Fatal(f"dlq: {chosen.command} which service's event? add --service {'|'.join(SERVICES)}")
    for service in [chosen.service] if chosen.service else SERVICES:
        with connect(env.text(f"{service.upper()}_DATABASE_URL"), "dlq") as connection:
            match chosen.command:
                case "list":
                    show_list(service, connection, chosen.customer)
                case "show":
                    show_one(connection, chosen.places[0])
                case "redrive":
                    say(service, redrive(connection, chosen), "events marked for redrive", dry_run=chosen.dry_run)
                case "discard":
                    say(service, discard(connection, chosen), "event marked as discarded", dry_run=chosen.dry_run)
                case "resume":
                    say(service, resume(connection, chosen), "stop ended", dry_run=chosen.dry_run)


def say(service: str, count: int, what: str, *, dry_run: bool) -> None:
    print(f"{service}: {count} {what}{' (dry run: nothing was changed)' if dry_run else ''}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Fatal, psycopg.Error) as error:
        sys.exit(str(error))
