"""The rules of payment: which orders are paid. No I/O, no clock.

`decide` takes the accounts and payments that a batch touches, as locked, and its events in order. It is total: an order
may come twice, and its revocation before it, after it or alone.

    none ──▶ completed ──▶ refunded        none ──▶ declined        none ──▶ void (revoked before it was placed)
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from msgspec import Struct

from common.events import (
    Contradiction,
    CustomerId,
    Milliseconds,
    OrderCancelled,
    OrderDiscarded,
    OrderId,
    OrderPlaced,
    OrderRejected,
    PaymentState,
    PlacedData,
    Reason,
    check_customer,
)

Revocation = OrderRejected | OrderCancelled
Relevant = OrderPlaced | OrderDiscarded | Revocation
"""The events that payment answers. Others on the topic do not concern it."""


class Account(Struct, frozen=True, gc=False):
    """A customer's account. `balance` is in minor units and never below zero."""

    balance: int
    currency: str


class Payment(Struct, frozen=True, kw_only=True, gc=False):
    """The one decision about an order's payment."""

    order_id: OrderId
    customer_id: CustomerId
    state: PaymentState
    reason: Reason | None = None
    amount: int | None = None
    currency: str | None = None
    decided_at: Milliseconds
    revoked_at: Milliseconds | None = None


class Transfer(NamedTuple):
    """One ledger entry: `amount` (minor units, above zero) moves from the debited account to the credited one."""

    kind: Literal["capture", "refund"]
    order_id: OrderId
    customer_id: CustomerId
    amount: int
    currency: str
    at: Milliseconds


class Decisions(NamedTuple):
    """The decisions of a batch. `payments` holds every payment touched, as it now stands."""

    payments: dict[OrderId, Payment]
    balances: dict[CustomerId, int]
    transfers: list[Transfer]


def refusal(account: Account | None, balance: int, order: PlacedData) -> Reason | None:
    """The reason to decline this order, or none."""
    if account is None:
        return "unknown_account"
    if account.currency != order.currency:
        return "currency_mismatch"
    if balance < order.amount:
        return "insufficient_funds"
    return None


def decide(
    accounts: Mapping[CustomerId, Account],
    payments: Mapping[OrderId, Payment],
    events: Iterable[tuple[Relevant, Milliseconds]],
    refuse: Callable[[Account | None, int, PlacedData], Reason | None] = refusal,
) -> Decisions:
    """Apply the events in order, each with its time in the log. Returns only what changed. `refuse` gives the reason to
    decline an order: a payment that asks more than the account, such as a card, has a rule of its own.

    Raises `Contradiction` for an event that names another customer than the payment's, and for a refund to an account
    that is gone or is kept in another currency now.
    """
    changed: dict[OrderId, Payment] = {}
    balances: dict[CustomerId, int] = {}
    transfers: list[Transfer] = []
    for event, at in events:
        order_id, customer_id = OrderId(event.data.order_id), CustomerId(event.data.customer_id)
        before = changed.get(order_id) or payments.get(order_id)
        if before is not None and not isinstance(event, OrderDiscarded):
            check_customer(order_id, before.customer_id, event.data.customer_id)
        match event:
            case OrderPlaced(data=data):
                if before is not None:
                    continue
                account = accounts.get(customer_id)
                balance = balances.get(customer_id, account.balance if account else 0)
                reason = refuse(account, balance, data)
                changed[order_id] = Payment(
                    order_id=order_id,
                    customer_id=customer_id,
                    state="declined" if reason else "completed",
                    reason=reason,
                    amount=data.amount,
                    currency=data.currency,
                    decided_at=at,
                )
                if reason is None and data.amount:
                    balances[customer_id] = balance - data.amount
                    transfers.append(Transfer("capture", order_id, customer_id, data.amount, data.currency, at))
            case OrderDiscarded():
                if before is None:
                    changed[order_id] = Payment(
                        order_id=order_id,
                        customer_id=CustomerId(event.data.customer_id),
                        state="declined",
                        reason="discarded",
                        decided_at=at,
                    )
            case OrderRejected() | OrderCancelled():
                after = revoke(before, event, at)
                if after is before:
                    continue
                changed[order_id] = after
                if after.state == "refunded" and after.amount and after.currency:
                    # The refund is exactly what was captured.
                    balance = balances.get(customer_id, _refundable(after, accounts.get(customer_id)).balance)
                    balances[customer_id] = balance + after.amount
                    transfers.append(Transfer("refund", order_id, customer_id, after.amount, after.currency, at))
    return Decisions(changed, balances, transfers)


def _refundable(payment: Payment, account: Account | None) -> Account:
    """The account that was charged. Someone may have deleted or changed its row since."""
    if account is None or account.currency != payment.currency:
        what = "is gone" if account is None else f"is in {account.currency} now"
        raise Contradiction(
            f"{payment.amount} {payment.currency} of order {payment.order_id} cannot be refunded: the row of account "
            f"{payment.customer_id!r} {what}; see docs/OPERATIONS.md, 'Rows that are gone'"
        )
    return account


def revoke(payment: Payment | None, event: Revocation, at: Milliseconds) -> Payment:
    """The payment of an order that is rejected or cancelled. If none was decided, it is void and none will be."""
    if payment is None:
        return Payment(
            order_id=OrderId(event.data.order_id),
            customer_id=CustomerId(event.data.customer_id),
            state="void",
            reason=event.data.reason,
            decided_at=at,
        )
    if payment.state == "completed":
        return Payment(
            order_id=payment.order_id,
            customer_id=payment.customer_id,
            state="refunded",
            reason=event.data.reason,
            amount=payment.amount,
            currency=payment.currency,
            decided_at=payment.decided_at,
            revoked_at=at,
        )
    return payment
