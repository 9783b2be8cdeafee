"""Redriving: parked events that an operator has marked (`just dlq`) go through the handler again.

The partition's owner takes them in order, before the customer's new events, which until then are parked behind them.
A row goes from `redrive` or `discard` to `decided` with the transaction, and to `done` after its result is published.
After a crash in between it is a repeat: its stored decision is published again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Generic, NamedTuple

import msgspec
from loguru import logger

from common.codec import decoded
from common.consume import positions
from common.consume.handler import Decided, Handler, Locked, decide
from common.consume.parking import storable
from common.consume.records import Received, Record, decode
from common.errors import Failure, Superseded, classify, describe
from common.events import ORDERS, OrderDiscarded, StrictRef, make
from common.kafka.broker import Partition
from common.pipeline import Statements, pipeline
from common.postgres import Conn, columns, transaction, transaction_of_pipeline

ROWS_MAX: Final = 500

# A row's turn in its partition. Offsets tell it within one topic; the broker's clock may have been set back. In a topic
# that was created anew, offsets begin at 0 again: rows of earlier topics come first, in the order of time.
_TURN: Final = """
    CASE WHEN {row}.topic_id = current.topic_id THEN 'infinity' ELSE {row}.record_time END, {row}."offset"
"""
_CURRENT: Final = "LEFT JOIN positions AS current USING (topic, partition)"
# The turn of a marked row comes when no unmarked row of its customer lies before it in its partition.
_MARKED: Final = f"""
    SELECT topic, partition, "offset", row.topic_id, (extract(epoch FROM row.record_time) * 1000)::bigint, key, value,
      state, given_up
    FROM parked_events AS row {_CURRENT}
    WHERE state IN ('redrive', 'discard', 'decided')
      AND (topic, partition) IN (SELECT * FROM unnest(%s::text[], %s::integer[]))
      AND NOT EXISTS (
        SELECT FROM parked_events AS earlier
        WHERE substring(earlier.key FOR 64) = substring(row.key FOR 64)
          AND earlier.topic = row.topic AND earlier.partition = row.partition AND earlier.state = 'parked'
          AND ({_TURN.format(row="earlier")}) < ({_TURN.format(row="row")}))
    ORDER BY topic, partition, {_TURN.format(row="row")} LIMIT %s
"""  # noqa: S608 - a statement of ours
_SET_STATE: Final = """
    UPDATE parked_events AS row SET state = %s
    FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::text[]) AS named(topic, partition, "offset", topic_id)
    WHERE (row.topic, row.partition, row."offset", row.topic_id)
      = (named.topic, named.partition, named."offset", named.topic_id)
"""
# Marked events behind the one that failed again are unmarked: they must not overtake it.
_PARK_AGAIN: Final = f"""
    WITH failed AS (
      SELECT * FROM parked_events WHERE topic = %(topic)s AND partition = %(partition)s AND "offset" = %(offset)s
        AND topic_id = %(topic_id)s
    ), again AS (
      SELECT row.topic, row.partition, row."offset", row.topic_id,
        (row."offset", row.topic_id) = (failed."offset", failed.topic_id) AS is_failed
      FROM parked_events AS row JOIN failed USING (topic, partition) {_CURRENT}
      WHERE row.state IN ('redrive', 'discard', 'decided')
        AND ((row."offset", row.topic_id) = (failed."offset", failed.topic_id)
          OR substring(row.key FOR 64) = substring(failed.key FOR 64)
            AND ({_TURN.format(row="row")}) >= ({_TURN.format(row="failed")}))
    )
    UPDATE parked_events AS row SET state = 'parked', given_up = false, root = row.root OR is_failed,
      error = CASE WHEN is_failed THEN %(error)s ELSE row.error END, attempts = row.attempts + is_failed::int
    FROM again
    WHERE (row.topic, row.partition, row."offset", row.topic_id)
      = (again.topic, again.partition, again."offset", again.topic_id)
"""  # noqa: S608 - a statement of ours


class Marked(NamedTuple):
    """A parked event that an operator has marked, in its state `redrive`, `discard` or `decided`."""

    record: Record
    topic_id: str
    state: str
    given_up: bool

    @property
    def row_id(self) -> tuple[str, int, int, str]:
        """The primary key of its row."""
        return (*self.record.partition, self.record.offset, self.topic_id)


def marked(connection: Conn, partitions: Iterable[Partition]) -> list[Marked]:
    """The events whose turn has come, in order."""
    owned = list(partitions)
    parameters = ([p.topic for p in owned], [p.number for p in owned], ROWS_MAX)
    return [
        Marked(
            Record(Partition(row[0], row[1]), row[2], row[4], row[5] and bytes(row[5]), bytes(row[6])),
            row[3],
            *row[7:],
        )
        for row in connection.execute(_MARKED, parameters).fetchall()
    ]


class Redriver(Generic[Locked]):
    """Takes marked events through a handler like a batch, and publishes the results by `publish`."""

    def __init__(self, handler: Handler[Locked], publish: Callable[[Decided], int]) -> None:
        self._handler = handler
        self._publish = publish
        self._log = logger.bind(group=handler.group)

    def redrive(self, connection: Conn, known: Mapping[Partition, int], rows: Sequence[Marked]) -> None:
        """Redrive the rows, given the positions. An event that fails again is parked again, with those behind it."""
        try:
            decided = self._decide(connection, known, rows)
        except Exception as error:
            if classify(error) is not Failure.POISON:
                raise
            if len(rows) == 1:
                park_again(connection, rows[0], describe(error))
                self._log.error("parked again: {}", describe(error), row=rows[0].row_id)
            else:
                self.redrive(connection, known, rows[: len(rows) // 2])
            return  # the rest is queried again: a part of it may be behind the event that has just failed
        self._publish(decided)
        with transaction(connection):
            set_state(connection, rows, "done")
        self._log.info("redriven", records=len(rows))

    def _decide(self, connection: Conn, known: Mapping[Partition, int], rows: Sequence[Marked]) -> Decided:
        partitions = {row.record.partition for row in rows}
        with transaction_of_pipeline(connection):
            events = [(row.state, received) for row in rows if (received := decode_again(row)) is not None]
            with pipeline(connection) as statements:
                locked_positions = positions.lock(statements, partitions)
                locked = self._handler.lock(statements, [received for _, received in events])
            positions.check_not_superseded(known, positions.fetch(locked_positions), partitions)
            decided = decide(
                self._handler,
                locked,
                [received for state, received in events if state != "decided"],
                [received for state, received in events if state == "decided"],
            )
            decided.store(connection)
            with pipeline(connection) as statements:
                decided.update(statements)
                set_state(statements, rows, "decided")
        return decided


def set_state(statements: Statements, rows: Sequence[Marked], state: str) -> None:
    statements.execute(_SET_STATE, (state, *columns(row.row_id for row in rows)))


def park_again(connection: Conn, row: Marked, error: str) -> None:
    """Unmark an event that has failed again, and those behind it: they wait for the operator.

    Raises `Superseded` when the row is no longer marked.
    """
    key = dict(zip(("topic", "partition", "offset", "topic_id"), row.row_id, strict=True))
    with transaction(connection):
        parked = connection.execute(_PARK_AGAIN, key | {"error": storable(error)}).rowcount
        if not parked:
            raise Superseded(
                f"{row.record.partition} offset {row.record.offset}: another instance has taken it; here it failed: "
                f"{error}"
            )


def decode_again(row: Marked) -> Received | None:
    """The event to redrive: as it is, or as a discarded order. None for an event that is dropped.

    Raises `Poison` when the record is to be redriven and still is not an event.
    """
    return discarded(row.record) if row.given_up else decode(row.record)


class _AnyPlaced(msgspec.Struct, tag_field="type", tag="order.placed"):
    """As little of an `order.placed` as it takes to reject it."""

    data: StrictRef


_any_placed: Final = msgspec.json.Decoder(_AnyPlaced)


def discarded(record: Record) -> Received | None:
    """The decision that an order is discarded. None if the record is no order: then there is nothing to decide."""
    if record.partition.topic != ORDERS:
        return None
    placed = decoded(_any_placed.decode, record.value)
    if placed is None or record.key != placed.data.customer_id.encode():
        return None
    event = make(OrderDiscarded, placed.data, at=record.at, traceparent="")
    return Received(record.partition, record.offset, record.at, event)
