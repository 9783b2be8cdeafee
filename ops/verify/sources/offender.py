"""Everything known of an order that breaks a statement, for the report."""

from collections.abc import Sequence
from typing import Any, Final

from common.events import READERS
from ops.verify.evidence.kinds import PLACED, TYPES
from ops.verify.evidence.lines import SEPARATOR, Evidence
from ops.verify.evidence.progress import Progress
from ops.verify.sources.databases import Snapshot, is_uuid

# By primary key. The ledger and the movements have no index by order; the evidence has what they say.
_ROW: Final = "SELECT row_to_json(t)::text AS row FROM {table} AS t WHERE order_id = %(order_id)s::uuid"
_TABLES: Final = {
    "order": ("order", "orders"),
    "payment": ("payment", "payments"),
    "inventory": ("reservation", "reservations"),
}
_PARKED: Final = """
    SELECT topic, partition, "offset", root, error, state, attempts FROM parked_events
    WHERE key = convert_to(%(customer_id)s, 'UTF8') ORDER BY topic, partition, "offset"
"""


def about_order(order_id: str, evidence: Evidence, progress: Progress, databases: Sequence[Snapshot]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    customers = {order.customer_id for order in evidence.orders} | {p.customer_id for p in evidence.payments}
    customers |= {reservation.customer_id for reservation in evidence.reservations}
    customers |= {record.content.split(SEPARATOR)[0] for record in evidence.records if record.kind == PLACED}
    for snapshot in databases:
        name, table = _TABLES[snapshot.database]
        if is_uuid(order_id):
            rows = snapshot.query(_ROW.format(table=table), order_id=order_id)
            known[name] = [row["row"] for row in rows] or "no row"
        for customer in sorted(customers):
            if parked := snapshot.query(_PARKED, customer_id=customer):
                known[f"parked by {snapshot.group}"] = parked
    known["ledger"] = [row._asdict() for row in evidence.entries] or "no entry"
    known["movements"] = [row._asdict() for row in evidence.movements] or "no movement"
    known["log"] = [
        {
            "event": TYPES[record.kind],
            "at": f"{record.partition}@{record.offset}",
            "says": record.content,
            "read": dict(
                zip(READERS[record.partition.topic], progress.of(*record.partition, record.offset), strict=True)
            ),
        }
        for record in evidence.records
    ] or "no record"
    return known
