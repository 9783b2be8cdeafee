"""The story of a batch in the saga: lock the orders, advance each by its events, store, publish what was decided."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from common.consume.parking import Received
from common.events import INVENTORY, ORDERS, PAYMENTS, Event, Milliseconds, OrderId, OrderPlaced, Outcome, type_of
from common.postgres import Conn
from order.saga import store
from order.saga.decide import advance, outcome_of
from order.saga.hold import Gatherer
from order.saga.store import Entry, Row

SAID_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Batch:
    """A decided batch: the orders that changed, and the outcomes to publish, each with its partition number."""

    changed: Sequence[Row]
    outcomes: Sequence[tuple[int, Outcome]]
    said: set[str]

    def store(self, connection: Conn) -> None:
        if new := [row for row in self.changed if not row.stored]:
            store.insert_orders(connection, new)

    def update(self, connection: Conn) -> None:
        if known := [row for row in self.changed if row.stored]:
            store.update_orders(connection, known)

    def results(self) -> Iterable[tuple[int, Event]]:
        """The outcomes. By now they are stored, so when they are read back they are no news."""
        self.said.update(outcome.id for _, outcome in self.outcomes)
        return self.outcomes


class SagaHandler:
    """The saga's part in the batch loop. See `common.consume.loop.Handler`."""

    group = "order-saga"
    topics = (ORDERS, PAYMENTS, INVENTORY)
    publishes = ORDERS
    arrivals = Gatherer

    def __init__(self) -> None:
        self._said: set[str] = set()
        """Ids of outcomes that this process has stored and published, until it reads them back: a quarter of all that
        the saga reads, for which it need not ask the database."""

    def lock(self, connection: Conn, records: Sequence[Received]) -> "psycopg.Cursor[Any]":
        return store.lock(connection, {r.event.data.order_id for r in records if r.event.id not in self._said})

    def decide(self, locked: "psycopg.Cursor[Any]", fresh: Sequence[Received], repeats: Sequence[Received]) -> Batch:
        rows = store.locked(locked)
        changed: dict[OrderId, Row] = {}
        outcomes: dict[str, tuple[int, Outcome]] = {}
        # Orders before their results, which saves writing a row for a result that came first.
        in_turn = [r for r in fresh if r.partition.topic == ORDERS] + [r for r in fresh if r.partition.topic != ORDERS]
        for record in in_turn:
            if record.event.id in self._said:
                self._said.remove(record.event.id)
                continue
            order_id = record.event.data.order_id
            row = rows.get(order_id)
            # In a batch an order's results are not taken by time; what the two decide is decided when the later came.
            at = max(record.at, row.timeline[-1].at) if row and row.timeline else record.at
            order, decided = advance(row.order if row else None, record.event, at)
            if order is None or (row is not None and order is row.order):
                continue
            if row is None:
                row = rows[order_id] = Row(order, record.partition.number, stored=False)
            row.order = order
            changed[order_id] = row
            _remember(row, record, decided, at)
            for outcome in decided:
                outcomes[outcome.id] = (row.partition, outcome)
        # A repeat may be one whose outcome was stored but not published. Only these are answered again: if the saga
        # answered everything, as payment and inventory do, the three would talk for ever.
        for record in repeats:
            if row := rows.get(record.event.data.order_id):
                for outcome in outcome_of(row.order):
                    outcomes[outcome.id] = (row.partition, outcome)
        if len(self._said) > SAID_MAX:  # partitions that went to another instance leave some behind
            self._said.clear()
        return Batch(list(changed.values()), list(outcomes.values()), self._said)


def _remember(row: Row, record: Received, decided: Sequence[Outcome], at: Milliseconds) -> None:
    """Note in the order's timeline what came in and what it led to."""
    number = record.partition.number
    if isinstance(record.event, OrderPlaced):
        row.placed = record.event.data
        row.partition = number  # a result that came first may have named another
    row.timeline.append(Entry(type_of(record.event), record.at, number, record.offset))
    for outcome in decided:
        row.timeline.append(Entry(type_of(outcome), at, number, None))
