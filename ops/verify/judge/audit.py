"""The judgement of what concerns one database alone: balances (2), stock (3), idempotency keys (5), what waits (6).

Rows are added up where they are, by SQL that is whole and readable, and only offenders come out.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from common.codec import UNDECODABLE
from common.events import OrderPlaced
from ops.verify.report import OFFENDERS_SHOWN, Report
from ops.verify.sources.databases import Request, Row, Snapshot
from ops.verify.statements import MONEY, ONCE, STOCK, WAITING, Finding
from order.api.place.idempotency import request_hash
from order.api.requests import OrderLine

OFFENDERS_MAX: Final = 1_000
PENDING_GRACE_S: Final = 60.0
COMPENSATION_S: Final = 300.0
CLOCKS_S: Final = 60.0
"""How far the broker's clock may be ahead of the database's."""

# A record is about one order, so only one order's row can have it in its timeline.
CLAIMED_TWICE: Final = f"""
    SELECT split_part(event, '.', 1) AS source, entry.partition, "offset", count(*) AS orders,
      min(order_id::text) AS order_id, max(order_id::text) AS other
    FROM orders, jsonb_to_recordset(timeline) AS entry(event text, partition integer, "offset" bigint)
    WHERE "offset" IS NOT NULL GROUP BY 1, 2, 3 HAVING count(*) > 1 LIMIT {OFFENDERS_MAX}
"""  # noqa: S608 - a number of ours
# A customer's balance must be what the ledger credits to the account less what it debits.
# The condition says what is right, so that a null is an offender.
ACCOUNTS: Final = f"""
    SELECT customer_id, balance, currency, entered, deposits, captures, refunds
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
# Double entry: the accounts of the customers, the merchant and cash add up to zero. The last two exist only in the
# ledger.
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
    SELECT product_id, on_hand, moved, restocks, reserves, releases, coalesce(wrong, 0) AS wrong
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
PRODUCT_COUNT: Final = "SELECT count(*) AS products FROM products"
UNSETTLED: Final = """
    SELECT count(*) AS orders, coalesce(extract(epoch FROM now() - min(
      coalesce(placed_at, to_timestamp((timeline -> 0 ->> 'at')::bigint / 1000.0)))), 0)::float8 AS oldest_s
    FROM orders WHERE settled_at IS NULL
"""
# A pending order waits for its decision until its deadline, a decided one for its compensations. A row that awaits the
# order itself waits for a record that is already in the log. A time that is missing or in the future is wrong too.
# Orders of customers with parked events come last, so that they hide no others.
OVERDUE: Final = f"""
    SELECT order_id::text, customer_id, status, payment, inventory, waited_s FROM (
      SELECT order_id, customer_id, status, payment, inventory,
        extract(epoch FROM now() - CASE status
          WHEN 'pending' THEN placed_at
          WHEN 'awaiting_placed' THEN to_timestamp((timeline -> 0 ->> 'at')::bigint / 1000.0)
          ELSE decided_at END)::float8 AS waited_s,
        CASE status WHEN 'pending' THEN %(pending_s)s ELSE %(compensation_s)s END AS allowed_s
      FROM orders WHERE settled_at IS NULL
    ) AS waiting
    WHERE (waited_s BETWEEN -%(clocks_s)s AND allowed_s) IS NOT TRUE
    ORDER BY customer_id = ANY(%(blocked)s::text[]), waited_s DESC LIMIT {OFFENDERS_MAX}
"""  # noqa: S608 - a number of ours


_placed: Final = msgspec.json.Decoder(OrderPlaced)


def request_fault(request: Request) -> str | None:
    """What is wrong with what is stored under an idempotency key, if anything is. A retry is answered from it, and
    publishes it again. Against the log it is checked order by order. A row that was deleted cannot be missed: nothing
    else says that an order had a key."""
    try:
        event = _placed.decode(request.event)
    except UNDECODABLE as error:
        return f"what is stored is not an order: {error}"
    data = event.data
    if {event.subject, data.order_id} != {request.order_id}:
        return f"it stands for order {request.order_id}, and what is stored would place {data.order_id}"
    if data.customer_id != request.customer_id:
        return f"it belongs to customer {request.customer_id}, and what is stored is an order of {data.customer_id}"
    lines = tuple(OrderLine(item.product_id, item.quantity) for item in data.items)
    hashes = {request_hash(data.customer_id, lines, expected) for expected in (None, data.amount)}
    if request.request_hash not in hashes:
        return "its hash is not that of the stored order: a retry would be refused, and another order answered"
    return None


def audit_claims(order: Snapshot, report: Report) -> None:
    """No two orders may say that the same record placed, decided or changed them."""
    for row in order.query(CLAIMED_TWICE):
        what = f"its row and that of {row['other']} name the same record of {row['source']}"
        what += f": partition {row['partition']}, offset {row['offset']}"
        report.violate(f"order {row['order_id']}", Finding(ONCE, what))


def audit_money(payment: Snapshot, report: Report) -> None:
    """Every balance is what its ledger says, and all accounts of a currency add up to zero."""
    for total in payment.query(LEDGER):
        report.checked[MONEY] += total["accounts"]
        subject = f"ledger in {total['currency']}"
        if total["wrong"]:
            what = f"{total['wrong']} entries have an amount or accounts that their kind does not allow"
            report.violate(subject, Finding(MONEY, what))
        for name in ("sum_of_entries", "sum_of_accounts"):
            if total[name]:
                what = f"customers, merchant and cash add up to {total[name]}, not zero, by {name.replace('_', ' ')}"
                report.violate(subject, Finding(MONEY, what))
    for row in payment.query(ACCOUNTS):
        what = f"the balance is {row['balance']} {row['currency'] or ''}, its ledger comes to {row['entered'] or 0}"
        report.violate(f"account {row['customer_id']}", Finding(MONEY, what), {"row": row})


def audit_stock(inventory: Snapshot, report: Report) -> None:
    """Every stock is what its movements say."""
    report.checked[STOCK] += inventory.query(PRODUCT_COUNT)[0]["products"]
    for row in inventory.query(PRODUCTS):
        what = f"{row['on_hand']} pieces are on hand, its movements come to {row['moved'] or 0}"
        if row["wrong"]:
            what += f"; {row['wrong']} of them have a quantity or an order that their kind does not allow"
        report.violate(f"product {row['product_id']}", Finding(STOCK, what), {"row": row})


def audit_waiting(order: Snapshot, report: Report, deadline_s: float, parked: Sequence[Row]) -> None:
    """An order that waits too long is a violation. One whose customer has `parked` events waits for the operator, who
    has it on the list: it is unproven."""
    first_parked: dict[str, Row] = {}
    for row in parked:
        if row["customer"] is not None:
            first_parked.setdefault(row["customer"], row)
    [unsettled] = order.query(UNSETTLED)
    report.checked[WAITING] += unsettled["orders"]
    report.oldest_unsettled_s = unsettled["oldest_s"]
    allowed = {"pending_s": deadline_s + PENDING_GRACE_S, "compensation_s": COMPENSATION_S}
    behind_parked = []
    for row in order.query(OVERDUE, **allowed, clocks_s=CLOCKS_S, blocked=list(first_parked)):
        limit = allowed["pending_s" if row["status"] == "pending" else "compensation_s"]
        # A missing time, or one in the future, is wrong whatever is parked.
        if row["customer_id"] in first_parked and (row["waited_s"] or 0) > limit:
            behind_parked.append(row)
            continue
        sides = f"payment {row['payment'] or 'open'}, inventory {row['inventory'] or 'open'}"
        waited = "no known time" if row["waited_s"] is None else f"{row['waited_s']:.0f} s"
        what = f"it has been {row['status']} for {waited} ({sides}), at most {limit:.0f} s are allowed"
        report.violate(f"order {row['order_id']}", Finding(WAITING, what), {"row": row})
    for row in behind_parked[:OFFENDERS_SHOWN]:
        report.doubt(WAITING, _behind_parked(row, first_parked[row["customer_id"]]))
    if (more := len(behind_parked) - OFFENDERS_SHOWN) > 0:
        report.doubt(WAITING, f"so are {more} more orders of customers with parked events", more)


def _behind_parked(order: Row, parked: Row) -> str:
    """Names no times, so that both passes give the same reason."""
    record = f"{parked['topic']}/{parked['partition']}@{parked['offset']}"
    return (
        f"order {order['order_id']} is {order['status']} for too long, and {record} of its customer "
        f"{order['customer_id']} is parked by {parked['service']}: redrive or discard it, see 'just dlq list'"
    )
