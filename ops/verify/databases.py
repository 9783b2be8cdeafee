"""The three databases as the auditor reads them: one snapshot of each, by SQL that is whole and readable.

A snapshot is a REPEATABLE READ READ ONLY transaction of the `auditor` role. Orders are streamed out by COPY, row by
row, in no order: nothing is sorted or kept, neither there nor here. What concerns one database alone, balances and
stock, is added up where it is, and only offenders come out.
"""

from collections.abc import Collection, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from common.config import Env
from ops.verify.marks import DATABASE_OF, DISCARDED, PARKED, REDRIVEN, Place
from ops.verify.unproven import Unproven

DATABASES: Final = ("order", "payment", "inventory")
CONNECT_TIMEOUT_S: Final = 5
OFFENDERS_MAX: Final = 1_000
GROUP_OF: Final = {database: group for group, database in DATABASE_OF.items()}

Row = dict[str, Any]


def urls(env: Env) -> dict[str, str]:
    """Where each database is, for the auditor. Raises `Fatal`."""
    return {database: env.text(f"{database.upper()}_AUDITOR_URL") for database in DATABASES}


class Stored(NamedTuple):
    """A row of `positions`."""

    topic_id: str
    next_offset: int


class Snapshot:
    """One database as it was at one moment. Every method raises `psycopg.Error` when the database goes away."""

    def __init__(self, database: str, url: str) -> None:
        self.database = database
        self.group = GROUP_OF[database]
        try:
            self._connection = psycopg.connect(
                make_conninfo(url, application_name="verify", connect_timeout=CONNECT_TIMEOUT_S)
            )
        except psycopg.OperationalError as error:
            raise Unproven(
                f"the {database} database cannot be reached: {str(error).strip().splitlines()[0]}"
            ) from error
        self._connection.isolation_level = IsolationLevel.REPEATABLE_READ
        self._connection.read_only = True
        # The first statement takes the snapshot: the positions are of the same moment as all that is read later.
        self.positions = {
            (self.group, topic, number): Stored(topic_id, offset)
            for topic, number, topic_id, offset in self._connection.execute(
                "SELECT topic, partition, topic_id, next_offset FROM positions"
            )
        }
        # Each statement reads a table once; the default plan for so much at once would use too little memory.
        self._connection.execute("SET LOCAL work_mem = '64MB'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._connection.close()

    def query(self, statement: str, **parameters: Any) -> list[Row]:
        cursor = self._connection.cursor(row_factory=dict_row)
        return cursor.execute(statement.encode(), parameters or None).fetchall()

    def lines(self, since: str | None = None, orders: Collection[str] | None = None) -> Iterator[str]:
        """A line of each row that speaks of an order: of all, of those with ids from `since` on, or of `orders`."""
        for statement, column in _LINES[self.database]:
            wanted = sql.SQL("{} IS NOT NULL").format(sql.Identifier(column))
            if orders is not None:
                wanted = sql.SQL("{} = ANY({}::text[]::uuid[])").format(
                    sql.Identifier(column), sql.Literal(list(orders))
                )
            elif since is not None:
                wanted = sql.SQL("{} >= {}::uuid").format(sql.Identifier(column), sql.Literal(since))
            copy_out = sql.SQL("COPY ({} WHERE {}) TO STDOUT (DELIMITER '|', NULL '')")
            with self._connection.cursor().copy(copy_out.format(sql.SQL(statement), wanted)) as copy:
                for row in copy:
                    yield str(row, "utf-8")[:-1]

    def parked(self) -> dict[Place, dict[int, str]]:
        """What became of every event that was ever parked, by its place."""
        found: dict[Place, dict[int, str]] = {}
        for row in self.query(_PARKED_EVER):
            place = (self.group, row["topic"], row["partition"])
            fate = PARKED
            if row["state"] in ("decided", "done"):
                fate = DISCARDED if row["discarded"] else REDRIVEN
            found.setdefault(place, {})[row["offset"]] = fate
        return found

    def parked_open(self) -> list[Row]:
        """The operator's list: what is parked and not done."""
        return [{"service": self.database, **row} for row in self.query(_PARKED_OPEN)]

    def stops(self) -> list[str]:
        """Why the service waits for an operator, if it does."""
        return [row["reason"] for row in self.query("SELECT reason FROM stops WHERE resumed_at IS NULL")]


# What a line holds is written at the NamedTuples of `evidence`.
_LINES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "order": (
        (
            """SELECT order_id, 'O', customer_id, partition, status, payment, inventory, settled_at IS NOT NULL,
                 amount, currency, items FROM orders""",
            "order_id",
        ),
    ),
    "payment": (
        ("SELECT order_id, 'P', customer_id, state, amount, currency FROM payments", "order_id"),
        ("SELECT order_id, 'G', kind, customer_id, amount, currency FROM ledger", "order_id"),
    ),
    "inventory": (
        ("SELECT order_id, 'R', customer_id, state, items FROM reservations", "order_id"),
        ("SELECT order_id, 'M', kind, product_id, quantity FROM movements", "order_id"),
    ),
}
# The last word on a parked event tells whether it was taken after all or given up.
_PARKED_EVER: Final = """
    SELECT topic, partition, "offset", state, coalesce((
      SELECT act = 'discard' FROM dead_letter_acts AS a
      WHERE a.topic = p.topic AND a.partition = p.partition AND a."offset" = p."offset"
      ORDER BY act_id DESC LIMIT 1), false) AS discarded
    FROM parked_events AS p
"""
_PARKED_OPEN: Final = """
    SELECT topic, partition, "offset", encode(key, 'escape') AS customer, root, error, state, attempts,
      extract(epoch FROM now() - parked_at)::bigint AS parked_s
    FROM parked_events WHERE state <> 'done' ORDER BY parked_at, topic, partition, "offset"
"""

# The double entry: what every account, the customers', the merchant's and cash, was credited less what it was debited.
# The merchant's and cash exist in the ledger only, so that a customer's balance is the one that can differ.
ACCOUNTS: Final = f"""
    SELECT customer_id, balance, currency, entered, deposits, captures, refunds, count(*) OVER () AS offenders
    FROM accounts FULL JOIN (
      SELECT customer_id, sum(CASE kind WHEN 'capture' THEN -amount ELSE amount END) AS entered,
        sum(amount) FILTER (WHERE kind = 'deposit') AS deposits,
        sum(amount) FILTER (WHERE kind = 'capture') AS captures,
        sum(amount) FILTER (WHERE kind = 'refund') AS refunds,
        min(currency) AS lowest, max(currency) AS highest
      FROM ledger GROUP BY customer_id) AS entries USING (customer_id)
    WHERE balance IS NULL OR balance <> coalesce(entered, 0) OR balance < 0
      OR lowest <> currency OR highest <> currency
    ORDER BY customer_id LIMIT {OFFENDERS_MAX}
"""  # noqa: S608 - a number of ours
LEDGER: Final = """
    SELECT coalesce(l.currency, a.currency) AS currency, coalesce(l.entries, 0) AS entries,
      coalesce(accounts, 0) AS accounts, coalesce(wrong, 0) AS wrong,
      coalesce(cash, 0) + coalesce(merchant, 0) + coalesce(customers, 0) AS sum_of_entries,
      coalesce(cash, 0) + coalesce(merchant, 0) + coalesce(balances, 0) AS sum_of_accounts
    FROM (
      SELECT currency, count(*) AS entries,
        sum(amount * ((credit = 'cash')::int - (debit = 'cash')::int)) AS cash,
        sum(amount * ((credit = 'merchant')::int - (debit = 'merchant')::int)) AS merchant,
        sum(amount * ((credit = 'customer')::int - (debit = 'customer')::int)) AS customers,
        count(*) FILTER (WHERE amount <= 0 OR (kind, debit, credit) NOT IN (
          ('deposit', 'cash', 'customer'), ('capture', 'customer', 'merchant'), ('refund', 'merchant', 'customer')
        )) AS wrong
      FROM ledger GROUP BY currency
    ) AS l FULL JOIN (
      SELECT currency, count(*) AS accounts, sum(balance) AS balances FROM accounts GROUP BY currency
    ) AS a USING (currency)
"""
PRODUCTS: Final = f"""
    SELECT product_id, on_hand, moved, restocks, reserves, releases, count(*) OVER () AS offenders
    FROM products FULL JOIN (
      SELECT product_id, sum(CASE kind WHEN 'reserve' THEN -quantity ELSE quantity END) AS moved,
        sum(quantity) FILTER (WHERE kind = 'restock') AS restocks,
        sum(quantity) FILTER (WHERE kind = 'reserve') AS reserves,
        sum(quantity) FILTER (WHERE kind = 'release') AS releases,
        min(quantity) AS least
      FROM movements GROUP BY product_id) AS entries USING (product_id)
    WHERE on_hand IS NULL OR on_hand <> coalesce(moved, 0) OR on_hand < 0 OR least <= 0
    ORDER BY product_id LIMIT {OFFENDERS_MAX}
"""  # noqa: S608 - a number of ours
STOCK: Final = "SELECT count(*) AS products FROM products"
UNSETTLED: Final = """
    SELECT count(*) AS orders, coalesce(extract(epoch FROM now() - min(
      coalesce(placed_at, to_timestamp((timeline -> 0 ->> 'at')::bigint / 1000.0)))), 0)::float8 AS oldest_s
    FROM orders WHERE settled_at IS NULL
"""
# A pending order waits for its decision until its deadline, a decided one for its compensations; what waits for the
# order itself waits for a record that lies in the log already.
OVERDUE: Final = f"""
    SELECT order_id::text, status, payment, inventory, waited_s, count(*) OVER () AS offenders FROM (
      SELECT order_id, status, payment, inventory,
        extract(epoch FROM now() - CASE status
          WHEN 'pending' THEN placed_at
          WHEN 'awaiting_placed' THEN to_timestamp((timeline -> 0 ->> 'at')::bigint / 1000.0)
          ELSE decided_at END)::float8 AS waited_s,
        CASE status WHEN 'pending' THEN %(pending_s)s ELSE %(compensation_s)s END AS allowed_s
      FROM orders WHERE settled_at IS NULL
    ) AS waiting
    WHERE waited_s > allowed_s ORDER BY waited_s DESC LIMIT {OFFENDERS_MAX}
"""  # noqa: S608 - a number of ours

# By primary key. The ledger and the movements have no index by order; what they say is in the evidence.
ABOUT_ORDER: Final[Mapping[str, tuple[str, str]]] = {
    "order": ("order", "SELECT row_to_json(t)::text AS row FROM orders AS t WHERE order_id = %(order_id)s::uuid"),
    "payment": ("payment", "SELECT row_to_json(t)::text AS row FROM payments AS t WHERE order_id = %(order_id)s::uuid"),
    "inventory": (
        "reservation",
        "SELECT row_to_json(t)::text AS row FROM reservations AS t WHERE order_id = %(order_id)s::uuid",
    ),
}
PARKED_OF: Final = """
    SELECT topic, partition, "offset", root, error, state, attempts FROM parked_events
    WHERE key = convert_to(%(customer_id)s, 'UTF8') ORDER BY topic, partition, "offset"
"""


def settled_of(snapshot: Snapshot, orders: Collection[str]) -> set[str]:
    """Which of these orders are settled."""
    found = snapshot.query(
        "SELECT order_id::text FROM orders WHERE order_id = ANY(%(orders)s::text[]::uuid[]) AND settled_at IS NOT NULL",
        orders=list(orders),
    )
    return {row["order_id"] for row in found}
