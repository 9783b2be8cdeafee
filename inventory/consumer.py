"""The story of a batch in inventory: lock the products, decide, store, answer every order with how its stock stands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from common.consume.handler import InOrderOfArrival
from common.consume.records import Received
from common.events import STOCK_EVENTS, Event, OrderId, OrderPlaced, StockData, make
from common.postgres import Conn
from inventory import store
from inventory.decide import Decisions, Relevant, Reservation, decide


@dataclass(frozen=True, slots=True)
class Batch:
    """A decided batch: what to store, and the orders to answer."""

    decisions: Decisions
    known: dict[OrderId, Reservation]
    asked: Sequence[Received]

    def store(self, connection: Conn) -> None:
        new = [r for order_id, r in self.decisions.reservations.items() if order_id not in self.known]
        if new:
            store.insert_reservations(connection, new)
        if self.decisions.movements:
            store.insert_movements(connection, self.decisions.movements)

    def update(self, connection: Conn) -> None:
        revoked = [r for order_id, r in self.decisions.reservations.items() if order_id in self.known]
        if revoked:
            store.update_reservations(connection, revoked)
        if self.decisions.on_hand:
            store.update_stock(connection, self.decisions.on_hand)

    def results(self) -> Iterable[tuple[int, Event]]:
        """Every event is answered, repeats included: whoever asks again may not have got the answer."""
        for record in self.asked:
            order_id = OrderId(record.event.data.order_id)
            # None for a repeat that is parked; another customer's for one parked because it named that order. There
            # is nothing to say then.
            reservation = self.decisions.reservations.get(order_id) or self.known.get(order_id)
            if reservation is not None and reservation.customer_id == record.event.data.customer_id:
                yield record.partition.number, answer(reservation, record.event.traceparent)


class InventoryHandler:
    """Inventory's part in the batch loop. See `common.consume.handler.Handler`."""

    group = "inventory"
    arrivals = InOrderOfArrival

    def lock(self, connection: Conn, records: Sequence[Received]) -> store.Locked:
        asked = [r.event for r in records if concerns_inventory(r)]
        wanted = {item.product_id for event in asked if isinstance(event, OrderPlaced) for item in event.data.items}
        return store.lock(connection, wanted, {event.data.order_id for event in asked})

    def decide(self, locked: store.Locked, fresh: Sequence[Received], repeats: Sequence[Received]) -> Batch:
        products, reservations = locked.read()
        asked = [r for r in fresh if concerns_inventory(r)]
        decisions = decide(products, reservations, ((r.event, r.at) for r in asked))
        return Batch(decisions, reservations, [*(r for r in repeats if concerns_inventory(r)), *asked])


_RELEVANT: Final = frozenset(get_args(Relevant))


def concerns_inventory(record: Received) -> bool:
    return type(record.event) in _RELEVANT


def answer(reservation: Reservation, traceparent: str) -> Event:
    """The event that says how an order's stock stands."""
    data = StockData(
        order_id=reservation.order_id,
        customer_id=reservation.customer_id,
        items=reservation.lines,
        reason=reservation.reason,
    )
    at = reservation.decided_at if reservation.revoked_at is None else reservation.revoked_at
    return make(STOCK_EVENTS[reservation.state], data, at=at, traceparent=traceparent)
