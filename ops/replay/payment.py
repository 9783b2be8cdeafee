"""Payment's decisions, brought back from the topic `payments`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from common.errors import Fatal
from common.events import PAYMENTS, CustomerId, OrderId, PaymentEvent, check_customer
from common.postgres import Conn
from ops.replay.log import Log, chunks, time_of
from ops.replay.report import Restored, refuse_shortfalls
from payment import store
from payment.consumer import Batch
from payment.decide import Account, Decisions, Payment, Transfer

CHUNK_EVENTS: Final = 10_000

_KNOWN: Final = "SELECT order_id, state FROM payments WHERE order_id = ANY(%s::uuid[])"
_OPEN: Final = """
    INSERT INTO accounts (customer_id, balance, currency) SELECT customer_id, 0, currency
    FROM unnest(%s::text[], %s::text[]) AS missing(customer_id, currency) ON CONFLICT DO NOTHING
"""
_DEPOSIT: Final = """
    INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at, idempotency_key)
    SELECT customer_id, 'deposit', amount, currency, now(), %s
    FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS missing(customer_id, currency, amount) WHERE amount > 0
"""


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
    lost = find(connection, log.events(PAYMENTS))
    locked = store.lock(connection, {e.data.customer_id for e in lost.values()}, lost.keys())
    accounts, payments = locked.read()
    decisions, shortfalls = rebuild(lost.values(), accounts, payments)
    lines = [str(shortfall) for shortfall in shortfalls]
    if shortfalls:
        if cover is None:
            refuse_shortfalls(lines, "deposits")
        columns = [list(column) for column in zip(*shortfalls, strict=True)]
        connection.execute(_OPEN, columns[:2])
        connection.execute(_DEPOSIT, (cover, *columns))
        for customer_id, _, amount in shortfalls:
            decisions.balances[customer_id] = decisions.balances.get(customer_id, 0) + amount
    batch = Batch(decisions, payments, ())
    batch.store(connection)
    batch.update(connection)
    return Restored(len(lost), [f"deposits entered as {cover}:", *lines] if lines else [])


def find(connection: Conn, published: Iterator[PaymentEvent]) -> dict[OrderId, PaymentEvent]:
    """The furthest that was published of each order, where the database is not so far."""
    lost: dict[OrderId, PaymentEvent] = {}
    for chunk in chunks(published, CHUNK_EVENTS):
        known: dict[str, str] = dict(connection.execute(_KNOWN, (list({e.subject for e in chunk}),)).fetchall())
        for event in chunk:
            order_id = OrderId(event.subject)
            before = lost.get(order_id)
            if (before is None or before.rank < event.rank) and _RANKS[known.get(order_id)] < event.rank:
                lost[order_id] = event
    return lost


_RANKS: Final[Mapping[str | None, int]] = {None: 0, "completed": 2, "declined": 2, "refunded": 7, "void": 7}


def rebuild(
    lost: Iterable[PaymentEvent], accounts: Mapping[CustomerId, Account], payments: Mapping[OrderId, Payment]
) -> tuple[Decisions, list[Shortfall]]:
    """What it takes to make the database say what was published. A published decision is a decision: nothing is
    decided here, and a balance that does not suffice shows that a deposit is missing.

    Raises `Fatal` for an account that is kept in another currency than it was charged in.
    """
    changed: dict[OrderId, Payment] = {}
    balances: dict[CustomerId, int] = {}
    transfers: list[Transfer] = []
    currencies: dict[CustomerId, str] = {}
    for event in lost:
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
            decided_at=before.decided_at if before else at,  # of one revoked since: of its revocation
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
