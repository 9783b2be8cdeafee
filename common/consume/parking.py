"""Parked events: an event that cannot be processed is kept in the service's own database, with all that follow it.

A poison event (a root) and every later event of its customer (followers) are parked in the batch's transaction; other
customers do not notice. The table is the queue: there is no second copy in a topic to reconcile. The states of a row
are described at its definition, in the migrations; `common.consume.redrive` brings parked events back.

The limit on parked events is the idea of arroyo's `DlqLimit` (getsentry/arroyo): a bad deployment must not park the
whole topic.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from common.consume.records import Arrival, Received, Record
from common.events import rfc3339
from common.kafka.broker import Partition
from common.pipeline import Answer, Pipeline
from common.postgres import Conn, columns

STOP_ROOTS_MIN: Final = 100
STOP_SHARE_MAX: Final = 0.01
STOP_WINDOW_EVENTS: Final = 10_000
ERROR_CHARS_MAX: Final = 1_000


class Parked(NamedTuple):
    """A record to park, and why: as a root or as a follower. `state` says whether it is already marked for redrive."""

    record: Record
    root: bool
    error: str
    state: str


class Sorted(NamedTuple):
    """The records of a batch by what is to be done with them."""

    fresh: list[Received]
    repeats: list[Received]
    parked: list[Parked]


def sort(batch: Iterable[Arrival], positions: Mapping[Partition, int], blocked: Mapping[bytes, str]) -> Sorted:
    """Sort a batch, in order: what to decide, what was decided before, what to park.

    `blocked` are the customers with parked events, each with the state in which an event behind them is parked. A
    repeat is never parked again.
    """
    blocked = dict(blocked)
    fresh: list[Received] = []
    repeats: list[Received] = []
    parked: list[Parked] = []
    for arrival in batch:
        record, received, error = arrival.record, arrival.received, arrival.error
        if record.offset < positions[record.partition]:
            if received is not None:
                repeats.append(received)
        elif record.key is not None and record.key in blocked:
            parked.append(Parked(record, False, error or "behind a parked event", blocked[record.key]))
        elif received is None:
            if error:  # otherwise it is a hole in the log
                parked.append(Parked(record, True, error, "parked"))
                if record.key is not None:
                    blocked[record.key] = "parked"
        else:
            fresh.append(received)
    return Sorted(fresh, repeats, parked)


class Breaker:
    """Distinguishes bad data from a bad deployment, which makes too many roots among the last events."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int]] = deque()
        self._events = 0
        self._roots = 0

    def count(self, events: int, roots: int) -> bool:
        """Count a batch. Returns whether the consumer should stop."""
        self._batches.append((events, roots))
        self._events += events
        self._roots += roots
        while self._events - self._batches[0][0] >= STOP_WINDOW_EVENTS:
            old_events, old_roots = self._batches.popleft()
            self._events -= old_events
            self._roots -= old_roots
        return self._roots >= STOP_ROOTS_MIN and self._roots > STOP_SHARE_MAX * self._events


_BLOCKED: Final = """
    SELECT substring(key FOR 64) AS customer,
      CASE WHEN bool_and(state IN ('redrive', 'discard')) THEN 'redrive' ELSE 'parked' END
    FROM parked_events
    WHERE substring(key FOR 64) = ANY(%s::bytea[]) AND state IN ('parked', 'redrive', 'discard') GROUP BY customer
"""
_GUARDS: Final = """
    SELECT EXISTS (SELECT FROM parked_events WHERE state IN ('parked', 'redrive', 'discard')),
      (SELECT reason FROM stops WHERE resumed_at IS NULL)
"""
_REQUESTED: Final = """
    SELECT (SELECT reason FROM stops WHERE resumed_at IS NULL),
      EXISTS (SELECT FROM parked_events WHERE state IN ('redrive', 'discard', 'decided'))
"""
_STOP: Final = "INSERT INTO stops (reason) VALUES (%s) ON CONFLICT DO NOTHING"
# An operator may have moved a position back over events that were parked before: those that are done are parked anew.
_PARK: Final = """
    INSERT INTO parked_events
      (topic, partition, "offset", topic_id, key, value, record_time, root, error, state)
    SELECT * FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::text[], %s::bytea[], %s::bytea[],
                         %s::timestamptz[], %s::boolean[], %s::text[], %s::text[])
    ON CONFLICT (topic, partition, "offset", topic_id) DO UPDATE
    SET state = excluded.state, root = excluded.root, error = excluded.error, given_up = false, parked_at = now()
    WHERE parked_events.state = 'done'
"""


class Guards(NamedTuple):
    """What a batch must know before it decides: whether any event is parked, and why the consumer is stopped."""

    any_parked: bool
    stopped: str | None


class Requested(NamedTuple):
    """What is asked of the consumer, by an operator or by itself: that it stops, and why; that it redrives events."""

    stop: str | None
    redrive: bool


def query_guards(statements: Pipeline) -> Answer:
    """Queue the query whose answer `fetch_guards` reads."""
    return statements.execute(_GUARDS)


def fetch_guards(answer: Answer) -> Guards:
    """The answer to `query_guards`, after the pipeline has ended."""
    [row] = answer.fetchall()
    return Guards(*row)


def blocked_customers(connection: Conn, guards: Guards, batch: Iterable[Arrival]) -> dict[bytes, str]:
    """The customers of a batch who have parked events, each with the state in which an event behind them is parked.

    Normally nothing is parked, and no key is sent to the database.
    """
    if not guards.any_parked:
        return {}
    keys = list({arrival.record.key for arrival in batch if arrival.record.key is not None})
    return dict(connection.execute(_BLOCKED, (keys,)).fetchall())


def park(connection: Conn, parked: Sequence[Parked], topic_ids: Mapping[str, str]) -> None:
    """Store parked events, within the batch's transaction."""
    connection.execute(_PARK, columns(_row(p, topic_ids[p.record.partition.topic]) for p in parked))


def _row(parked: Parked, topic_id: str) -> tuple[Any, ...]:
    record = parked.record
    return (
        *record.partition, record.offset, topic_id, record.key, record.value, rfc3339(record.at),
        str(parked.root), storable(parked.error), parked.state,
    )  # fmt: skip


def storable(error: str) -> str:
    """An error's text as PostgreSQL takes it: an event can put anything into it."""
    text = error.replace("\0", "\\0")[:ERROR_CHARS_MAX]
    return text.encode("utf-8", "backslashreplace").decode()


def stop(connection: Conn, reason: str) -> None:
    """Store that the consumer stops until an operator resumes it."""
    connection.execute(_STOP, (reason,))


def requested(connection: Conn) -> Requested:
    """What is asked of it now."""
    [row] = connection.execute(_REQUESTED).fetchall()
    return Requested(*row)
