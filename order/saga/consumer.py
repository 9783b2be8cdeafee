"""The story of a batch in the saga: lock the orders, advance each by its events, store, publish what was decided."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from common import metrics
from common.consume.published import behind
from common.consume.records import Received
from common.events import (
    ORDERS,
    OUTCOMES,
    PUBLISHES,
    READS,
    SAGA,
    TOPICS_OF,
    Event,
    Milliseconds,
    OrderCancelled,
    OrderConfirmed,
    OrderId,
    OrderPlaced,
    OrderRejected,
    Outcome,
    now,
    type_of,
)
from common.pipeline import Rows, Statements
from common.postgres import Conn
from order.saga import store
from order.saga.decide import advance, outcome_of
from order.saga.hold import HeldOrders
from order.saga.store import Entry, Row

OWN_OUTCOMES_MAX: Final = 100_000

settle_seconds: Final = metrics.BatchHistogram(
    "tandem_order_settle_seconds",
    "From when the log has an order until it is settled in the database.",
    (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 600.0),
)


RANKS: Final = {
    "confirmed": OrderConfirmed.rank,
    "rejected": OrderRejected.rank,
    "cancelled": OrderCancelled.rank,
}


@dataclass(frozen=True, slots=True)
class Batch:
    """A decided batch: the orders that changed, and the outcomes to publish, each with its partition number."""

    changed: Sequence[Row]
    outcomes: Sequence[tuple[int, Outcome]]
    own_outcomes: set[str]
    settled: Sequence[Milliseconds]
    """When the orders were placed that are settled now and were not before."""

    def store(self, statements: Statements) -> None:
        if new := [row for row in self.changed if not row.stored]:
            store.insert_orders(statements, new)

    def update(self, statements: Statements) -> None:
        if stored := [row for row in self.changed if row.stored]:
            store.update_orders(statements, stored)

    def results(self) -> Iterable[tuple[int, Event]]:
        """The outcomes. They are stored by now, so reading them back changes nothing."""
        at = now()
        settle_seconds.observe_all([(at - placed_at) / 1000 for placed_at in self.settled])
        self.own_outcomes.update(o.id for _, o in self.outcomes if ORDERS in TOPICS_OF[type(o)])
        return self.outcomes


class SagaHandler:
    """The saga's part in the batch loop. See `common.consume.handler.Handler`."""

    group = SAGA
    reads = READS[SAGA]
    publishes = PUBLISHES[SAGA]
    phase = 0.4
    """By then payment and inventory have published what they decided in this slot."""
    arrivals = HeldOrders

    def __init__(self) -> None:
        self._own_outcomes: set[str] = set()
        """Ids of refusals and cancellations that this process has stored and published and not read back yet: it need
        not query the database for them."""

    def lacking(self, connection: Conn, published: Sequence[Event]) -> list[Event]:
        self._own_outcomes.clear()  # they may be stored no more
        outcomes = [event for event in published if isinstance(event, Outcome)]
        return behind(outcomes, store.states(connection, [event.subject for event in outcomes]), RANKS)

    def lock(self, statements: Statements, records: Sequence[Received]) -> Rows:
        return store.lock(statements, {r.event.data.order_id for r in records if r.event.id not in self._own_outcomes})

    def decide(self, locked: Rows, fresh: Sequence[Received], repeats: Sequence[Received]) -> Batch:
        rows = store.locked(locked)
        changed: dict[OrderId, Row] = {}
        outcomes: dict[str, tuple[int, Outcome]] = {}
        settled: list[Milliseconds] = []
        # Orders before their results, which saves writing a row for a result that came first.
        in_order = [r for r in fresh if r.partition.topic == ORDERS] + [r for r in fresh if r.partition.topic != ORDERS]
        for record in in_order:
            if record.event.id in self._own_outcomes:
                self._own_outcomes.remove(record.event.id)
                continue
            order_id = record.event.data.order_id
            row = rows.get(order_id)
            # A batch does not process the two results by time; the order is decided at the time of the later one.
            at = max(record.at, row.timeline[-1].at) if row and row.timeline else record.at
            order, decided = advance(row.order if row else None, record.event, at)
            if order is None or (row is not None and order is row.order):
                continue
            if order.settled_at is not None and order.placed_at is not None and not (row and row.order.settled_at):
                settled.append(order.placed_at)
            if row is None:
                row = rows[order_id] = Row(order, record.partition.number, stored=False)
            row.order = order
            changed[order_id] = row
            _remember(row, record, decided, at)
            for outcome in decided:
                outcomes[outcome.id] = (row.partition, outcome)
        # The outcome of a repeat may be stored but not published, so it is published again. Only repeats are answered:
        # if the saga answered every event, as payment and inventory do, the three would publish for ever.
        for record in repeats:
            if row := rows.get(record.event.data.order_id):
                for outcome in outcome_of(row.order):
                    outcomes[outcome.id] = (row.partition, outcome)
        if len(self._own_outcomes) > OWN_OUTCOMES_MAX:  # lost partitions leave some behind
            self._own_outcomes.clear()
        return Batch(list(changed.values()), list(outcomes.values()), self._own_outcomes, settled)


def _remember(row: Row, record: Received, decided: Sequence[Outcome], at: Milliseconds) -> None:
    """Add the event to the order's timeline, and the outcomes that it led to."""
    number = record.partition.number
    if type(record.event) is OrderPlaced:
        row.placed = record.event.data
        row.partition = number  # a result that came first may have another
    # Offsets are those of `orders` and of the results; a replay takes confirmations from `outcomes`.
    offset = None if record.partition.topic == OUTCOMES else record.offset
    row.timeline.append(Entry(type_of(record.event), record.at, number, offset))
    for outcome in decided:
        row.timeline.append(Entry(type_of(outcome), at, number, None))
