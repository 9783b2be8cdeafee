"""The story of a batch in payment: lock the accounts, decide, store, answer every order with how its payment stands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from common.consume.handler import InOrderOfArrival
from common.consume.records import Received
from common.events import PAYMENT_EVENTS, Event, OrderId, PaymentData, make
from common.postgres import Conn
from payment import store
from payment.decide import Decisions, Payment, Relevant, decide


@dataclass(frozen=True, slots=True)
class Batch:
    """A decided batch: what to store, and the orders to answer."""

    decisions: Decisions
    known: dict[OrderId, Payment]
    asked: Sequence[Received]

    def store(self, connection: Conn) -> None:
        new = [p for order_id, p in self.decisions.payments.items() if order_id not in self.known]
        if new:
            store.insert_payments(connection, new)
        if self.decisions.transfers:
            store.insert_transfers(connection, self.decisions.transfers)

    def update(self, connection: Conn) -> None:
        revoked = [p for order_id, p in self.decisions.payments.items() if order_id in self.known]
        if revoked:
            store.update_payments(connection, revoked)
        if self.decisions.balances:
            store.update_balances(connection, self.decisions.balances)

    def results(self) -> Iterable[tuple[int, Event]]:
        """Every event is answered, repeats included: whoever asks again may not have got the answer."""
        for record in self.asked:
            order_id = OrderId(record.event.data.order_id)
            # None for a repeat that is parked; another customer's for one parked because it named that order. There
            # is nothing to say then.
            payment = self.decisions.payments.get(order_id) or self.known.get(order_id)
            if payment is not None and payment.customer_id == record.event.data.customer_id:
                yield record.partition.number, answer(payment, record.event.traceparent)


class PaymentHandler:
    """Payment's part in the batch loop. See `common.consume.handler.Handler`."""

    group = "payment"
    arrivals = InOrderOfArrival

    def lock(self, connection: Conn, records: Sequence[Received]) -> store.Locked:
        asked = [r.event.data for r in records if concerns_payment(r)]
        return store.lock(connection, {d.customer_id for d in asked}, {d.order_id for d in asked})

    def decide(self, locked: store.Locked, fresh: Sequence[Received], repeats: Sequence[Received]) -> Batch:
        accounts, payments = locked.read()
        asked = [r for r in fresh if concerns_payment(r)]
        decisions = decide(accounts, payments, ((r.event, r.at) for r in asked))
        return Batch(decisions, payments, [*(r for r in repeats if concerns_payment(r)), *asked])


_RELEVANT: Final = frozenset(get_args(Relevant))


def concerns_payment(record: Received) -> bool:
    return type(record.event) in _RELEVANT


def answer(payment: Payment, traceparent: str) -> Event:
    """The event that says how a payment stands."""
    data = PaymentData(
        order_id=payment.order_id,
        customer_id=payment.customer_id,
        amount=payment.amount,
        currency=payment.currency,
        reason=payment.reason,
    )
    at = payment.decided_at if payment.revoked_at is None else payment.revoked_at
    return make(PAYMENT_EVENTS[payment.state], data, at=at, traceparent=traceparent)
