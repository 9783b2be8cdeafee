"""All SQL of the payment database: for the consumer's batches, for HTTP, and for the demo."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from msgspec import Struct
from psycopg.rows import class_row

from common.audit import table as audit
from common.audit.entry import Entry, user_author
from common.consume.published import EnteredRows
from common.events import CustomerId, OrderId, rfc3339
from common.http.responses import Moment, UuidText
from common.keyed_answers import KeyReused
from common.pipeline import Rows, Statements, Table
from common.postgres import AsyncConn, Conn, columns, timestamp
from payment.decide import Account, Payment, Transfer

# Runs before the payments are read: an instance that waited for this lock then reads what the other one decided.
_LOCK_ACCOUNTS = """
    SELECT customer_id, balance, currency FROM accounts
    WHERE customer_id = ANY(%s) ORDER BY customer_id FOR UPDATE
"""
# The fields of `Payment`, in their order.
_READ_PAYMENTS = """
    SELECT order_id, customer_id, state, reason, amount, currency,
      (extract(epoch FROM decided_at) * 1000)::bigint AS decided_at,
      (extract(epoch FROM revoked_at) * 1000)::bigint AS revoked_at
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
# The fields of `Payment`, in their order.
_PAYMENTS = Table(
    "payments", order_id="uuid", customer_id="text", state="text", reason="text", amount="bigint", currency="text",
    decided_at="timestamptz", revoked_at="timestamptz",
)  # fmt: skip
_TRANSFERS = Table(
    "ledger", kind="text", order_id="uuid", customer_id="text", amount="bigint", currency="text",
    recorded_at="timestamptz",
)  # fmt: skip


class Locked(NamedTuple):
    """The answers to two queries. Those of a pipeline can be read when it has ended."""

    accounts: Rows
    payments: Rows

    def read(self) -> tuple[dict[CustomerId, Account], dict[OrderId, Payment]]:
        rows = self.accounts.fetchall()  # a row at a time costs three times as much
        accounts = {customer_id: Account(balance, currency) for customer_id, balance, currency in rows}
        payments = (
            Payment(**dict(zip(Payment.__struct_fields__, row, strict=True))) for row in self.payments.fetchall()
        )
        return accounts, {payment.order_id: payment for payment in payments}


def lock(statements: Statements, customers: Collection[str], orders: Collection[str]) -> Locked:
    """Lock the accounts in the order of their ids, then read the payments."""
    accounts = statements.execute(_LOCK_ACCOUNTS, (sorted(customers),))
    return Locked(accounts, statements.execute(_READ_PAYMENTS, (list(orders),)))


def insert_payments(statements: Statements, payments: Iterable[Payment]) -> None:
    rows = (
        (p.order_id, p.customer_id, p.state, p.reason, p.amount, p.currency, rfc3339(p.decided_at),
         timestamp(p.revoked_at))
        for p in payments
    )  # fmt: skip
    _PAYMENTS.insert(statements, rows)


def insert_transfers(statements: Statements, transfers: Iterable[Transfer]) -> None:
    _TRANSFERS.insert(statements, ((*t[:-1], rfc3339(t.at)) for t in transfers))


def update_payments(statements: Statements, payments: Sequence[Payment]) -> None:
    rows = ((p.order_id, p.state, p.reason, timestamp(p.revoked_at)) for p in payments)
    statements.execute(_UPDATE_PAYMENTS, columns(rows))


def update_balances(statements: Statements, balances: dict[CustomerId, int]) -> None:
    statements.execute(_UPDATE_BALANCES, (list(balances), list(balances.values())))


def states(connection: Conn, order_ids: Sequence[str]) -> dict[str, str]:
    """The state of each of these orders' payments."""
    rows = connection.execute("SELECT order_id, state FROM payments WHERE order_id = ANY(%s::uuid[])", (order_ids,))
    return dict(rows.fetchall())


DEPOSITED: Final = EnteredRows("ledger", "customer_id")


# For HTTP, on a connection of a pool. Reads are single statements in autocommit.


class AccountView(Struct, frozen=True):
    """A customer's account. `balance` is in minor units."""

    customer_id: str
    balance: int
    currency: str


class EntryView(Struct, frozen=True):
    """A ledger entry for the customer. `amount` is the change of the balance, in minor units."""

    entry_id: int
    kind: Literal["deposit", "capture", "refund"]
    amount: int
    currency: str
    order_id: UuidText | None
    recorded_at: Moment


async def account(connection: AsyncConn, customer_id: str) -> AccountView | None:
    query = "SELECT customer_id, balance, currency FROM accounts WHERE customer_id = %s"
    cursor = await connection.cursor(row_factory=class_row(AccountView)).execute(query, (customer_id,))
    return await cursor.fetchone()


_ENTRIES = """
    SELECT entry_id, kind, CASE kind WHEN 'capture' THEN -amount ELSE amount END AS amount, currency,
      order_id, to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS recorded_at
    FROM ledger WHERE customer_id = %s AND entry_id < %s ORDER BY entry_id DESC LIMIT %s
"""


async def entries(connection: AsyncConn, customer_id: str, *, before: int, limit: int) -> list[EntryView]:
    """The customer's ledger entries with an id below `before`, newest first."""
    cursor = await connection.cursor(row_factory=class_row(EntryView)).execute(_ENTRIES, (customer_id, before, limit))
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
_DEPOSIT = "SELECT amount, currency FROM ledger WHERE customer_id = %s AND idempotency_key = %s"
_CREDIT = """
    UPDATE accounts SET balance = balance + %(amount)s
    WHERE customer_id = %(customer_id)s AND balance + %(amount)s <= %(balance_max)s
    RETURNING customer_id, balance, currency
"""


BALANCE_MAX = 2**53
"""Minor units. Deposits stop here: exact in JSON, and so far below a bigint that no refund overflows it."""


class BalanceTooHigh(Exception):
    """The deposit would take the balance above `BALANCE_MAX`."""


class CurrencyDiffers(Exception):
    """The account has another currency, `currency`."""

    def __init__(self, currency: str) -> None:
        super().__init__(f"the account has the currency {currency}")
        self.currency = currency


async def deposit(connection: AsyncConn, customer_id: str, amount: int, currency: str, key: str) -> AccountView | None:
    """Credit the account, and open it if need be. None, with nothing changed, if the ledger has this deposit under this
    key. Call it in a transaction.

    Raises `KeyReused`, `CurrencyDiffers` and `BalanceTooHigh`.
    """
    cursor = await connection.execute(_OPEN_AND_LOCK, (customer_id, currency))
    (account_currency,) = await cursor.fetchone() or (currency,)
    if account_currency != currency:
        raise CurrencyDiffers(account_currency)
    cursor = await connection.execute(_ENTER_DEPOSIT, (customer_id, amount, currency, key))
    if await cursor.fetchone() is None:
        cursor = await connection.execute(_DEPOSIT, (customer_id, key))
        if await cursor.fetchone() != (amount, currency):
            raise KeyReused
        return None
    credited = connection.cursor(row_factory=class_row(AccountView))
    await credited.execute(_CREDIT, {"amount": amount, "customer_id": customer_id, "balance_max": BALANCE_MAX})
    view = await credited.fetchone()
    if view is None:
        raise BalanceTooHigh
    return view


# Demo data.

_LOAD_DEMO = """
    WITH wanted AS (
      SELECT 'cust-' || lpad(number::text, 6, '0') AS customer_id, 1000000 AS balance
      FROM generate_series(0, 99999) AS number
      UNION ALL SELECT 'cust-poor', 100
    ), opened AS (
      INSERT INTO accounts (customer_id, balance, currency) SELECT customer_id, balance, 'EUR' FROM wanted
      ON CONFLICT DO NOTHING RETURNING customer_id, balance, currency
    )
    INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at, idempotency_key)
    SELECT customer_id, 'deposit', balance, currency, now(), 'demo' FROM opened
"""


def load_demo(connection: Conn) -> int:
    """Open the demo accounts that do not exist yet, each with a deposit; returns how many."""
    with connection.transaction():
        opened = connection.execute(_LOAD_DEMO).rowcount
        if opened:
            audit.write(connection, user_author(), Entry("load-demo", "accounts", {}, f"{opened} opened"))
    return opened
