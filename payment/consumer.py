"""A batch in payment: lock the accounts, decide, store, answer each order with the state of its payment."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from common.consume.handler import InOrderOfArrival, answers, of_kinds
from common.consume.published import lacking
from common.consume.records import Received
from common.events import PAYMENT_EVENTS, PUBLISHES, READS, Event, OrderId, PaymentData, make
from common.pipeline import Statements
from common.postgres import Conn
from payment import store
from payment.decide import Decisions, Payment, Relevant, decide

RANKS: Final[Mapping[str, int]] = {state: kind.rank for state, kind in PAYMENT_EVENTS.items()}
RELEVANT: Final = frozenset(get_args(Relevant))


@dataclass(frozen=True, slots=True)
class Batch:
    """A decided batch: what to store, the payments as they were before, and the records to answer."""

    decisions: Decisions
    stored: dict[OrderId, Payment]
    records: Sequence[Received]

    def store(self, statements: Statements) -> None:
        new = [p for order_id, p in self.decisions.payments.items() if order_id not in self.stored]
        if new:
            store.insert_payments(statements, new)
        if self.decisions.transfers:
            store.insert_transfers(statements, self.decisions.transfers)

    def update(self, statements: Statements) -> None:
        revoked = [p for order_id, p in self.decisions.payments.items() if order_id in self.stored]
        if revoked:
            store.update_payments(statements, revoked)
        if self.decisions.balances:
            store.update_balances(statements, self.decisions.balances)

    def results(self) -> Iterable[tuple[int, Event]]:
        return answers(self.records, self.decisions.payments, self.stored, answer)


class PaymentHandler:
    """Payment's part in the batch loop. See `common.consume.handler.Handler`."""

    group = "payment"
    reads = READS[group]
    publishes = PUBLISHES[group]
    phase = 0.0
    arrivals = InOrderOfArrival

    def lacking(self, connection: Conn, published: Sequence[Event]) -> list[Event]:
        return lacking(connection, published, store.states, RANKS, store.DEPOSITED)

    def lock(self, statements: Statements, records: Sequence[Received]) -> store.Locked:
        orders = [r.event.data for r in of_kinds(records, RELEVANT)]
        return store.lock(statements, {order.customer_id for order in orders}, {order.order_id for order in orders})

    def decide(self, locked: store.Locked, fresh: Sequence[Received], repeats: Sequence[Received]) -> Batch:
        accounts, payments = locked.read()
        new = of_kinds(fresh, RELEVANT)
        decisions = decide(accounts, payments, ((r.event, r.at) for r in new))
        return Batch(decisions, payments, [*of_kinds(repeats, RELEVANT), *new])


def answer(payment: Payment, traceparent: str) -> Event:
    """The event that reports the state of a payment."""
    data = PaymentData(
        order_id=payment.order_id,
        customer_id=payment.customer_id,
        amount=payment.amount,
        currency=payment.currency,
        reason=payment.reason,
    )
    at = payment.decided_at if payment.revoked_at is None else payment.revoked_at
    return make(PAYMENT_EVENTS[payment.state], data, at=at, traceparent=traceparent)
