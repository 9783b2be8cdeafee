"""The judgement of an order's states: who says what, and how far each record has been read. No content, no I/O.

A row is held against exactly those records that its reader has passed. Few shapes occur, so their judgement is
remembered, which makes a million orders cheap.
"""

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from ops.verify.evidence.kinds import (
    ANY_OUTCOME,
    CANCEL_REQUESTED,
    DEADLINE_PASSED,
    FINAL,
    INVENTORY,
    OUTCOMES,
    PAYMENT,
    PLACED,
    RANK,
    REVOCATIONS,
    TOPIC_OF,
    TOPICS,
    TYPES,
    Side,
)
from ops.verify.evidence.progress import ANSWERED, APPLIED, DISCARDED, GIVEN_UP, PARKED, UNREAD, Trimmed
from ops.verify.statements import DECIDED, MONEY, ONCE, OUTCOME, WAITING, Finding


class Verdict(NamedTuple):
    """What is wrong with an order, and whether something about it cannot be judged yet."""

    findings: tuple[Finding, ...]
    is_waiting: bool


class Seen(NamedTuple):
    """A record without its content: its kind, and how far each reader of its topic has come with it."""

    kind: str
    progress: str


Records = tuple[Seen, ...]


class Shape(NamedTuple):
    """An order without its content."""

    orders: Records
    outcomes: Records
    payments: Records
    inventory: Records
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
    """Whether its row says that it was placed by a record that was trimmed."""
    is_discarded: bool = False
    """Whether its row says that it was rejected because an operator discarded it."""

    @property
    def of_order(self) -> Records:
        """What the api and the saga have published of it."""
        return (*self.orders, *self.outcomes)

    @property
    def may_be_rejected(self) -> bool:
        """Whether the log has a refusal, or may have had one. An operator's decision is in no record, and a saga that
        was restored has it from its own outcome."""
        refused = any(kind in "DJ" for kind, _ in (*self.payments, *self.inventory))
        return refused or self.is_discarded or self.trimmed.payments or self.trimmed.inventory

    @property
    def is_repeated(self) -> bool:
        """Whether the kept log has the order only as it came again. What followed the first one may be trimmed."""
        return self.claims and self.trimmed.orders


def by_topic(seen: Iterable[Seen]) -> tuple[Records, Records, Records, Records]:
    """The records of each of `TOPICS`."""
    records: dict[str, list[Seen]] = {topic: [] for topic in TOPICS}
    for record in seen:
        records[TOPIC_OF[record.kind]].append(record)
    orders, outcomes, payments, inventory = map(tuple, records.values())
    return orders, outcomes, payments, inventory


@lru_cache(65_536)
def judge_states(shape: Shape) -> Verdict:
    """Judge the states. No finding comes twice."""
    findings = [
        *_log_alone(shape),
        *_side(shape, PAYMENT, shape.payment, shape.payments, shape.trimmed.payments),
        *_side(shape, INVENTORY, shape.stock, shape.inventory, shape.trimmed.inventory),
        *_ledger(shape),
        *_saga(shape),
        *_outcome(shape),
        *_accepted(shape),
    ]
    is_waiting = any(UNREAD in progress for _, progress in (*shape.orders, *shape.payments, *shape.inventory))
    return Verdict(tuple(dict.fromkeys(findings)), is_waiting)


def _log_alone(shape: Shape) -> Iterator[Finding]:
    """What the log says of the order must not contradict itself."""
    kinds = {kind for kind, _ in shape.of_order}
    # A record that no reader has processed is on the operator's list, whatever order it names.
    taken = any(set(progress) != {PARKED} for _, progress in (*shape.of_order, *shape.payments, *shape.inventory))
    if PLACED not in kinds and taken and not shape.trimmed.orders:
        if kinds & ANY_OUTCOME:
            yield Finding(DECIDED, "the log has its outcome, but not the order")
        elif shape.payments or shape.inventory:
            yield Finding(DECIDED, "the log has a decision about it, but not the order")
    for other in ("confirmed", "cancelled"):  # a confirmed order may be cancelled
        if all(kinds.intersection(OUTCOMES[status]) for status in (other, "rejected")):
            yield Finding(ONCE, f"the log has it {other} and rejected")
    for side, seen in ((PAYMENT, shape.payments), (INVENTORY, shape.inventory)):
        published = {TYPES[kind] for kind, _ in seen}
        families = (
            {f"{side.name}.{side.good}", f"{side.name}.{side.undone}"} & published,
            {f"{side.name}.{side.bad}"} & published,
            {f"{side.name}.{side.void}"} & published,
        )
        if sum(map(bool, families)) > 1:
            yield Finding(ONCE, f"{side.name} decided twice: the log has {' and '.join(sorted(published))}")


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
            # If it came again and was taken, it is unknown which came first: an operator may act at any time.
            if None in states:
                states = (states if taken else states - {None}) | {side.bad}
        elif kind in REVOCATIONS and fate in APPLIED:
            after: dict[str | None, str | None] = {None: side.void, side.good: side.undone}
            states = {after.get(state, state) for state in states}
    return states


def _side(shape: Shape, side: Side, state: str | None, published: tuple[Seen, ...], trimmed: bool) -> Iterator[Finding]:
    """A side's row against the records it has read, and against what it has published."""
    name, reader = side.name, side.reader
    placed = [progress[reader] for kind, progress in shape.orders if kind == PLACED]
    revoked = [progress[reader] for kind, progress in shape.orders if kind in REVOCATIONS]
    if (placed and not shape.is_repeated) or not shape.trimmed.orders:
        possible = possible_states(side, shape.orders)
        if state not in possible:
            yield _impossible(side, state, possible, any(p in APPLIED for p in revoked))
    # A side stores before it publishes, but perhaps after our snapshot: then the record that led to it is unread.
    kinds = {kind for kind, _ in published}
    has_read_all = all(p in APPLIED for p in placed) if placed else shape.trimmed.orders
    if state is not None:
        allowed = {side.kind(state)}
        if state == side.undone or (state == side.good and any(p not in APPLIED for p in revoked)):
            allowed |= {side.kind(side.good), side.kind(side.undone)}
        for kind in sorted(kinds - allowed):
            yield Finding(ONCE, f"{name} published {TYPES[kind]}, and its row says {state}")
    elif published and (has_read_all or _only_parked(placed + revoked, published)):
        yield Finding(DECIDED, f"{name} published {', '.join(sorted(TYPES[k] for k in kinds))}, and has no row")
    if not trimmed:
        final = {side.kind(side.undone), side.kind(side.bad), side.kind(side.void)}
        if ANSWERED in revoked and not kinds & final:
            yield Finding(WAITING, f"{name} has passed the revocation, and the log has no answer to it")
        elif (ANSWERED in placed or DISCARDED in placed) and not kinds:
            yield Finding(WAITING, f"{name} has passed the order, and the log has no answer to it")


def _only_parked(fates: Collection[str], published: Collection[Seen]) -> bool:
    """Whether a side claims to have taken nothing of an order about which it has published. Events that were in the log
    when the saga's snapshot was taken were published before the side's snapshot, so a redrive between the two raises no
    alarm."""
    never_taken = bool(fates) and not any(fate in (*APPLIED, UNREAD, *GIVEN_UP) for fate in fates)
    return never_taken and any(UNREAD not in progress for _, progress in published)


def _impossible(side: Side, state: str | None, possible: set[str | None], revoked: bool) -> Finding:
    name = side.name
    if state is None:
        return Finding(DECIDED, f"{name} has passed the order and has no row for it")
    if possible == {None}:
        problem = f"{name} has a row, {state}, for an order that is not in the part of the log it has read"
        return Finding(DECIDED, problem)
    if state == side.undone and not revoked:
        return Finding(OUTCOME, f"it is {state}, and nothing in the log revokes it")
    if state == side.good and revoked:
        return Finding(OUTCOME, f"it was revoked, and is still {state}")
    expected = " or ".join(sorted(str(p) for p in possible))
    return Finding(OUTCOME, f"{name}'s row says {state} where what it has read leads to {expected}")


def _ledger(shape: Shape) -> Iterator[Finding]:
    """One capture for a payment, one refund for a refunded one."""
    captured = shape.payment in (PAYMENT.good, PAYMENT.undone) and not shape.is_free
    refunded = captured and shape.payment == PAYMENT.undone
    for name, count, due in (("capture", shape.captures, int(captured)), ("refund", shape.refunds, int(refunded))):
        if count > 1:
            yield Finding(ONCE, f"the ledger has {count} {name}s for it")
        if count != due:
            state = f"payment is {shape.payment}" if shape.payment else "there is no payment"
            yield Finding(MONEY, f"{state}, and the ledger has {count} {name}s where there must be {due}")


def _saga(shape: Shape) -> Iterator[Finding]:
    """The order's row against the records which the saga has passed."""
    placed = [progress[0] for kind, progress in shape.orders if kind == PLACED]
    applied = [kind for kind, progress in shape.of_order if progress[0] in APPLIED]
    decisions = {
        "payment": [kind for kind, progress in shape.payments if progress in APPLIED],
        "inventory": [kind for kind, progress in shape.inventory if progress in APPLIED],
    }
    is_given_up = bool(GIVEN_UP & set(placed))
    if is_given_up and set(placed) <= GIVEN_UP and any(kind in OUTCOMES["confirmed"] for kind, _ in shape.of_order):
        yield Finding(OUTCOME, "the saga discarded it without processing it, and the log has it confirmed")
    if shape.row is None:
        if is_given_up:
            yield Finding(DECIDED, "the saga has discarded the order and has no row for it")
        elif PLACED in applied:
            yield Finding(DECIDED, "the saga has passed the order and has no row for it")
        elif decisions["payment"] or decisions["inventory"]:
            yield Finding(DECIDED, "the saga has passed a decision about it and has no row for it")
        elif placed and any(k in ANY_OUTCOME and p[0] != UNREAD for k, p in shape.of_order) and UNREAD not in placed:
            yield Finding(DECIDED, "the log has its outcome, and the saga claims that it never processed the order")
        elif any(progress[0] in APPLIED for _, progress in shape.outcomes):
            yield Finding(DECIDED, "the log has its outcome, and the order database does not have the order")
        return
    if not any(shape.trimmed) and PLACED not in applied and not is_given_up and not any(decisions.values()):
        yield Finding(DECIDED, "there is a row for an order that is not in the part of the log the saga has read")
        return
    status, payment, stock, _ = shape.row
    for side, state, trimmed in (
        (PAYMENT, payment, shape.trimmed.payments),
        (INVENTORY, stock, shape.trimmed.inventory),
    ):
        ranks = {kind: RANK[kind] for kind in decisions[side.name]}
        most = max(ranks.values(), default=0)
        own = side.kind(state)
        if RANK[own] < most or (not trimmed and (RANK[own] > most or (own and own not in ranks))):
            read = ", ".join(sorted(TYPES[kind] for kind in ranks)) or "nothing"
            yield Finding(OUTCOME, f"the saga has read {read} from {side.topic}, and its row says {state or 'nothing'}")
    if is_given_up:
        is_published = any(kind in OUTCOMES.get(status, "") for kind, _ in shape.of_order)
        if set(placed) <= GIVEN_UP and status != "rejected" and not is_published and not shape.is_repeated:
            yield Finding(OUTCOME, f"the saga has discarded it, and its row says {status}")
    elif placed and not shape.is_repeated and (problem := _status_problem(status, payment, stock, applied)):
        yield Finding(OUTCOME, problem)
    elif placed and status == "rejected" and not shape.is_repeated and not shape.may_be_rejected:
        yield Finding(OUTCOME, "it is rejected, and the log has no refusal of either side")
    if not placed and shape.trimmed.orders:
        if not shape.claims and status != "awaiting_placed":
            yield Finding(DECIDED, "there is a row for it, and it names no record that was trimmed from the log")
        return
    # An order that is kept has its outcome kept, whatever was trimmed.
    if status in OUTCOMES and (not shape.trimmed.orders or (placed and not shape.is_repeated)):
        kinds = {kind for kind, _ in shape.of_order}
        reads = [progress[0] for _, progress in (*shape.orders, *shape.payments, *shape.inventory)]
        published = kinds & (ANY_OUTCOME if status == "confirmed" else REVOCATIONS) & set(OUTCOMES[status])
        if not published and all(p in (ANSWERED, UNREAD, DISCARDED) for p in reads):
            yield Finding(WAITING, f"the saga has decided {status}, and the log has no order.{status}")


def _status_problem(status: str, payment: str, stock: str, applied: list[str]) -> str | None:
    """The reason why the saga cannot have reached this status by the records it has read, if there is one."""
    if PLACED not in applied:
        return None if status == "awaiting_placed" else f"it is {status} before the saga has read order.placed"
    after = set(applied[applied.index(PLACED) :])
    match status:
        case "awaiting_placed":
            return "the saga has read order.placed, and its row still awaits it"
        case "pending":
            if types := sorted({TYPES[kind] for kind in after & {CANCEL_REQUESTED, *ANY_OUTCOME}}):
                return f"the saga has taken in {', '.join(types)}, and it is still pending"
            if payment == "declined" or stock == "rejected" or (payment, stock) == ("completed", "reserved"):
                return f"payment is {payment or 'open'}, inventory {stock or 'open'}, and it is still pending"
        case "confirmed":
            revoked = {*OUTCOMES["rejected"], *OUTCOMES["cancelled"]}
            if types := sorted({TYPES[kind] for kind in after & {CANCEL_REQUESTED, *revoked}}):
                return f"the saga has taken in {', '.join(types)}, and it is confirmed"
            if (payment, stock) != ("completed", "reserved") and after.isdisjoint(OUTCOMES["confirmed"]):
                return f"it is confirmed with payment {payment or 'open'} and inventory {stock or 'open'}"
        case "rejected":
            if payment != "declined" and stock != "rejected" and after.isdisjoint(OUTCOMES["rejected"]):
                sides = f"payment {payment or 'open'}, inventory {stock or 'open'}"
                return f"it is rejected, and neither side refused it: {sides}"
        case "cancelled":
            if not after & {CANCEL_REQUESTED, DEADLINE_PASSED}:
                return "it is cancelled without a request or a deadline"
        case _:
            return f"its status is {status!r}"
    return None


def _outcome(shape: Shape) -> Iterator[Finding]:
    """The order's row against the two sides. Their snapshots are later: they may be ahead of it, never behind."""
    if any(kind in OUTCOMES["confirmed"] for kind, _ in shape.of_order):
        for side, state in ((PAYMENT, shape.payment), (INVENTORY, shape.stock)):
            if state in (side.bad, side.void):
                yield Finding(OUTCOME, f"the log has it confirmed, and {side.name} is {state}")
    if shape.row is None:
        # It is not an order newer than our first snapshot: the log would have a record of that one.
        if (shape.payment or shape.stock) and not (shape.orders or shape.payments or shape.inventory):
            yield Finding(
                DECIDED,
                "payment or inventory has a row for it, but neither the order database nor the kept log has the order",
            )
        return
    status, *states, settled = shape.row
    if (settled == "t") != ((status, *states) in FINAL):
        claim = "settled" if settled == "t" else "not settled"
        yield Finding(
            OUTCOME, f"its row says {claim}: {status}, payment {states[0] or 'open'}, inventory {states[1] or 'open'}"
        )
    for side, stored, state in ((PAYMENT, states[0], shape.payment), (INVENTORY, states[1], shape.stock)):
        if not stored or state == stored or (stored, state) == (side.good, side.undone):
            continue
        unread = any(progress[side.reader] not in APPLIED for _, progress in shape.orders)
        if state is None and unread:
            continue  # the side was restored and is reading again
        statement = DECIDED if state is None else OUTCOME
        yield Finding(statement, f"the order's row has {side.name} {stored}, and {side.name} says {state or 'nothing'}")


def _accepted(shape: Shape) -> Iterator[Finding]:
    if shape.accepted and not any(kind == PLACED for kind, _ in shape.orders):
        if not shape.trimmed.orders:
            yield Finding(DECIDED, "it was acknowledged to a client, and the log does not have it")
        elif shape.row is None:
            problem = "it was acknowledged to a client, and neither the kept log nor the order database has it"
            yield Finding(DECIDED, problem)
