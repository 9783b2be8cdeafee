"""A batch of payment by card: what payment does, and a row for each card that has an amount on hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from common.consume.handler import of_kinds
from common.consume.records import Received
from common.events import ORDERS, OUTCOMES, Event, OrderConfirmed, OrderId, OrderPlaced, PlacedData, Reason
from common.pipeline import Statements
from common.postgres import Conn
from examples.gateway import store
from examples.gateway.authorise import Answer, Authoriser, HeldForCards
from payment import store as payment_store
from payment.consumer import RELEVANT, Batch, PaymentHandler
from payment.decide import Account, decide, refusal
from payment.store import Locked

REFUSED: Final[dict[Answer, Reason]] = {
    "declined": "insufficient_funds",
    "unknown": "deadline",
    "voided": "deadline",
    "refunded": "deadline",
}
"""The reason to decline an order whose card has not paid."""


@dataclass(frozen=True, slots=True)
class CardBatch(Batch):
    """A decided batch. `held` are the orders with an amount on hold. It is captured when the order is confirmed, and
    released when the order is not paid, or not any more."""

    held: dict[OrderId, PlacedData]
    confirmed: Sequence[OrderId]
    authoriser: Authoriser

    def update(self, statements: Statements) -> None:
        Batch.update(self, statements)
        payments = {**self.stored, **self.decisions.payments}
        if self.held:
            store.hold(statements, self.held.values())
        if self.confirmed:
            store.capture(statements, self.confirmed)
        # Last, for an order that is confirmed and was cancelled since.
        if unpaid := [order_id for order_id, payment in payments.items() if payment.state != "completed"]:
            store.release(statements, unpaid)

    def results(self) -> Iterable[tuple[int, Event]]:
        """The answers. They are stored by now, so nobody asks about these orders again."""
        for record in self.records:
            if isinstance(record.event, OrderPlaced):
                self.authoriser.forget(OrderId(record.event.subject))
        return Batch.results(self)


class CardHandler:
    """Payment's part in the batch loop, with cards. See `common.consume.handler.Handler`."""

    group = PaymentHandler.group
    reads = (ORDERS, OUTCOMES)
    """Confirmations are in `outcomes`; older versions wrote them to `orders`."""
    publishes = PaymentHandler.publishes
    phase = PaymentHandler.phase

    def __init__(self, authoriser: Authoriser) -> None:
        self._authoriser = authoriser
        self._payment = PaymentHandler()

    def lacking(self, connection: Conn, published: Sequence[Event]) -> list[Event]:
        return self._payment.lacking(connection, published)

    def arrivals(self) -> HeldForCards:
        return HeldForCards(self._authoriser)

    def lock(self, statements: Statements, records: Sequence[Received]) -> Locked:
        """Locks the accounts of confirmed orders too: they are in two topics, so another instance may decide about them
        at the same time."""
        orders = [r.event.data for r in of_kinds(records, RELEVANT | {OrderConfirmed})]
        return payment_store.lock(statements, {o.customer_id for o in orders}, {o.order_id for o in orders})

    def decide(self, locked: Locked, fresh: Sequence[Received], repeats: Sequence[Received]) -> CardBatch:
        """Raises `TimeoutError`, which is transient, for an order that was parked and is redriven while the gateway is
        down: it was not held by `HeldForCards`."""
        accounts, payments = locked.read()
        new, old = _decided_by(fresh), _decided_by(repeats)
        orders: dict[OrderId, PlacedData] = {
            OrderId(r.event.subject): r.event.data
            for r in new
            if isinstance(r.event, OrderPlaced) and r.event.data.amount
        }
        answers = {
            order_id: self._authoriser.ask(order).result(self._authoriser.hold_s) for order_id, order in orders.items()
        }

        def refuse(account: Account | None, balance: int, order: PlacedData) -> Reason | None:
            answer = answers.get(OrderId(order.order_id))
            return refusal(account, balance, order) or (answer and REFUSED.get(answer))

        decisions = decide(accounts, payments, ((r.event, r.at) for r in new), refuse)
        held = {order_id: order for order_id, order in orders.items() if answers[order_id] != "declined"}
        confirmed = [OrderId(r.event.subject) for r in of_kinds(fresh, {OrderConfirmed})]
        return CardBatch(decisions, payments, [*old, *new], held, confirmed, self._authoriser)


def _decided_by(records: Sequence[Received]) -> list[Received]:
    """The records that payment decides by. Rejections and cancellations are in `outcomes` as well: there they could
    overtake their orders, which would then be void."""
    return [record for record in of_kinds(records, RELEVANT) if record.partition.topic == ORDERS]
