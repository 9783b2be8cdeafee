"""The payment database: all of its SQL, whole and readable. Batches come from the consumer, single calls from HTTP."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from msgspec import Struct
from psycopg.rows import class_row

from common.events import CustomerId, OrderId, rfc3339
from common.postgres import Conn, copy_in
from payment.decide import Account, Payment, Transfer

# Before the payments are read: whoever waits for this lock then sees what the holder decided.
_LOCK_ACCOUNTS = """
    SELECT customer_id, balance, currency FROM accounts
    WHERE customer_id = ANY(%s) ORDER BY customer_id FOR UPDATE
"""
_READ_PAYMENTS = """
    SELECT order_id, customer_id, state, reason, amount, currency,
      (extract(epoch FROM decided_at) * 1000)::bigint, (extract(epoch FROM revoked_at) * 1000)::bigint
    FROM payments WHERE order_id = ANY(%s::uuid[])
"""
_UPDATE_PAYMENTS = """
    UPDATE payments SET state = changed.state, reason = changed.reason, revoked_at = changed.revoked_at
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::timestamptz[]) AS changed(order_id, state, reason, revoked_at)
    WHERE payments.order_id = changed.order_id
"""
_UPDATE_BALANCES = """
    UPDATE accounts SET balance = changed.balance
    FROM unnest(%s::text[], %s::bigint[]) AS changed(customer_id, balance)
    WHERE accounts.customer_id = changed.customer_id
"""
_PAYMENT_COLUMNS = (
    "order_id", "customer_id", "state", "reason", "amount", "currency", "decided_at", "revoked_at",
)  # fmt: skip
_TRANSFER_COLUMNS = ("kind", "order_id", "customer_id", "amount", "currency", "recorded_at")


class Locked(NamedTuple):
    """Two queries under way in a pipeline; their rows are there once it has ended."""

    accounts: "psycopg.Cursor[Any]"
    payments: "psycopg.Cursor[Any]"

    def read(self) -> tuple[dict[CustomerId, Account], dict[OrderId, Payment]]:
        accounts = {customer_id: Account(balance, currency) for customer_id, balance, currency in self.accounts}
        payments = {
            row[0]: Payment(
                order_id=row[0],
                customer_id=row[1],
                state=row[2],
                reason=row[3],
                amount=row[4],
                currency=row[5],
                decided_at=row[6],
                revoked_at=row[7],
            )
            for row in self.payments
        }
        return accounts, payments


def lock(connection: Conn, customers: Collection[str], orders: Collection[str]) -> Locked:
    """Lock the accounts in one order, then read the payments. To be called in pipeline mode."""
    return Locked(
        connection.execute(_LOCK_ACCOUNTS, (sorted(customers),)), connection.execute(_READ_PAYMENTS, (list(orders),))
    )


def insert_payments(connection: Conn, payments: Iterable[Payment]) -> None:
    copy_in(
        connection,
        "payments",
        _PAYMENT_COLUMNS,
        (
            (p.order_id, p.customer_id, p.state, p.reason, p.amount, p.currency, rfc3339(p.decided_at), _time(p))
            for p in payments
        ),
    )


def insert_transfers(connection: Conn, transfers: Iterable[Transfer]) -> None:
    copy_in(connection, "ledger", _TRANSFER_COLUMNS, ((*t[:-1], rfc3339(t.at)) for t in transfers))


def update_payments(connection: Conn, payments: Sequence[Payment]) -> None:
    connection.execute(
        _UPDATE_PAYMENTS,
        (
            [p.order_id for p in payments],
            [p.state for p in payments],
            [p.reason for p in payments],
            [_time(p) for p in payments],
        ),
    )


def update_balances(connection: Conn, balances: dict[CustomerId, int]) -> None:
    connection.execute(_UPDATE_BALANCES, (list(balances), list(balances.values())))


def _time(payment: Payment) -> str | None:
    return None if payment.revoked_at is None else rfc3339(payment.revoked_at)


# For HTTP: single statements on a connection of the pool, in autocommit.

AsyncConn = psycopg.AsyncConnection[Any]


class AccountView(Struct, frozen=True):
    customer_id: str
    balance: int
    currency: str


class EntryView(Struct, frozen=True):
    """A ledger entry as the customer sees it. `amount` is what it did to the balance, in minor units."""

    entry_id: int
    kind: str
    amount: int
    currency: str
    order_id: str | None
    recorded_at: str


class Deposit(NamedTuple):
    """A deposit found under an idempotency key."""

    amount: int
    currency: str


async def account(connection: AsyncConn, customer_id: str) -> AccountView | None:
    cursor = connection.cursor(row_factory=class_row(AccountView))
    await cursor.execute("SELECT customer_id, balance, currency FROM accounts WHERE customer_id = %s", (customer_id,))
    return await cursor.fetchone()


_ENTRIES = """
    SELECT entry_id, kind, CASE kind WHEN 'capture' THEN -amount ELSE amount END AS amount, currency,
      order_id, to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS recorded_at
    FROM ledger WHERE customer_id = %s AND entry_id < %s ORDER BY entry_id DESC LIMIT %s
"""


async def entries(connection: AsyncConn, customer_id: str, *, before: int, limit: int) -> list[EntryView]:
    """The customer's ledger, newest first, from below entry id `before`."""
    cursor = connection.cursor(row_factory=class_row(EntryView))
    await cursor.execute(_ENTRIES, (customer_id, before, limit))
    return await cursor.fetchall()


_OPEN_AND_LOCK = """
    INSERT INTO accounts (customer_id, balance, currency) VALUES (%s, 0, %s)
    ON CONFLICT (customer_id) DO UPDATE SET balance = accounts.balance
    RETURNING currency
"""
_ENTER_DEPOSIT = """
    INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at, idempotency_key)
    VALUES (%s, 'deposit', %s, %s, now(), %s)
    ON CONFLICT (customer_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING entry_id
"""
_CREDIT = """
    UPDATE accounts SET balance = balance + %(amount)s
    WHERE customer_id = %(customer_id)s AND balance + %(amount)s <= %(balance_max)s
    RETURNING customer_id, balance, currency
"""


BALANCE_MAX = 2**53
"""Minor units; exact in JSON. Far enough from what a bigint holds that no refund can ever pass that."""


class BalanceTooHigh(Exception):
    """The deposit would take the balance past `BALANCE_MAX`."""


class CurrencyDiffers(Exception):
    """The account is kept in another currency, `currency`."""

    def __init__(self, currency: str) -> None:
        super().__init__(f"the account is kept in {currency}")
        self.currency = currency


async def deposit(
    connection: AsyncConn, customer_id: str, amount: int, currency: str, key: str | None
) -> AccountView | None:
    """Credit the account, opening it if need be. None when the idempotency key was used before; nothing happened then.

    Raises `CurrencyDiffers`, and `BalanceTooHigh` when the balance would pass `BALANCE_MAX`.
    """
    async with connection.transaction():
        cursor = await connection.execute(_OPEN_AND_LOCK, (customer_id, currency))
        (kept_in,) = await cursor.fetchone() or (currency,)
        if kept_in != currency:
            raise CurrencyDiffers(kept_in)
        cursor = await connection.execute(_ENTER_DEPOSIT, (customer_id, amount, currency, key))
        if await cursor.fetchone() is None:
            return None
        credited = connection.cursor(row_factory=class_row(AccountView))
        await credited.execute(_CREDIT, {"amount": amount, "customer_id": customer_id, "balance_max": BALANCE_MAX})
        found = await credited.fetchone()
        if found is None:
            raise BalanceTooHigh
        return found


async def deposited(connection: AsyncConn, customer_id: str, key: str) -> Deposit | None:
    """The deposit made under this idempotency key."""
    cursor = await connection.execute(
        "SELECT amount, currency FROM ledger WHERE customer_id = %s AND idempotency_key = %s", (customer_id, key)
    )
    row = await cursor.fetchone()
    return Deposit(*row) if row else None


# Demo data.

_LOAD_DEMO = """
    WITH wanted AS (
      SELECT 'cust-' || lpad(number::text, 6, '0') AS customer_id, %(balance)s::bigint AS balance
      FROM generate_series(0, %(customers)s - 1) AS number
      UNION ALL SELECT 'cust-poor', %(poor_balance)s::bigint
    ), opened AS (
      INSERT INTO accounts (customer_id, balance, currency) SELECT customer_id, balance, 'EUR' FROM wanted
      ON CONFLICT DO NOTHING RETURNING customer_id, balance, currency
    )
    INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at, idempotency_key)
    SELECT customer_id, 'deposit', balance, currency, now(), 'demo' FROM opened
"""


def load_demo(connection: Conn, *, customers: int, balance: int, poor_balance: int) -> int:
    """Open the demo accounts that do not exist yet, each with a first deposit; returns how many."""
    with connection.transaction():
        return connection.execute(
            _LOAD_DEMO, {"customers": customers, "balance": balance, "poor_balance": poor_balance}
        ).rowcount
