"""The saga's decisions, brought back from the topics `orders` and `outcomes`.

The log determines everything that the saga decides, except for the order in which it read three topics: whether a
cancellation or a deadline came before a result, and which of two refusals became the reason. The outcome that it
published then stands. So the orders first take their published outcomes, by the saga's own rules, and the replay adds
the rest. The timeline of such an order names its outcome before the results that led to it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from common.consume.records import Received
from common.events import ORDERS, OUTCOMES, Contradiction, OrderConfirmed, OrderPlaced, Outcome
from common.kafka.broker import Partition
from common.postgres import Conn
from ops.log import Log
from ops.replay.published import Restored, received
from ops.tool import chunks
from order.saga.consumer import SagaHandler

CHUNK_EVENTS: Final = 2_000
_POSITIONS: Final = "SELECT partition, next_offset FROM positions WHERE topic = %s ORDER BY partition"


def restore(connection: Conn, log: Log, *, cover: str | None) -> Restored:
    """Within a transaction: write the outcomes that were published and are not in the database. It processes one
    partition number at a time, to save memory. Nothing has to be covered: orders rest on no balance."""
    positions: dict[int, int] = dict(connection.execute(_POSITIONS, (ORDERS,)).fetchall())
    bounds = log.bounds([ORDERS, OUTCOMES])
    restored = 0
    for number, position in positions.items():
        orders, outcomes = Partition(ORDERS, number), Partition(OUTCOMES, number)
        records = [
            record
            for record in received(log, {orders: (position, bounds[orders][1])})
            if isinstance(record.event, OrderPlaced | Outcome)
        ]
        records += _lost(connection, received(log, {outcomes: bounds[outcomes]}))
        records.sort(key=lambda record: (isinstance(record.event, Outcome), record.at))  # an order, then its outcomes
        decided = {record.event.subject for record in records if isinstance(record.event, Outcome)}
        for chunk in chunks((record for record in records if record.event.subject in decided), CHUNK_EVENTS):
            restored += _take_in(connection, chunk)
    return Restored(restored)


def _lost(connection: Conn, outcomes: Iterable[Received]) -> list[Received]:
    """The confirmations among these that the database has not. The saga has no position in their topic, so all are
    compared. The other outcomes are in `orders` as well."""
    lost: list[Received] = []
    for chunk in chunks((record for record in outcomes if isinstance(record.event, OrderConfirmed)), CHUNK_EVENTS):
        gone = {event.id for event in SagaHandler().lacking(connection, [record.event for record in chunk])}
        lost += [record for record in chunk if record.event.id in gone]
    return lost


def _take_in(connection: Conn, records: Sequence[Received]) -> int:
    """Advance the orders by these events; returns how many changed."""
    handler = SagaHandler()
    try:
        batch = handler.decide(handler.lock(connection, records), records, ())
    except Contradiction:
        # An order placed under an id that another customer's has: the saga has parked it, and will again.
        middle = len(records) // 2
        if middle == 0:
            return 0
        return _take_in(connection, records[:middle]) + _take_in(connection, records[middle:])
    batch.store(connection)
    batch.update(connection)
    return len(batch.changed)
