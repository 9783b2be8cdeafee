"""The judgement of one order, given all that is known of it. No I/O, no clock.

Each database is a function of the records below its positions, stored in one transaction with them. So a row is held
against exactly those records, and what its reader has not passed is no reason for blame: the order is `waiting`, and is
looked at again. What lies above a position does not excuse what lies below it.

- The shape, who says which state and how far each record has been read, decides nearly all. Few shapes occur, so their
  judgement is remembered, which makes a million orders cheap.
- The content, amounts and items, is compared for each order.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from ops.verify.evidence.lines import (
    SEPARATOR,
    TOPIC_OF,
    TYPES,
    UNREADABLE,
    Evidence,
    OrderRow,
    PaymentRow,
    Record,
    ReservationRow,
    lines,
    per_product,
    stored_lines,
    stored_priced,
    total,
)
from ops.verify.evidence.progress import ANSWERED, DISCARDED, GIVEN_UP, PARKED, PASSED, UNREAD, Progress, Trimmed
from ops.verify.statements import Finding, Statement

DECIDED, MONEY, STOCK, OUTCOME, ONCE, WAITING = Statement

PLACED: Final = "p"
CANCEL_REQUESTED: Final = "q"
DEADLINE_PASSED: Final = "t"
REVOCATIONS: Final = frozenset("jx")
OUTCOMES: Final = {"confirmed": "c", "rejected": "j", "cancelled": "x"}
APPLIED: Final = frozenset((PASSED, ANSWERED))
CLOCK_STEP_MS: Final = 60_000
"""How far the broker's clock may have been set back between two records."""
RANK: Final = {"": 0, "C": 1, "D": 1, "R": 2, "V": 2, "S": 1, "J": 1, "L": 2, "W": 2}
"""How far a side has come: it only moves forward."""


class Side(NamedTuple):
    """Payment and inventory follow the same rules under other names."""

    name: str
    topic: str
    reader: int
    """Which letter of an `orders` record's progress is this side's."""
    good: str
    bad: str
    undone: str
    void: str
    letters: Mapping[str, str]

    def kind(self, state: str) -> str:
        return self.letters.get(state, "")


PAYMENT: Final = Side(
    "payment", "payments", 1, "completed", "declined", "refunded", "void",
    {"completed": "C", "declined": "D", "refunded": "R", "void": "V"},
)  # fmt: skip
INVENTORY: Final = Side(
    "inventory", "inventory", 2, "reserved", "rejected", "released", "void",
    {"reserved": "S", "rejected": "J", "released": "L", "void": "W"},
)  # fmt: skip


class Seen(NamedTuple):
    """A record as its shape: its kind, and how far each reader of its topic has come with it."""

    kind: str
    progress: str


class Shape(NamedTuple):
    """An order without its content."""

    orders: tuple[Seen, ...]
    payments: tuple[Seen, ...]
    inventory: tuple[Seen, ...]
    row: tuple[str, str, str, str] | None
    """status, payment, inventory, settled"""
    payment: str | None
    stock: str | None
    captures: int
    refunds: int
    is_free: bool
    trimmed: Trimmed
    accepted: bool
    claims: bool = False
    """Whether its row names, as where it was placed, a record that was trimmed."""


class Verdict(NamedTuple):
    """What is wrong with an order, and whether something about it cannot be judged yet."""

    findings: tuple[Finding, ...]
    waiting: bool


class Judged(NamedTuple):
    """A verdict, and what of the order it covers."""

    verdict: Verdict
    is_placed: bool
    is_settled: bool
    decisions: int


def judge(evidence: Evidence, progress: Progress) -> Judged:
    """Judge an order by all that is known of it."""
    shape = shape_of(evidence, progress)
    findings, waiting = judge_shape(shape)
    more = tuple(judge_content(evidence, shape))
    return Judged(
        Verdict((*findings, *more) if more else findings, waiting),
        is_placed=any(kind == PLACED for kind, _ in shape.orders),
        is_settled=shape.row is not None and shape.row[3] == "t",
        decisions=len(evidence.payments) + len(evidence.reservations),
    )


def shape_of(evidence: Evidence, progress: Progress) -> Shape:
    seen: dict[str, list[Seen]] = {"orders": [], "payments": [], "inventory": []}
    for kind, partition, offset, _, _ in evidence.records:
        topic = TOPIC_OF[kind]
        seen[topic].append(Seen(kind, progress.of(topic, partition, offset)))
    row = evidence.orders[0] if evidence.orders else None
    payment = evidence.payments[0] if evidence.payments else None
    stock = evidence.reservations[0] if evidence.reservations else None
    number = row.partition if row else evidence.records[0].partition if evidence.records else None
    entries = [entry.kind for entry in evidence.entries]
    return Shape(
        orders=tuple(seen["orders"]),
        payments=tuple(seen["payments"]),
        inventory=tuple(seen["inventory"]),
        row=(row.status, row.payment, row.inventory, row.settled) if row else None,
        payment=payment.state if payment else None,
        stock=stock.state if stock else None,
        captures=entries.count("capture"),
        refunds=entries.count("refund"),
        is_free=payment is not None and payment.amount == "0",
        trimmed=progress.trimmed(number),
        accepted=evidence.accepted,
        claims=evidence.claims,
    )


# The shape


@lru_cache(65_536)
def judge_shape(shape: Shape) -> Verdict:
    """Judge who says what. Findings come without repeats."""
    found: list[Finding] = []
    found += _log_alone(shape)
    found += _side(shape, PAYMENT, shape.payment, shape.payments, shape.trimmed.payments)
    found += _side(shape, INVENTORY, shape.stock, shape.inventory, shape.trimmed.inventory)
    found += _ledger(shape)
    found += _saga(shape)
    found += _outcome(shape)
    found += _accepted(shape)
    waiting = any(
        UNREAD in progress for seen in (shape.orders, shape.payments, shape.inventory) for _, progress in seen
    )
    return Verdict(tuple(dict.fromkeys(found)), waiting)


def _log_alone(shape: Shape) -> Iterator[Finding]:
    """What the log says of the order must not contradict itself."""
    kinds = {kind for kind, _ in shape.orders}
    # What nobody has taken in is on the operator's list, whatever order it names.
    taken = any(set(progress) != {PARKED} for _, progress in (*shape.orders, *shape.payments, *shape.inventory))
    if PLACED not in kinds and taken and not shape.trimmed.orders:
        if kinds & set(OUTCOMES.values()):
            yield Finding(DECIDED, "the log has its outcome, but not the order")
        elif shape.payments or shape.inventory:
            yield Finding(DECIDED, "the log has a decision about it, but not the order")
    if {"c", "j"} <= kinds:
        yield Finding(ONCE, "the log has it confirmed and rejected")
    for side, seen in ((PAYMENT, shape.payments), (INVENTORY, shape.inventory)):
        said = {TYPES[kind] for kind, _ in seen}
        families = (
            {f"{side.name}.{side.good}", f"{side.name}.{side.undone}"} & said,
            {f"{side.name}.{side.bad}"} & said,
            {f"{side.name}.{side.void}"} & said,
        )
        if sum(map(bool, families)) > 1:
            yield Finding(ONCE, f"{side.name} decided twice: the log has {' and '.join(sorted(said))}")


def possible_states(side: Side, seen: Iterable[Seen]) -> set[str | None]:
    """The states that the records which a side has passed can have led to."""
    states: set[str | None] = {None}
    seen = list(seen)
    taken = any(kind == PLACED and progress[side.reader] in APPLIED for kind, progress in seen)
    for kind, progress in seen:
        fate = progress[side.reader]
        if kind == PLACED and fate in APPLIED:
            if None in states:
                states = states - {None} | {side.good, side.bad}
        elif kind == PLACED and fate in GIVEN_UP:
            # If it came again and was taken, nobody knows which was first: an operator acts when he will.
            if None in states:
                states = (states if taken else states - {None}) | {side.bad}
        elif kind in REVOCATIONS and fate in APPLIED:
            after: dict[str | None, str | None] = {None: side.void, side.good: side.undone}
            states = {after.get(state, state) for state in states}
    return states


def _side(shape: Shape, side: Side, state: str | None, said: tuple[Seen, ...], trimmed: bool) -> Iterator[Finding]:
    """A side's row against what it has read, and against what it has said."""
    name, reader = side.name, side.reader
    placed = [progress[reader] for kind, progress in shape.orders if kind == PLACED]
    revoked = [progress[reader] for kind, progress in shape.orders if kind in REVOCATIONS]
    if placed or not shape.trimmed.orders:
        possible = possible_states(side, shape.orders)
        if state not in possible:
            yield _impossible(side, state, possible, any(p in APPLIED for p in revoked))
    # What was said was stored before, but perhaps after our snapshot: then the record that led to it is unread.
    kinds = {kind for kind, _ in said}
    if state is not None:
        allowed = {side.kind(state)}
        if state == side.undone or (state == side.good and any(p not in APPLIED for p in revoked)):
            allowed |= {side.kind(side.good), side.kind(side.undone)}
        for kind in sorted(kinds - allowed):
            yield Finding(ONCE, f"{name} said {TYPES[kind]}, and its row says {state}")
    elif said and (trimmed_or_read(placed, shape.trimmed.orders) or _only_parked(placed + revoked, said)):
        yield Finding(DECIDED, f"{name} said {', '.join(sorted(TYPES[k] for k in kinds))}, and has no row")
    if not trimmed:
        final = {side.kind(side.undone), side.kind(side.bad), side.kind(side.void)}
        if ANSWERED in revoked and not kinds & final:
            yield Finding(WAITING, f"{name} has passed the revocation, and the log has no answer of it")
        elif (ANSWERED in placed or DISCARDED in placed) and not kinds:
            yield Finding(WAITING, f"{name} has passed the order, and the log has no answer of it")


def trimmed_or_read(placed: Collection[str], trimmed: bool) -> bool:
    """Whether a side has passed everything that can have led to what it said."""
    return all(p in APPLIED for p in placed) if placed else trimmed


def _only_parked(fates: Collection[str], said: Collection[Seen]) -> bool:
    """Whether a side claims to have taken none of an order of which it has spoken. What was in the log when the saga's
    snapshot was taken was said before the side's, so a redrive between the two raises no alarm."""
    never_taken = bool(fates) and not any(fate in (*APPLIED, UNREAD, *GIVEN_UP) for fate in fates)
    return never_taken and any(UNREAD not in progress for _, progress in said)


def _impossible(side: Side, state: str | None, possible: set[str | None], revoked: bool) -> Finding:
    name = side.name
    if state is None:
        return Finding(DECIDED, f"{name} has passed the order and has no row for it")
    if possible == {None}:
        return Finding(
            DECIDED, f"{name} has a row, {state}, for an order that is not in the part of the log it has read"
        )
    if state == side.undone and not revoked:
        return Finding(OUTCOME, f"it is {state}, and nothing in the log revokes it")
    if state == side.good and revoked:
        return Finding(OUTCOME, f"it was revoked, and is still {state}")
    wanted = " or ".join(sorted(str(p) for p in possible))
    return Finding(OUTCOME, f"{name}'s row says {state} where what it has read leads to {wanted}")


def _ledger(shape: Shape) -> Iterator[Finding]:
    """One capture for a payment, one refund for a refunded one."""
    wanted = (0, 0)
    if shape.payment in ("completed", "refunded") and not shape.is_free:
        wanted = (1, 1 if shape.payment == "refunded" else 0)
    for name, count, due in (("capture", shape.captures, wanted[0]), ("refund", shape.refunds, wanted[1])):
        if count > 1:
            yield Finding(ONCE, f"the ledger has {count} {name}s for it")
        if count != due:
            state = f"payment is {shape.payment}" if shape.payment else "there is no payment"
            yield Finding(MONEY, f"{state}, and the ledger has {count} {name}s where there must be {due}")


def _saga(shape: Shape) -> Iterator[Finding]:
    """The order's row against the records which the saga has passed."""
    placed = [progress[0] for kind, progress in shape.orders if kind == PLACED]
    applied = [kind for kind, progress in shape.orders if progress[0] in APPLIED]
    said = {
        "payment": [kind for kind, progress in shape.payments if progress in APPLIED],
        "inventory": [kind for kind, progress in shape.inventory if progress in APPLIED],
    }
    if GIVEN_UP & set(placed):
        if set(placed) <= GIVEN_UP and any(kind == "c" for kind, _ in shape.orders):
            yield Finding(OUTCOME, "it was given up at the saga before it was taken in, and the log has it confirmed")
        return  # its row says what an operator decided
    if shape.row is None:
        if PLACED in applied:
            yield Finding(DECIDED, "the saga has passed the order and has no row for it")
        elif said["payment"] or said["inventory"]:
            yield Finding(DECIDED, "the saga has passed a decision about it and has no row for it")
        elif (
            placed and any(k in OUTCOMES.values() and p[0] != UNREAD for k, p in shape.orders) and UNREAD not in placed
        ):
            yield Finding(DECIDED, "the log has its outcome, and the saga claims never to have taken it in")
        return
    if not any(shape.trimmed) and PLACED not in applied and not any(said.values()):
        yield Finding(DECIDED, "there is a row for an order that is not in the part of the log the saga has read")
        return
    status, payment, stock, _ = shape.row
    for side, state, trimmed in (
        (PAYMENT, payment, shape.trimmed.payments),
        (INVENTORY, stock, shape.trimmed.inventory),
    ):
        ranks = {kind: RANK[kind] for kind in said[side.name]}
        most = max(ranks.values(), default=0)
        own = side.kind(state)
        if RANK[own] < most or (not trimmed and (RANK[own] > most or (own and own not in ranks))):
            read = ", ".join(sorted(TYPES[kind] for kind in ranks)) or "nothing"
            yield Finding(OUTCOME, f"the saga has read {read} from {side.topic}, and its row says {state or 'nothing'}")
    if placed and (wrong := _status_is_wrong(status, payment, stock, applied)):
        yield Finding(OUTCOME, wrong)
    if not placed and shape.trimmed.orders:
        if not shape.claims and status != "awaiting_placed":
            yield Finding(DECIDED, "there is a row for it, and it names no record that was trimmed from the log")
        return
    everything = [*shape.orders, *shape.payments, *shape.inventory]
    if status in OUTCOMES and not shape.trimmed.orders:
        kinds = {kind for kind, _ in shape.orders}
        reads = [progress[0] for _, progress in everything]
        if OUTCOMES[status] not in kinds and all(p in (ANSWERED, UNREAD, *GIVEN_UP) for p in reads):
            yield Finding(WAITING, f"the saga has decided {status}, and the log has no order.{status}")


def _status_is_wrong(status: str, payment: str, stock: str, applied: list[str]) -> str | None:
    """Why the saga cannot have come to this status by what it has read, if so."""
    if PLACED not in applied:
        return None if status == "awaiting_placed" else f"it is {status} before the saga has read it placed"
    after = set(applied[applied.index(PLACED) :])
    match status:
        case "awaiting_placed":
            return "the saga has read it placed, and its row awaits that"
        case "pending":
            if told := sorted(TYPES[kind] for kind in after & {CANCEL_REQUESTED, *OUTCOMES.values()}):
                return f"the saga has read {', '.join(told)}, and it is still pending"
            if payment == "declined" or stock == "rejected" or (payment, stock) == ("completed", "reserved"):
                return f"payment is {payment or 'open'}, inventory {stock or 'open'}, and it is still pending"
        case "confirmed":
            if told := sorted(TYPES[kind] for kind in after & {CANCEL_REQUESTED, *REVOCATIONS}):
                return f"the saga has read {', '.join(told)}, and it is confirmed"
            if (payment, stock) != ("completed", "reserved") and "c" not in after:
                return f"it is confirmed with payment {payment or 'open'} and inventory {stock or 'open'}"
        case "rejected":
            if payment != "declined" and stock != "rejected" and "j" not in after:
                return (
                    f"it is rejected, and nobody refused it: payment {payment or 'open'}, inventory {stock or 'open'}"
                )
        case "cancelled":
            if not after & {CANCEL_REQUESTED, DEADLINE_PASSED, "x"}:
                return "it is cancelled, and nobody asked for that"
        case _:
            return f"its status is {status!r}"
    return None


_LATER: Final = {
    "completed": {"completed", "refunded"},
    "reserved": {"reserved", "released"},
}
FINAL: Final = frozenset(
    {("confirmed", "completed", "reserved")}
    | {
        (status, payment, stock)
        for status in ("rejected", "cancelled")
        for payment in ("declined", "refunded", "void")
        for stock in ("rejected", "released", "void")
    }
)
"""The settled orders: status, payment, inventory."""


def _outcome(shape: Shape) -> Iterator[Finding]:
    """The order's row against the two sides, whose snapshots are later: they may be further on, never behind."""
    kinds = {kind for kind, _ in shape.orders}
    if "c" in kinds:
        for side, state in ((PAYMENT, shape.payment), (INVENTORY, shape.stock)):
            if state in (side.bad, side.void):
                yield Finding(OUTCOME, f"the log has it confirmed, and {side.name} is {state}")
    if shape.row is None:
        # Not an order that is newer than our first snapshot: of that the log would have a record.
        if (shape.payment or shape.stock) and not (shape.orders or shape.payments or shape.inventory):
            yield Finding(DECIDED, "a side has a row for it, the order database has none, the kept log nothing")
        return
    status, *states, settled = shape.row
    if (settled == "t") != ((status, *states) in FINAL):
        how = "settled" if settled == "t" else "not settled"
        yield Finding(
            OUTCOME, f"its row says {how}: {status}, payment {states[0] or 'open'}, inventory {states[1] or 'open'}"
        )
    for side, known, state in ((PAYMENT, states[0], shape.payment), (INVENTORY, states[1], shape.stock)):
        if not known or state in _LATER.get(known, {known}):
            continue
        unread = any(progress[side.reader] not in APPLIED for _, progress in shape.orders)
        if state is None and unread:
            continue  # a side that reads again after it was restored
        statement = DECIDED if state is None else OUTCOME
        yield Finding(statement, f"the order's row has {side.name} {known}, and {side.name} says {state or 'nothing'}")


def _accepted(shape: Shape) -> Iterator[Finding]:
    if shape.accepted and not any(kind == PLACED for kind, _ in shape.orders):
        if not shape.trimmed.orders:
            yield Finding(DECIDED, "it was acknowledged to a client, and the log does not have it")
        elif shape.row is None:
            yield Finding(
                DECIDED, "it was acknowledged to a client, and neither the kept log nor the order database has it"
            )


# The content


class Ordered(NamedTuple):
    """What an `order.placed` says."""

    customer_id: str
    amount: str
    currency: str
    items: str


def judge_content(evidence: Evidence, shape: Shape) -> Iterator[Finding]:
    """Compare what is said where: customer, amount, currency, items."""
    if evidence.broken:
        yield Finding(DECIDED, f"it has a row that cannot be read: {evidence.broken[0]!r}")
    for rows, name in (
        (evidence.orders, "orders"),
        (evidence.payments, "payments"),
        (evidence.reservations, "reservations"),
    ):
        if len(rows) > 1:
            yield Finding(ONCE, f"it has {len(rows)} rows in {name}")
    try:
        yield from _compare(evidence, shape)
    except (msgspec.DecodeError, ValueError) as error:
        yield Finding(DECIDED, f"what was ordered or reserved cannot be read: {error}")


def _compare(evidence: Evidence, shape: Shape) -> Iterator[Finding]:
    taken = _taken(evidence.records, shape)
    yield from _repeats(taken)
    yield from _foreign(evidence, taken)
    yield from _times(evidence)
    placed = next((Ordered(*r.content.split("|", 3)) for r in taken if r.kind == PLACED), None)
    row = evidence.orders[0] if evidence.orders else None
    payment = evidence.payments[0] if evidence.payments else None
    stock = evidence.reservations[0] if evidence.reservations else None
    if placed is not None:
        yield from _as_placed(placed, row, payment, stock, evidence)
    elif row is not None and row.amount:
        # The log is trimmed: the order's row is the witness.
        stored = Ordered(row.customer_id, row.amount, row.currency, stored_priced(row.items))
        yield from _as_placed(stored, None, payment, stock, evidence)
    yield from _requests(evidence, is_in_log=placed is not None)
    if payment is not None and evidence.entries:
        captured = (payment.customer_id, payment.amount, payment.currency)
        for kind, *entered in evidence.entries:
            if tuple(entered) != captured:
                yield Finding(MONEY, f"the {kind} is {entered}, the payment {list(captured)}")
    yield from _movements(stock, evidence)


def _taken(records: list[Record], shape: Shape) -> list[Record]:
    """The records that nobody has parked, and that can be read."""
    if all(record.content != UNREADABLE for record in records) and not _any_parked(shape):
        return records
    seen = {"orders": iter(shape.orders), "payments": iter(shape.payments), "inventory": iter(shape.inventory)}
    return [
        record
        for record in records
        if set(next(seen[TOPIC_OF[record.kind]]).progress) <= APPLIED | {UNREAD} and record.content != UNREADABLE
    ]


@lru_cache(65_536)
def _any_parked(shape: Shape) -> bool:
    return any(
        set(progress) - APPLIED - {UNREAD}
        for seen in (shape.orders, shape.payments, shape.inventory)
        for _, progress in seen
    )


def _repeats(records: list[Record]) -> Iterator[Finding]:
    """An event may come again, as it was and where it was."""
    first: dict[str, Record] = {}
    for record in records:
        before = first.setdefault(record.kind, record)
        if before.content != record.content:
            if record.kind == PLACED:
                yield Finding(DECIDED, "the log has two different orders of this id")
            else:
                yield Finding(ONCE, f"the log has two {TYPES[record.kind]} that differ")
    if len({record.partition for record in records}) > 1:
        yield Finding(DECIDED, "its records are in several partitions")
    if len(customers := {record.content.split(SEPARATOR, 1)[0] for record in records}) > 1:
        yield Finding(DECIDED, f"its records name several customers: {', '.join(sorted(customers))}")


def _foreign(evidence: Evidence, taken: list[Record]) -> Iterator[Finding]:
    """What stands under an order and cannot belong to one, and a row that would send what follows elsewhere."""
    for entry in evidence.entries:
        if entry.kind not in ("capture", "refund"):
            yield Finding(MONEY, f"the ledger has a {entry.kind} of {entry.amount} under an order")
    for movement in evidence.movements:
        if movement.kind not in ("reserve", "release"):
            yield Finding(STOCK, f"there is a {movement.kind} of {movement.quantity} under an order")
    if evidence.orders and taken and evidence.orders[0].partition != taken[0].partition:
        of, at = evidence.orders[0].partition, taken[0].partition
        yield Finding(OUTCOME, f"its row says partition {of}, the log has it in {at}: what follows would go astray")


def _times(evidence: Evidence) -> Iterator[Finding]:
    """An order at work must not look younger than the log says, or it could wait for ever."""
    for row in evidence.orders:
        placed = [r.at for r in evidence.records if r.kind == PLACED and r.at]
        if placed and row.placed_at and int(row.placed_at) not in placed:
            yield Finding(WAITING, f"its row has it placed at {row.placed_at} ms, the log at {placed[0]} ms")
        told = [r.at for r in evidence.records if r.at and r.kind == OUTCOMES.get(row.status)]
        if told and row.decided_at and int(row.decided_at) > max(told) + CLOCK_STEP_MS:
            yield Finding(WAITING, f"its row has it decided at {row.decided_at} ms, the log knew at {max(told)} ms")


def _requests(evidence: Evidence, *, is_in_log: bool) -> Iterator[Finding]:
    """Under an idempotency key stands the event that was published, and one order has one key."""
    if len(evidence.requests) > 1:
        yield Finding(ONCE, f"{len(evidence.requests)} idempotency keys stand for it")
    if is_in_log and any(stored not in evidence.digests for stored in evidence.requests):
        yield Finding(ONCE, "what is stored under its idempotency key is not what the log has: a retry would differ")


def _as_placed(
    placed: Ordered, row: OrderRow | None, payment: PaymentRow | None, stock: ReservationRow | None, evidence: Evidence
) -> Iterator[Finding]:
    """Everybody must have the order as it was placed."""
    customer_id, amount, currency, items = placed
    if str(total(items)) != amount:
        yield Finding(OUTCOME, f"its amount is {amount}, its items cost {total(items)}")
    if (
        row is not None
        and (row.amount or row.status != "awaiting_placed")
        and (
            (row.customer_id, row.amount, row.currency) != (customer_id, amount, currency)
            or stored_priced(row.items) != items
        )
    ):
        yield Finding(DECIDED, f"its row is not the order that was placed: {list(row)}, {list(placed)}")
    if (
        payment is not None
        and (payment.amount or payment.state in (PAYMENT.good, PAYMENT.undone))
        and ((payment.customer_id, payment.amount, payment.currency) != (customer_id, amount, currency))
    ):
        yield Finding(OUTCOME, f"payment took {list(payment)} for an order of {[customer_id, amount, currency]}")
    wanted = per_product(items)
    if (
        stock is not None
        and stock.state in (INVENTORY.good, INVENTORY.undone)
        and (stock.customer_id != customer_id or stored_lines(stock.items) != wanted)
    ):
        yield Finding(OUTCOME, f"inventory reserved {stored_lines(stock.items)} for an order of {wanted}")
    for record in evidence.records:
        if record.kind in ("C", "R") and record.content != UNREADABLE:
            if record.content.split("|")[:3] != [customer_id, amount, currency]:
                yield Finding(ONCE, f"{TYPES[record.kind]} says {record.content}, the order {[amount, currency]}")
        elif record.kind in ("S", "L") and record.content.split("|")[1:2] != [wanted]:
            yield Finding(ONCE, f"{TYPES[record.kind]} says {record.content}, the order {wanted}")


def _movements(stock: ReservationRow | None, evidence: Evidence) -> Iterator[Finding]:
    """What is reserved has left the stock once, what is released has come back once, product by product."""
    state = stock.state if stock else None
    reserved = stored_lines(stock.items) if stock and state in (INVENTORY.good, INVENTORY.undone) else ""
    if stock and not reserved and stored_lines(stock.items):
        yield Finding(STOCK, f"inventory is {state}, and its row reserves {stored_lines(stock.items)}")
    due = {"reserve": reserved, "release": reserved if state == INVENTORY.undone else ""}
    for kind, wanted in due.items():
        moved = [(m.product_id, int(m.quantity)) for m in evidence.movements if m.kind == kind]
        found = lines(moved)
        if found == wanted:
            continue
        twice = [product for product, count in Counter(product for product, _ in moved).items() if count > 1]
        if twice:
            yield Finding(ONCE, f"several {kind}s of {', '.join(sorted(twice))} for it")
        yield Finding(
            STOCK, f"inventory is {state or 'undecided'}, and its {kind}s are {found or 'none'}, not {wanted or 'none'}"
        )
