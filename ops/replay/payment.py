"""Payment's decisions, brought back from the topic `payments`."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from common.errors import Fatal
from common.events import PAYMENTS, CustomerId, OrderId, PaymentEvent, check_customer
from common.postgres import Conn, columns
from ops.log import Log
from ops.replay.published import Restored, cover_notes, events, lost, time_of
from ops.tool import statements
from payment import store
from payment.consumer import Batch
from payment.decide import Account, Decisions, Payment, Transfer

SQL: Final = statements(__file__)


class Shortfall(NamedTuple):
    """What an account lacks, in minor units; zero for one that only has to be opened."""

    customer_id: CustomerId
    currency: str
    amount: int

    def __str__(self) -> str:
        return f"  account {self.customer_id}: at least {self.amount} {self.currency}"


def restore(connection: Conn, log: Log, *, cover: str | None) -> Restored:
    """Within a transaction: write the payments that were published and are not in the database.

    `cover` is the idempotency key under which missing deposits are entered; without one they raise `Fatal`.
    """
    published = lost(connection, events(log, PAYMENTS), SQL["stored"])
    locked = store.lock(connection, {e.data.customer_id for e in published.values()}, published.keys())
    accounts, payments = locked.read()
    rebuilt, shortfalls = rebuild(published.values(), accounts, payments)
    notes = cover_notes(shortfalls, "deposits", cover)
    if shortfalls:
        missing = columns(shortfalls)
        connection.execute(SQL["open"], missing[:2])
        connection.execute(SQL["deposit"], (cover, *missing))
        for customer_id, _, amount in shortfalls:
            rebuilt.balances[customer_id] = rebuilt.balances.get(customer_id, 0) + amount
    batch = Batch(rebuilt, payments, ())
    batch.store(connection)
    batch.update(connection)
    return Restored(len(published), notes)


def rebuild(
    published: Iterable[PaymentEvent], accounts: Mapping[CustomerId, Account], payments: Mapping[OrderId, Payment]
) -> tuple[Decisions, list[Shortfall]]:
    """The changes that make the database agree with what was published. Nothing is decided here: a published decision
    stands, and a balance that does not suffice shows that a deposit is missing.

    Raises `Fatal` for an account that is kept in another currency than it was charged in.
    """
    changed: dict[OrderId, Payment] = {}
    balances: dict[CustomerId, int] = {}
    transfers: list[Transfer] = []
    currencies: dict[CustomerId, str] = {}
    for event in published:
        data, at = event.data, time_of(event)
        order_id, customer_id = OrderId(data.order_id), CustomerId(data.customer_id)
        before = payments.get(order_id)
        if before is not None:
            check_customer(order_id, before.customer_id, customer_id)
        changed[order_id] = Payment(
            order_id=order_id,
            customer_id=customer_id,
            state=event.state,
            reason=data.reason,
            amount=data.amount,
            currency=data.currency,
            decided_at=before.decided_at if before else at,  # for one revoked since: when it was revoked
            revoked_at=at if event.state == "refunded" else None,
        )
        if event.state in ("declined", "void") or not data.amount or data.currency is None:
            continue
        account = accounts.get(customer_id)
        kept_in = currencies.setdefault(customer_id, account.currency if account else data.currency)
        if kept_in != data.currency:
            raise Fatal(f"replay: order {order_id} was paid in {data.currency}, account {customer_id} is in {kept_in}")
        balance = balances.get(customer_id, account.balance if account else 0)
        if before is None:
            balance -= data.amount
            transfers.append(Transfer("capture", order_id, customer_id, data.amount, data.currency, at))
        if event.state == "refunded":
            balance += data.amount
            transfers.append(Transfer("refund", order_id, customer_id, data.amount, data.currency, at))
        balances[customer_id] = balance
    shortfalls = [
        Shortfall(customer_id, currencies[customer_id], max(0, -balance))
        for customer_id, balance in sorted(balances.items())
        if balance < 0 or customer_id not in accounts
    ]
    return Decisions(changed, balances, transfers), shortfalls
