"""Dead letters: events that cannot be processed are kept in the service's own database, in order, and come back.

A poison event (a root) and every later event of its customer (followers) are parked in the batch's transaction; other
customers do not notice. An operator marks them (`just dlq`); the partition's owner then takes them through the same
handler, in order, before the customer's new events, which until then go on being parked behind them.

The table is the queue: there is no second copy in a topic to reconcile. A row's way is written at its definition, in
the migrations. That there is a bound on what is parked is the idea of arroyo's `DlqLimit` (getsentry/arroyo): a bad
deployment must not drain the topic into the dead letters.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
from msgspec import Struct

from common.errors import Poison, Superseded
from common.events import (
    ORDERS,
    Event,
    Milliseconds,
    OrderDiscarded,
    OrderRef,
    StrictRef,
    decoder_for,
    make,
    rfc3339,
)
from common.kafka.broker import Partition
from common.postgres import Conn

STOP_ROOTS_MIN: Final = 100
STOP_SHARE_MAX: Final = 0.01
STOP_WINDOW_EVENTS: Final = 10_000
REDRIVE_ROWS_MAX: Final = 500
ERROR_CHARS_MAX: Final = 1_000


class Letter(Struct, frozen=True, gc=False):
    """A record as the log has it, undecoded."""

    partition: Partition
    offset: int
    at: Milliseconds
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class Received(Struct, frozen=True, gc=False):
    """A record and the event in it. `at` is the broker's time (LogAppendTime)."""

    partition: Partition
    offset: int
    at: Milliseconds
    event: Any  # an `Event` of the topic; handlers match on its type


class Opened(Struct, frozen=True, gc=False):
    """A letter with what was found in it: an event, or why there is none. `arrived_s` is on the monotonic clock."""

    letter: Letter
    received: Received | None
    error: str
    arrived_s: float = 0.0


class Parked(NamedTuple):
    """A letter to park, and why: as a root cause, or as a follower of one, already marked for redrive or not."""

    letter: Letter
    root: bool
    error: str
    state: str


class Sorted(NamedTuple):
    """A batch, told apart."""

    fresh: list[Received]
    repeats: list[Received]
    parked: list[Parked]


def open_letter(letter: Letter) -> Received:
    """Decode a letter. Raises `Poison` when it is not an event of its topic, or not its key's."""
    try:
        event: Event = decoder_for[letter.partition.topic].decode(letter.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Poison(f"is not an event of {letter.partition.topic}: {error}") from error
    data: OrderRef = event.data  # type: ignore[attr-defined]  # every concrete event has it
    if letter.key is None:
        raise Poison("has no key, so it cannot be kept in order")
    customer_id = data.customer_id
    if event.subject != data.order_id or event.partitionkey != customer_id or letter.key != customer_id.encode():
        raise Poison("its key, partitionkey and subject do not agree with its data")
    return Received(letter.partition, letter.offset, letter.at, event)


def opened(letter: Letter, arrived_s: float) -> Opened:
    """Decode a letter; if it cannot be decoded, say why."""
    try:
        return Opened(letter, open_letter(letter), "", arrived_s)
    except Poison as poison:
        return Opened(letter, None, str(poison), arrived_s)


def suspected(opened: Opened, error: str) -> Opened:
    """A letter whose event turned out to be poison when it was decided or stored."""
    return Opened(opened.letter, None, error, opened.arrived_s)


def sort(batch: Iterable[Opened], known: Mapping[Partition, int], held: Mapping[bytes, str]) -> Sorted:
    """Tell a batch apart, in order: what to decide, what was decided before, what to park.

    `known` are the positions. `held` are the customers that have parked events, each with the state in which an event
    behind them is parked. Whether a record was decided before is asked first: a repeat is not parked again.
    """
    held = dict(held)
    found = Sorted([], [], [])
    fresh = found.fresh
    for opened_ in batch:
        letter, received, error = opened_.letter, opened_.received, opened_.error
        if letter.offset < known[letter.partition]:
            if received is not None:
                found.repeats.append(received)
        elif letter.key is not None and letter.key in held:
            found.parked.append(Parked(letter, False, error or "behind a parked event", held[letter.key]))
        elif received is None:
            found.parked.append(Parked(letter, True, error, "parked"))
            if letter.key is not None:
                held[letter.key] = "parked"
        else:
            fresh.append(received)
    return found


class Breaker:
    """Tells bad data from a bad deployment: too many root causes among the last events."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int]] = deque()
        self._events = 0
        self._roots = 0

    def count(self, events: int, roots: int) -> bool:
        """Count a batch; say whether the consumer should stop."""
        self._batches.append((events, roots))
        self._events += events
        self._roots += roots
        while self._events - self._batches[0][0] >= STOP_WINDOW_EVENTS:
            old_events, old_roots = self._batches.popleft()
            self._events -= old_events
            self._roots -= old_roots
        return self._roots >= STOP_ROOTS_MIN and self._roots > STOP_SHARE_MAX * self._events


# SQL

_HELD: Final = """
    SELECT substring(key FOR 64) AS customer,
      CASE WHEN bool_and(state IN ('redrive', 'discard')) THEN 'redrive' ELSE 'parked' END
    FROM parked_events
    WHERE substring(key FOR 64) = ANY(%s::bytea[]) AND state IN ('parked', 'redrive', 'discard') GROUP BY customer
"""
_STOPPED: Final = "SELECT reason FROM stops WHERE resumed_at IS NULL"
_GUARDS: Final = """
    SELECT EXISTS (SELECT FROM parked_events WHERE state IN ('parked', 'redrive', 'discard')),
      (SELECT reason FROM stops WHERE resumed_at IS NULL)
"""
_STOP: Final = "INSERT INTO stops (reason) VALUES (%s) ON CONFLICT DO NOTHING"
# An operator may have moved a position back over events that were parked before: those settled are parked anew.
_PARK: Final = """
    INSERT INTO parked_events
      (topic, partition, "offset", topic_id, key, value, headers, record_time, root, error, state)
    SELECT * FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::text[], %s::bytea[], %s::bytea[], %s::jsonb[],
                         %s::timestamptz[], %s::boolean[], %s::text[], %s::text[])
    ON CONFLICT (topic, partition, "offset", topic_id) DO UPDATE
    SET state = excluded.state, root = excluded.root, error = excluded.error, given_up = false, parked_at = now()
    WHERE parked_events.state = 'done'
"""
# A marked row comes to its turn when nothing unmarked of its customer lies before it in its partition. By time: in
# a topic that was made anew offsets begin again, and what is parked of the one before comes before.
_MARKED: Final = """
    SELECT topic, partition, "offset", topic_id, (extract(epoch FROM record_time) * 1000)::bigint, key, value, state,
      given_up
    FROM parked_events AS row
    WHERE state IN ('redrive', 'discard', 'decided')
      AND (topic, partition) IN (SELECT * FROM unnest(%s::text[], %s::integer[]))
      AND NOT EXISTS (
        SELECT FROM parked_events AS earlier
        WHERE substring(earlier.key FOR 64) = substring(row.key FOR 64)
          AND earlier.topic = row.topic AND earlier.partition = row.partition AND earlier.state = 'parked'
          AND (earlier.record_time, earlier."offset") < (row.record_time, row."offset"))
    ORDER BY topic, partition, record_time, "offset" LIMIT %s
"""
_SET_STATE: Final = """
    UPDATE parked_events AS row SET state = %s
    FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::text[]) AS named(topic, partition, "offset", topic_id)
    WHERE (row.topic, row.partition, row."offset", row.topic_id)
      = (named.topic, named.partition, named."offset", named.topic_id)
"""
# What lay marked behind an event that failed again waits again: it must not overtake it.
_PARK_AGAIN: Final = """
    WITH failed AS (
      SELECT * FROM parked_events WHERE topic = %(topic)s AND partition = %(partition)s AND "offset" = %(offset)s
        AND topic_id = %(topic_id)s
    ), again AS (
      SELECT row.topic, row.partition, row."offset", row.topic_id,
        (row."offset", row.topic_id) = (failed."offset", failed.topic_id) AS is_failed
      FROM parked_events AS row JOIN failed USING (topic, partition)
      WHERE row.state IN ('redrive', 'discard', 'decided')
        AND ((row."offset", row.topic_id) = (failed."offset", failed.topic_id)
          OR substring(row.key FOR 64) = substring(failed.key FOR 64)
            AND (row.record_time, row."offset") >= (failed.record_time, failed."offset"))
    )
    UPDATE parked_events AS row SET state = 'parked', given_up = false, root = row.root OR is_failed,
      error = CASE WHEN is_failed THEN %(error)s ELSE row.error END, attempts = row.attempts + is_failed::int
    FROM again
    WHERE (row.topic, row.partition, row."offset", row.topic_id)
      = (again.topic, again.partition, again."offset", again.topic_id)
"""


class Marked(NamedTuple):
    """A parked letter that an operator has marked, in its state `redrive`, `discard` or `decided`."""

    letter: Letter
    topic_id: str
    state: str
    given_up: bool

    @property
    def place(self) -> tuple[str, int, int, str]:
        return (*self.letter.partition, self.letter.offset, self.topic_id)


class Guards(NamedTuple):
    """What a batch must know before it decides: whether anything at all is parked, and why the consumer is stopped."""

    any_held: bool
    stopped: str | None


def look(connection: Conn) -> "psycopg.Cursor[Any]":
    """Queue the question for `guards`. To be called in pipeline mode."""
    return connection.execute(_GUARDS)


def guards(cursor: "psycopg.Cursor[Any]") -> Guards:
    """The answer to `look`, after the pipeline has ended."""
    row = cursor.fetchone()
    assert row is not None
    return Guards(*row)


def held(connection: Conn, any_held: bool, keys: Iterable[bytes | None]) -> dict[bytes, str]:
    """The customers who have parked events, each with the state in which an event behind them is parked. Normally
    nothing is parked (`any_held`), and no key is sent to the database."""
    if not any_held:
        return {}
    wanted = list({key for key in keys if key is not None})
    return dict(connection.execute(_HELD, (wanted,)).fetchall())


def park(connection: Conn, parked: Sequence[Parked], topic_ids: Mapping[str, str]) -> None:
    """Store parked letters, within the batch's transaction."""
    rows = [_row(p, topic_ids[p.letter.partition.topic]) for p in parked]
    connection.execute(_PARK, [list(column) for column in zip(*rows, strict=True)])


def _row(parked: Parked, topic_id: str) -> tuple[Any, ...]:
    letter = parked.letter
    headers = msgspec.json.encode([[name, value.hex() if value else None] for name, value in letter.headers]).decode()
    return (
        *letter.partition,
        letter.offset,
        topic_id,
        letter.key,
        letter.value,
        headers,
        rfc3339(letter.at),
        str(parked.root),
        _storable(parked.error),
        parked.state,
    )


def _storable(error: str) -> str:
    """An error's text as PostgreSQL takes it: an event can put anything into it."""
    text = error.replace("\0", "\\0")[:ERROR_CHARS_MAX]
    return text.encode("utf-8", "backslashreplace").decode()


def stop(connection: Conn, reason: str) -> None:
    """Store that the consumer stops until an operator resumes it."""
    connection.execute(_STOP, (reason,))


def stopped(connection: Conn) -> str:
    """Why the consumer is stopped: empty when it is not."""
    row = connection.execute(_STOPPED).fetchone()
    return str(row[0]) if row else ""


def marked(connection: Conn, partitions: Iterable[Partition]) -> list[Marked]:
    """The letters whose turn it is to be taken again, in order."""
    wanted = list(partitions)
    parameters = ([p.topic for p in wanted], [p.number for p in wanted], REDRIVE_ROWS_MAX)
    return [
        Marked(
            Letter(Partition(row[0], row[1]), row[2], row[4], row[5] and bytes(row[5]), bytes(row[6]), ()),
            row[3],
            *row[7:],
        )
        for row in connection.execute(_MARKED, parameters).fetchall()
    ]


def set_state(connection: Conn, rows: Sequence[Marked], state: str) -> None:
    places = [row.place for row in rows]
    connection.execute(_SET_STATE, (state, *(list(column) for column in zip(*places, strict=True))))


def park_again(connection: Conn, row: Marked, error: str) -> None:
    """A marked letter has failed again: it and what lies behind it wait for the operator again."""
    place = dict(zip(("topic", "partition", "offset", "topic_id"), row.place, strict=True))
    parked = connection.execute(_PARK_AGAIN, place | {"error": _storable(error)}).rowcount
    if not parked:
        where = f"{row.letter.partition} offset {row.letter.offset}"
        raise Superseded(f"{where}: another instance has taken it meanwhile; here it failed: {error}")


def reopen(row: Marked) -> Received | None:
    """The event to take: as it is, or as a discarded order. None for what says nothing and is dropped.

    Raises `Poison` when the letter is to be redriven and still is not an event.
    """
    return discarded(row.letter) if row.given_up else open_letter(row.letter)


class _AnyPlaced(msgspec.Struct, tag_field="type", tag="order.placed"):
    """As little of an `order.placed` as it takes to decide that it will not be."""

    data: StrictRef


_any_placed: Final = msgspec.json.Decoder(_AnyPlaced)


def discarded(letter: Letter) -> Received | None:
    """The decision that an order is given up, if the letter is an order: only then is there something to decide."""
    if letter.partition.topic != ORDERS:
        return None
    try:
        found = _any_placed.decode(letter.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if letter.key != found.data.customer_id.encode():
        return None
    event = make(OrderDiscarded, found.data, at=letter.at, traceparent="")
    return Received(letter.partition, letter.offset, letter.at, event)
