"""The three databases as the auditor reads them: one snapshot of each, by SQL that is whole and readable.

A snapshot is a REPEATABLE READ READ ONLY transaction of the `auditor` role. Orders are streamed out part by part, each
already told apart by bucket: nothing is sorted or kept, neither there nor here. What concerns one database alone,
balances and stock, is added up where it is, and only offenders come out.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from common.config import Env
from ops.verify.evidence.progress import DATABASE_OF, DISCARDED, DISCARDING, PARKED, REDRIVEN, Place
from ops.verify.statements import Unproven

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


class Block(NamedTuple):
    """Lines of one bucket, with line breaks between them."""

    bucket: str
    lines: str


def _counted(rows: Iterable[tuple[str, str, int]]) -> Iterator[tuple[Block, int]]:
    return ((Block(bucket, lines), count) for bucket, lines, count in rows)


class Request(NamedTuple):
    """What was first asked for under an idempotency key."""

    customer_id: str
    key: str
    request_hash: bytes
    order_id: str
    event: bytes


class Parked(NamedTuple):
    """What became of a parked event, and the digest of its key and value."""

    fate: str
    digest: str


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

    def blocks(self, digits: int) -> Iterator[Block]:
        """A line of each row that speaks of an order, many at once; buckets are named by that many `digits`."""
        for table, line in _LINES[self.database]:
            for first, end in self._parts(table):
                part = {"first": first, "end": end, "digits": digits}
                query = sql.SQL(_BLOCKS).format(line=sql.SQL(line), table=sql.Identifier(table))
                with self._connection.cursor(binary=True) as cursor:
                    found = cursor.execute(query, part).fetchall()
                # A line break within a row would make two lines of it. No service writes one.
                if any(block.lines.count("\n") + 1 != count for block, count in _counted(found)):
                    yield from self._line_by_line(table, line, part)
                else:
                    yield from (block for block, _ in _counted(found))

    def _parts(self, table: str) -> Iterator[tuple[str, str]]:
        """A table in parts, as tuple ids from and to."""
        [[pages]] = self._connection.execute("SELECT pg_relation_size(%s) / 8192", (table,))
        for first in range(0, pages, PAGES_AT_ONCE):
            yield f"({first},0)", f"({first + PAGES_AT_ONCE},0)"

    def _line_by_line(self, table: str, line: str, part: Mapping[str, Any]) -> Iterator[Block]:
        query = sql.SQL(_ROWS).format(line=sql.SQL(line), table=sql.Identifier(table))
        for bucket, found in self._connection.execute(query, part).fetchall():
            yield Block(bucket, found.replace("\n", "\\n"))

    def lines(self, orders: Collection[str]) -> Iterator[str]:
        """A line of each row that speaks of one of these orders."""
        for table, line in _LINES[self.database]:
            query = sql.SQL(_ROWS_OF).format(line=sql.SQL(line), table=sql.Identifier(table))
            for (found,) in self._connection.execute(query, (list(orders),)).fetchall():
                yield found.replace("\n", "\\n")

    def has_requests(self) -> bool:
        return bool(self.query("SELECT FROM requests LIMIT 1"))

    def requests(self) -> Iterator[Request]:
        """What is stored under idempotency keys."""
        for first, end in self._parts("requests"):
            with self._connection.cursor(binary=True) as cursor:
                yield from map(Request._make, cursor.execute(_REQUESTS, {"first": first, "end": end}))

    def claims(self, starts: Mapping[int, int]) -> Iterator[str]:
        """The orders whose rows say that they were placed by records which are trimmed: below `starts`, which are by
        partition number."""
        parameters = (list(starts), list(starts.values()))
        with self._connection.cursor(f"claims-{self.database}") as cursor:
            cursor.itersize = CLAIMS_AT_ONCE
            for (order_id,) in cursor.execute(_CLAIMS, parameters):
                yield order_id

    def parked(self) -> dict[Place, dict[int, Parked]]:
        """What became of every event of this log that was ever parked, by its place."""
        found: dict[Place, dict[int, Parked]] = {}
        for row in self.query(_PARKED_EVER):
            place = (self.group, row["topic"], row["partition"])
            fate = PARKED
            if row["state"] in ("decided", "done"):
                given_up = DISCARDED if row["state"] == "done" else DISCARDING
                fate = given_up if row["discarded"] else REDRIVEN
            found.setdefault(place, {})[row["offset"]] = Parked(fate, row["digest"])
        return found

    def parked_open(self) -> list[Row]:
        """The operator's list: what is parked and not done."""
        return [{"service": self.database, **row} for row in self.query(_PARKED_OPEN)]

    def stops(self) -> list[str]:
        """Why the service waits for an operator, if it does."""
        return [row["reason"] for row in self.query("SELECT reason FROM stops WHERE resumed_at IS NULL")]


# What a line holds is written at the NamedTuples of `evidence`. The times of an order that is not settled are what its
# waiting is judged by. `concat`, since it lets nothing vanish for being null.
_LINES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "order": (
        (
            "orders",
            """concat(order_id, '|O|', customer_id, '|', partition, '|', status, '|', payment, '|', inventory, '|',
              settled_at IS NOT NULL, '|',
              CASE WHEN settled_at IS NULL THEN (extract(epoch FROM placed_at) * 1000)::bigint END, '|',
              CASE WHEN settled_at IS NULL THEN (extract(epoch FROM decided_at) * 1000)::bigint END, '|',
              amount, '|', currency, '|', items)""",
        ),
    ),
    "payment": (
        ("payments", "concat(order_id, '|P|', customer_id, '|', state, '|', amount, '|', currency)"),
        ("ledger", "concat(order_id, '|G|', kind, '|', customer_id, '|', amount, '|', currency)"),
    ),
    "inventory": (
        ("reservations", "concat(order_id, '|R|', customer_id, '|', state, '|', items)"),
        ("movements", "concat(order_id, '|M|', kind, '|', product_id, '|', quantity)"),
    ),
}
PAGES_AT_ONCE: Final = 4_096
"""32 MB of a table: what a part of it comes to stays in PostgreSQL's memory, and in ours, for a moment."""
_PART: Final = "order_id IS NOT NULL AND ctid >= %(first)s::tid AND ctid < %(end)s::tid"
_BLOCKS: Final = f"""
    SELECT right(order_id::text, %(digits)s), string_agg({{line}}, E'\\n'), count(*)
    FROM {{table}} WHERE {_PART} GROUP BY 1
"""  # noqa: S608 - a condition of ours
_ROWS: Final = f"SELECT right(order_id::text, %(digits)s), {{line}} FROM {{table}} WHERE {_PART}"  # noqa: S608
_ROWS_OF: Final = "SELECT {line} FROM {table} WHERE order_id = ANY(%s::text[]::uuid[])"
_REQUESTS: Final = """
    SELECT customer_id, idempotency_key, request_hash, order_id::text, event FROM requests
    WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid
"""
CLAIMS_AT_ONCE: Final = 10_000
_CLAIMS: Final = """
    SELECT order_id::text FROM orders JOIN unnest(%s::integer[], %s::bigint[]) AS trimmed(partition, start)
      USING (partition)
    WHERE EXISTS (
      SELECT FROM jsonb_to_recordset(timeline) AS entry(event text, partition integer, "offset" bigint)
      WHERE event IN ('order.placed', 'order.discarded') AND entry.partition = trimmed.partition AND "offset" < start)
"""
# A record speaks of one order, so only one order's row can have it in its timeline.
CLAIMED_TWICE: Final = f"""
    SELECT split_part(event, '.', 1) AS source, entry.partition, "offset", count(*) AS orders,
      min(order_id::text) AS order_id, max(order_id::text) AS other
    FROM orders, jsonb_to_recordset(timeline) AS entry(event text, partition integer, "offset" bigint)
    WHERE "offset" IS NOT NULL GROUP BY 1, 2, 3 HAVING count(*) > 1 LIMIT {OFFENDERS_MAX}
"""  # noqa: S608 - a number of ours
# The last word on a parked event tells whether it was taken after all or given up; a row of a topic that was made anew
# since says nothing of this one.
_PARKED_EVER: Final = """
    SELECT topic, partition, "offset", state, md5(coalesce(key, '') || value) AS digest, given_up AND coalesce((
      SELECT act = 'discard' FROM dead_letter_acts AS a
      WHERE a.topic = p.topic AND a.partition = p.partition AND a."offset" = p."offset"
        AND coalesce(a.topic_id, p.topic_id) = p.topic_id
      ORDER BY act_id DESC LIMIT 1), false) AS discarded
    FROM parked_events AS p JOIN positions USING (topic, partition, topic_id)
"""
_PARKED_OPEN: Final = """
    SELECT topic, partition, "offset", encode(key, 'escape') AS customer, root, error, state, attempts,
      extract(epoch FROM now() - parked_at)::bigint AS parked_s
    FROM parked_events WHERE state <> 'done' ORDER BY parked_at, topic, partition, "offset"
"""

# The double entry: what every account, the customers', the merchant's and cash, was credited less what it was debited.
# The merchant's and cash exist in the ledger only, so that a customer's balance is the one that can differ.
# What a row must be is written as what is right, which a null is not.
ACCOUNTS: Final = f"""
    SELECT customer_id, balance, currency, entered, deposits, captures, refunds, count(*) OVER () AS offenders
    FROM (SELECT *, count(*) OVER (PARTITION BY customer_id) AS rows FROM accounts) AS a FULL JOIN (
      SELECT customer_id, sum(CASE kind WHEN 'capture' THEN -amount ELSE amount END) AS entered,
        sum(amount) FILTER (WHERE kind = 'deposit') AS deposits,
        sum(amount) FILTER (WHERE kind = 'capture') AS captures,
        sum(amount) FILTER (WHERE kind = 'refund') AS refunds,
        min(currency) AS lowest, max(currency) AS highest
      FROM ledger GROUP BY customer_id) AS entries USING (customer_id)
    WHERE (balance = coalesce(entered, 0) AND balance >= 0 AND rows = 1
      AND coalesce(lowest, currency) = currency AND coalesce(highest, currency) = currency) IS NOT TRUE
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
        count(*) FILTER (WHERE (amount > 0 AND customer_id <> '' AND currency <> ''
          AND (kind = 'deposit') = (order_id IS NULL) AND (kind, debit, credit) IN (
          ('deposit', 'cash', 'customer'), ('capture', 'customer', 'merchant'), ('refund', 'merchant', 'customer')
        )) IS NOT TRUE) AS wrong
      FROM ledger GROUP BY currency
    ) AS l FULL JOIN (
      SELECT currency, count(*) AS accounts, sum(balance) AS balances FROM accounts GROUP BY currency
    ) AS a USING (currency)
"""
PRODUCTS: Final = f"""
    SELECT product_id, on_hand, moved, restocks, reserves, releases, coalesce(wrong, 0) AS wrong,
      count(*) OVER () AS offenders
    FROM (SELECT *, count(*) OVER (PARTITION BY product_id) AS rows FROM products) AS p FULL JOIN (
      SELECT product_id, sum(CASE kind WHEN 'reserve' THEN -quantity ELSE quantity END) AS moved,
        sum(quantity) FILTER (WHERE kind = 'restock') AS restocks,
        sum(quantity) FILTER (WHERE kind = 'reserve') AS reserves,
        sum(quantity) FILTER (WHERE kind = 'release') AS releases,
        count(*) FILTER (WHERE (quantity > 0 AND kind IN ('restock', 'reserve', 'release')
          AND (kind = 'restock') = (order_id IS NULL)) IS NOT TRUE) AS wrong
      FROM movements GROUP BY product_id) AS entries USING (product_id)
    WHERE (on_hand = coalesce(moved, 0) AND on_hand >= 0 AND rows = 1 AND coalesce(wrong, 0) = 0) IS NOT TRUE
    ORDER BY product_id LIMIT {OFFENDERS_MAX}
"""  # noqa: S608 - a number of ours
STOCK: Final = "SELECT count(*) AS products FROM products"
UNSETTLED: Final = """
    SELECT count(*) AS orders, coalesce(extract(epoch FROM now() - min(
      coalesce(placed_at, to_timestamp((timeline -> 0 ->> 'at')::bigint / 1000.0)))), 0)::float8 AS oldest_s
    FROM orders WHERE settled_at IS NULL
"""
# A pending order waits for its decision until its deadline, a decided one for its compensations; what waits for the
# order itself waits for a record that lies in the log already. A time that is not there, or is to come, is wrong too.
# Orders of customers with parked events come last, so that they hide no other.
OVERDUE: Final = f"""
    SELECT order_id::text, customer_id, status, payment, inventory, waited_s, count(*) OVER () AS offenders FROM (
      SELECT order_id, customer_id, status, payment, inventory,
        extract(epoch FROM now() - CASE status
          WHEN 'pending' THEN placed_at
          WHEN 'awaiting_placed' THEN to_timestamp((timeline -> 0 ->> 'at')::bigint / 1000.0)
          ELSE decided_at END)::float8 AS waited_s,
        CASE status WHEN 'pending' THEN %(pending_s)s ELSE %(compensation_s)s END AS allowed_s
      FROM orders WHERE settled_at IS NULL
    ) AS waiting
    WHERE (waited_s BETWEEN -%(clocks_s)s AND allowed_s) IS NOT TRUE
    ORDER BY customer_id = ANY(%(held)s::text[]), waited_s DESC LIMIT {OFFENDERS_MAX}
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
