"""A batch in inventory: lock the products, decide, store, answer each order with the state of its stock."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from common.consume.handler import InOrderOfArrival, answers, of_kinds
from common.consume.published import lacking
from common.consume.records import Received
from common.events import PUBLISHES, READS, STOCK_EVENTS, Event, OrderId, OrderPlaced, StockData, make
from common.pipeline import Statements
from common.postgres import Conn
from inventory import store
from inventory.decide import Decisions, Relevant, Reservation, decide

RANKS: Final[Mapping[str, int]] = {state: kind.rank for state, kind in STOCK_EVENTS.items()}
RELEVANT: Final = frozenset(get_args(Relevant))


@dataclass(frozen=True, slots=True)
class Batch:
    """A decided batch: what to store, the locked rows, the reservations as they were, and the records to answer."""

    decisions: Decisions
    locked: store.Locked
    stored: dict[OrderId, Reservation]
    records: Sequence[Received]

    def store(self, statements: Statements) -> None:
        new = [r for order_id, r in self.decisions.reservations.items() if order_id not in self.stored]
        if new:
            store.insert_reservations(statements, new)
        if self.decisions.movements:
            store.insert_movements(statements, self.decisions.movements)

    def update(self, statements: Statements) -> None:
        revoked = [r for order_id, r in self.decisions.reservations.items() if order_id in self.stored]
        if revoked:
            store.update_reservations(statements, revoked)
        if self.decisions.on_hand:
            self.locked.update_stock(statements, self.decisions.on_hand)

    def results(self) -> Iterable[tuple[int, Event]]:
        return answers(self.records, self.decisions.reservations, self.stored, answer)


class InventoryHandler:
    """Inventory's part in the batch loop. See `common.consume.handler.Handler`."""

    group = "inventory"
    reads = READS[group]
    publishes = PUBLISHES[group]
    phase = 0.0
    arrivals = InOrderOfArrival

    def lacking(self, connection: Conn, published: Sequence[Event]) -> list[Event]:
        return lacking(connection, published, store.states, RANKS, store.RESTOCKED)

    def lock(self, statements: Statements, records: Sequence[Received]) -> store.Locked:
        events = [r.event for r in of_kinds(records, RELEVANT)]
        products = {item.product_id for event in events if isinstance(event, OrderPlaced) for item in event.data.items}
        partition = min((record.partition.number for record in records), default=0)
        return store.lock(statements, products, {event.data.order_id for event in events}, partition)

    def decide(self, locked: store.Locked, fresh: Sequence[Received], repeats: Sequence[Received]) -> Batch:
        products, reservations = locked.read()
        new = of_kinds(fresh, RELEVANT)
        decisions = decide(products, reservations, ((r.event, r.at) for r in new))
        if decisions.is_short:
            decisions = decide(locked.read_whole(products), reservations, ((r.event, r.at) for r in new))
        return Batch(decisions, locked, reservations, [*of_kinds(repeats, RELEVANT), *new])


def answer(reservation: Reservation, traceparent: str) -> Event:
    """The event that reports the state of an order's stock."""
    data = StockData(
        order_id=reservation.order_id,
        customer_id=reservation.customer_id,
        items=reservation.lines,
        reason=reservation.reason,
    )
    at = reservation.decided_at if reservation.revoked_at is None else reservation.revoked_at
    return make(STOCK_EVENTS[reservation.state], data, at=at, traceparent=traceparent)
