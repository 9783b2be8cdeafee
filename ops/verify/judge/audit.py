"""The judgement of what concerns one database alone: balances (2), stock (3), idempotency keys (5), what waits (6).

Rows are added up where they are, by the SQL in `audit.sql`, and only offenders come out.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from common.codec import UNDECODABLE
from common.events import OrderPlaced
from ops.tool import statements
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

SQL: Final = statements(__file__)
_placed: Final = msgspec.json.Decoder(OrderPlaced)


def request_fault(request: Request) -> str | None:
    """The fault of the event stored under an idempotency key, if it has one. A retry is answered from it, and publishes
    it again. It is compared with the log order by order. A deleted row cannot be noticed: nothing else says that an
    order had a key."""
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
        return "its hash is not that of the stored order: a retry would be refused"
    return None


def audit_claims(order: Snapshot, report: Report) -> None:
    """No two orders may say that the same record placed, decided or changed them."""
    for row in order.query(SQL["claimed_twice"], most=OFFENDERS_MAX):
        problem = f"its row and the row of {row['other']} name the same record of {row['source']}"
        problem += f": partition {row['partition']}, offset {row['offset']}"
        report.violate(f"order {row['order_id']}", Finding(ONCE, problem))


def audit_money(payment: Snapshot, report: Report) -> None:
    """Every balance is what its ledger says, and all accounts of a currency add up to zero."""
    for total in payment.query(SQL["ledger"]):
        report.checked[MONEY] += total["accounts"]
        subject = f"ledger in {total['currency']}"
        if total["wrong"]:
            problem = f"{total['wrong']} entries have an amount or accounts that their kind does not allow"
            report.violate(subject, Finding(MONEY, problem))
        for name in ("sum_of_entries", "sum_of_accounts"):
            if total[name]:
                problem = f"customers, merchant and cash add up to {total[name]}, not zero, by {name.replace('_', ' ')}"
                report.violate(subject, Finding(MONEY, problem))
    for row in payment.query(SQL["accounts"], most=OFFENDERS_MAX):
        problem = (
            f"the balance is {row['balance']} {row['currency'] or ''}, the sum of its ledger is {row['entered'] or 0}"
        )
        report.violate(f"account {row['customer_id']}", Finding(MONEY, problem), {"row": row})


def audit_stock(inventory: Snapshot, report: Report) -> None:
    """Every stock is what its movements say."""
    report.checked[STOCK] += inventory.query(SQL["product_count"])[0]["products"]
    for row in inventory.query(SQL["products"], most=OFFENDERS_MAX):
        problem = f"{row['on_hand']} pieces are on hand, the sum of its movements is {row['moved'] or 0}"
        if row["wrong"]:
            problem += f"; {row['wrong']} of them have a quantity or an order that their kind does not allow"
        if row["split"]:
            problem += f"; {row['split']} of {row['buckets']} buckets are there, the least has {row['lowest']}"
            problem += f", the last is number {row['highest']}"
        report.violate(f"product {row['product_id']}", Finding(STOCK, problem), {"row": row})


def audit_waiting(order: Snapshot, report: Report, deadline_s: float, parked: Sequence[Row]) -> None:
    """An order that waits too long is a violation. One whose customer has `parked` events waits for the operator, who
    has it on the list: it is unproven."""
    first_parked: dict[str, Row] = {}
    for row in parked:
        if row["customer"] is not None:
            first_parked.setdefault(row["customer"], row)
    [unsettled] = order.query(SQL["unsettled"])
    report.checked[WAITING] += unsettled["orders"]
    report.oldest_unsettled_s = unsettled["oldest_s"]
    allowed = {"pending_s": deadline_s + PENDING_GRACE_S, "compensation_s": COMPENSATION_S}
    behind_parked = []
    for row in order.query(
        SQL["overdue"], most=OFFENDERS_MAX, **allowed, clocks_s=CLOCKS_S, blocked=list(first_parked)
    ):
        limit = allowed["pending_s" if row["status"] == "pending" else "compensation_s"]
        # A missing time, or one in the future, is wrong whatever is parked.
        if row["customer_id"] in first_parked and (row["waited_s"] or 0) > limit:
            behind_parked.append(row)
            continue
        sides = f"payment {row['payment'] or 'open'}, inventory {row['inventory'] or 'open'}"
        waited = "no known time" if row["waited_s"] is None else f"{row['waited_s']:.0f} s"
        problem = f"it has been {row['status']} for {waited} ({sides}), at most {limit:.0f} s are allowed"
        report.violate(f"order {row['order_id']}", Finding(WAITING, problem), {"row": row})
    for row in behind_parked[:OFFENDERS_SHOWN]:
        report.doubt(WAITING, _behind_parked(row, first_parked[row["customer_id"]]))
    if (unshown := len(behind_parked) - OFFENDERS_SHOWN) > 0:
        report.doubt(WAITING, f"{unshown} more orders of customers with parked events have waited too long", unshown)


def _behind_parked(order: Row, parked: Row) -> str:
    """Names no times, so that both passes give the same reason."""
    record = f"{parked['topic']}/{parked['partition']}@{parked['offset']}"
    return (
        f"order {order['order_id']} has been {order['status']} for too long, and {record} of its customer "
        f"{order['customer_id']} is parked by {parked['service']}: redrive or discard it, see 'just dlq list'"
    )
