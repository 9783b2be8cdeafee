"""A batch of payment by card: what payment does, and a row for each card that has an amount on hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from common.consume.handler import of_kinds
from common.consume.records import Received
from common.events import Event, OrderConfirmed, OrderId, OrderPlaced, PlacedData, Reason
from common.pipeline import Statements
from common.postgres import Conn
from examples.gateway import store
from examples.gateway.authorise import Answer, Authoriser, HeldForCards
from payment.consumer import RELEVANT, Batch, PaymentHandler
from payment.decide import Account, Payment, decide, refusal
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
    """A decided batch. `held` are the orders with an amount on hold, which is to be released unless `wanted` says that
    the order is paid."""

    held: dict[OrderId, PlacedData]
    confirmed: Sequence[OrderId]
    authoriser: Authoriser

    def update(self, statements: Statements) -> None:
        Batch.update(self, statements)
        paid = {**self.stored, **self.decisions.payments}
        if self.held:
            store.hold(statements, self.held.values())
        if self.confirmed:
            store.want(statements, "capture", self.confirmed)
        if unpaid := [order_id for order_id in {*self.held, *self.decisions.payments} if not _is_paid(paid, order_id)]:
            store.want(statements, "release", unpaid)

    def results(self) -> Iterable[tuple[int, Event]]:
        """The answers. They are stored by now, so nobody asks about these orders again."""
        for record in self.records:
            if isinstance(record.event, OrderPlaced):
                self.authoriser.forget(OrderId(record.event.subject))
        return Batch.results(self)


class CardHandler:
    """Payment's part in the batch loop, with cards. See `common.consume.handler.Handler`."""

    group = PaymentHandler.group
    reads = PaymentHandler.reads
    publishes = PaymentHandler.publishes
    phase_s = PaymentHandler.phase_s

    def __init__(self, authoriser: Authoriser) -> None:
        self._authoriser = authoriser
        self._payment = PaymentHandler()

    def lacking(self, connection: Conn, published: Sequence[Event]) -> list[Event]:
        return self._payment.lacking(connection, published)

    def arrivals(self) -> HeldForCards:
        return HeldForCards(self._authoriser)

    def lock(self, statements: Statements, records: Sequence[Received]) -> Locked:
        return self._payment.lock(statements, records)

    def decide(self, locked: Locked, fresh: Sequence[Received], repeats: Sequence[Received]) -> CardBatch:
        """Raises `TimeoutError`, which is transient, for an order that was parked and is redriven while the gateway is
        down: it was not held by `HeldForCards`."""
        accounts, payments = locked.read()
        new = of_kinds(fresh, RELEVANT)
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
        return CardBatch(decisions, payments, [*of_kinds(repeats, RELEVANT), *new], held, confirmed, self._authoriser)


def _is_paid(payments: dict[OrderId, Payment], order_id: OrderId) -> bool:
    return order_id in payments and payments[order_id].state == "completed"
