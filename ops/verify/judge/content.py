"""The judgement of an order's content: customer, amount, currency and items must be the same wherever they are said."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import msgspec

from ops.verify.evidence.kinds import INVENTORY, OUTCOMES, PAYMENT, PLACED, TYPES
from ops.verify.evidence.lines import (
    SEPARATOR,
    UNREADABLE,
    Evidence,
    OrderRow,
    PaymentRow,
    Record,
    ReservationRow,
    lines,
    ordered,
    reserved_lines,
)
from ops.verify.evidence.progress import ANSWERED, APPLIED, GIVEN_UP, HOLDERS, PASSED, UNREAD
from ops.verify.statements import DECIDED, MONEY, ONCE, OUTCOME, STOCK, WAITING, Finding

CLOCK_STEP_MS = 60_000
"""How far the broker's clock may have been set back between two records."""
NOT_PARKED = PASSED + ANSWERED + UNREAD


class Placed(NamedTuple):
    """An order as it was placed."""

    customer_id: str
    amount: str
    currency: str
    items: str


def judge_content(evidence: Evidence, fates: Sequence[str]) -> Iterator[Finding]:
    """Compare customer, amount, currency and items wherever they are said. `fates` is how far each record has been
    read, one entry for each of `evidence.records`."""
    if evidence.broken:
        yield Finding(DECIDED, f"it has a row that cannot be read: {evidence.broken[0]!r}")
    for name in ("orders", "payments", "reservations"):
        if (count := len(getattr(evidence, name))) > 1:
            yield Finding(ONCE, f"it has {count} rows in {name}")
    try:
        yield from _compare(evidence, fates)
    except (msgspec.DecodeError, ValueError) as error:
        yield Finding(DECIDED, f"what was ordered or reserved cannot be read: {error}")


def _compare(evidence: Evidence, fates: Sequence[str]) -> Iterator[Finding]:
    taken = _taken(evidence.records, fates)
    yield from _unlisted(evidence, fates)
    yield from _repeats(taken)
    yield from _foreign(evidence, taken)
    yield from _times(evidence)
    placed = next((Placed(*r.content.split("|", 3)) for r in taken if r.kind == PLACED), None)
    row = evidence.orders[0] if evidence.orders else None
    payment = evidence.payments[0] if evidence.payments else None
    stock = evidence.reservations[0] if evidence.reservations else None
    yield from _of_customer(evidence, fates)
    if row is not None and not row.amount and _placed_for(0, evidence, fates, GIVEN_UP):
        row = None  # the saga has discarded the order, perhaps before it came again: the row has no content
    if placed is not None:
        yield from _as_placed(placed, row, payment, stock, evidence)
    elif row is not None and row.amount:
        # The log is trimmed: the order's row takes its place.
        stored = Placed(row.customer_id, row.amount, row.currency, ordered(row.items).items)
        yield from _as_placed(stored, None, payment, stock, evidence)
    elif row is not None and row.status != "awaiting_placed" and not row.discarded:
        yield Finding(DECIDED, f"its row is {row.status}, and does not say what was ordered")
    if placed is None:
        # Some reader has parked the order. Each of the others is held to what it took itself.
        for reader, rows in enumerate(((row, None, None), (None, payment, None), (None, None, stock))):
            if taken_by_it := _placed_for(reader, evidence, fates, APPLIED):
                yield from _as_placed(taken_by_it[0], *rows, evidence)
    yield from _requests(evidence, is_in_log=placed is not None)
    if payment is not None and evidence.entries:
        captured = (payment.customer_id, payment.amount, payment.currency)
        for kind, *entered in evidence.entries:
            if tuple(entered) != captured:
                yield Finding(MONEY, f"the {kind} is {entered}, the payment {list(captured)}")
    yield from _movements(stock, evidence)


def _taken(records: list[Record], fates: Sequence[str]) -> list[Record]:
    """The records that no reader has parked, and that can be read."""
    return [
        record
        for record, fate in zip(records, fates, strict=True)
        if not fate.strip(NOT_PARKED) and record.content != UNREADABLE
    ]


def _placed_for(reader: int, evidence: Evidence, fates: Sequence[str], letters: Collection[str]) -> list[Placed]:
    """The orders of this id with which a reader of `orders` has come as far as one of `letters`."""
    return [
        Placed(*record.content.split(SEPARATOR, 3))
        for record, fate in zip(evidence.records, fates, strict=True)
        if record.kind == PLACED and record.content != UNREADABLE and fate[reader] in letters
    ]


def _of_customer(evidence: Evidence, fates: Sequence[str]) -> Iterator[Finding]:
    """A discarded order leaves a row that says whose it was."""
    for reader, name in enumerate(("orders", "payments", "reservations")):
        discarded = {placed.customer_id for placed in _placed_for(reader, evidence, fates, GIVEN_UP)}
        if not discarded or evidence.claims or _placed_for(reader, evidence, fates, APPLIED):
            continue
        for row in getattr(evidence, name):
            if row.customer_id not in discarded:
                problem = (
                    f"it was discarded, and {name} has it of {row.customer_id}, not {', '.join(sorted(discarded))}"
                )
                yield Finding(OUTCOME, problem)


def _unlisted(evidence: Evidence, fates: Sequence[str]) -> Iterator[Finding]:
    """What names an order and is otherwise no event must be parked by every reader that has passed it."""
    for record, fate in zip(evidence.records, fates, strict=True):
        if record.content == UNREADABLE:
            groups = [
                group for group, letter in zip(HOLDERS[record.partition.topic], fate, strict=True) if letter in APPLIED
            ]
            if groups:
                where = f"{record.partition}@{record.offset}"
                yield Finding(WAITING, f"{where} is not an event, and {', '.join(groups)} does not list it as parked")


def _repeats(records: list[Record]) -> Iterator[Finding]:
    """An event may come again, with the same content and in the same partition."""
    first: dict[str, Record] = {}
    for record in records:
        before = first.setdefault(record.kind, record)
        if before.content != record.content:
            if record.kind == PLACED:
                yield Finding(DECIDED, "the log has two different orders of this id")
            else:
                yield Finding(ONCE, f"the log has two {TYPES[record.kind]} that differ")
    if len({record.number for record in records}) > 1:
        yield Finding(DECIDED, "its records are in several partitions")
    if len(customers := {record.content.split(SEPARATOR, 1)[0] for record in records}) > 1:
        yield Finding(DECIDED, f"its records name several customers: {', '.join(sorted(customers))}")


def _foreign(evidence: Evidence, taken: list[Record]) -> Iterator[Finding]:
    """Entries that cannot belong to an order, and a row that would send its later events to another partition."""
    for entry in evidence.entries:
        if entry.kind not in ("capture", "refund"):
            yield Finding(MONEY, f"the ledger has a {entry.kind} of {entry.amount} under an order")
    for movement in evidence.movements:
        if movement.kind not in ("reserve", "release"):
            yield Finding(STOCK, f"there is a {movement.kind} of {movement.quantity} under an order")
    numbers = [record.number for record in taken if record.kind == PLACED] or [record.number for record in taken]
    if evidence.orders and numbers and evidence.orders[0].partition != numbers[0]:
        of, at = evidence.orders[0].partition, numbers[0]
        yield Finding(OUTCOME, f"its row says partition {of}, the log has it in {at}: later events would go to {of}")


def _times(evidence: Evidence) -> Iterator[Finding]:
    """An unsettled order must not look younger than the log says, or it could wait for ever."""
    for row in evidence.orders:
        placed = [r.at for r in evidence.records if r.kind == PLACED and r.at]
        if placed and row.placed_at and int(row.placed_at) not in placed:
            yield Finding(WAITING, f"its row has it placed at {row.placed_at} ms, the log at {placed[0]} ms")
        decided = [r.at for r in evidence.records if r.at and r.kind in OUTCOMES.get(row.status, "")]
        if decided and row.decided_at and int(row.decided_at) > max(decided) + CLOCK_STEP_MS:
            yield Finding(WAITING, f"its row has it decided at {row.decided_at} ms, the log at {max(decided)} ms")


def _requests(evidence: Evidence, *, is_in_log: bool) -> Iterator[Finding]:
    """The event stored under an idempotency key is the one that was published, and one order has one key."""
    if len(evidence.requests) > 1:
        yield Finding(ONCE, f"{len(evidence.requests)} idempotency keys stand for it")
    if is_in_log and any(stored not in evidence.digests for stored in evidence.requests):
        yield Finding(ONCE, "the event under its idempotency key is not the one in the log: a retry would differ")


def _as_placed(
    placed: Placed, row: OrderRow | None, payment: PaymentRow | None, stock: ReservationRow | None, evidence: Evidence
) -> Iterator[Finding]:
    """Every row and every answer must have the order as it was placed."""
    customer_id, amount, currency, items = placed
    due = ordered(items)
    if due.amount != amount:
        yield Finding(OUTCOME, f"its amount is {amount}, its items cost {due.amount}")
    charge = (customer_id, amount, currency)
    is_same_row = row is None or (
        (row.customer_id, row.amount, row.currency) == charge and ordered(row.items).items == items
    )
    if row is not None and not is_same_row and (row.amount or row.status != "awaiting_placed"):
        yield Finding(DECIDED, f"its row is not the order that was placed: {list(row)}, {list(placed)}")
    is_paid = payment is not None and (payment.amount or payment.state in (PAYMENT.good, PAYMENT.undone))
    if payment is not None and is_paid and (payment.customer_id, payment.amount, payment.currency) != charge:
        yield Finding(OUTCOME, f"payment took {list(payment)} for an order of {list(charge)}")
    pieces = due.lines
    if stock is not None and stock.state in (INVENTORY.good, INVENTORY.undone):
        reserved = reserved_lines(stock.items)
        if (stock.customer_id, reserved) != (customer_id, pieces):
            yield Finding(OUTCOME, f"inventory reserved {reserved} for an order of {pieces}")
    for record in evidence.records:
        if record.kind in ("C", "R") and record.content != UNREADABLE:
            if record.content.split("|")[:3] != list(charge):
                yield Finding(ONCE, f"{TYPES[record.kind]} says {record.content}, the order {[amount, currency]}")
        elif record.kind in ("S", "L") and record.content.split("|")[1:2] != [pieces]:
            yield Finding(ONCE, f"{TYPES[record.kind]} says {record.content}, the order {pieces}")


def _movements(stock: ReservationRow | None, evidence: Evidence) -> Iterator[Finding]:
    """Reserved pieces left the stock once, and released pieces came back once, product by product."""
    state = stock.state if stock else None
    reserved = reserved_lines(stock.items) if stock and state in (INVENTORY.good, INVENTORY.undone) else ""
    if stock and not reserved and reserved_lines(stock.items):
        yield Finding(STOCK, f"inventory is {state}, and its row reserves {reserved_lines(stock.items)}")
    due = {"reserve": reserved, "release": reserved if state == INVENTORY.undone else ""}
    for kind, expected in due.items():
        moved = [(m.product_id, int(m.quantity)) for m in evidence.movements if m.kind == kind]
        if lines(moved) == expected:
            continue
        twice = [product for product, count in Counter(product for product, _ in moved).items() if count > 1]
        if twice:
            yield Finding(ONCE, f"several {kind}s of {', '.join(sorted(twice))} for it")
        problem = f"inventory is {state or 'undecided'}, and its {kind}s are {lines(moved) or 'none'}"
        problem += f", not {expected or 'none'}"
        yield Finding(STOCK, problem)
