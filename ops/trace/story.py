"""What became of an order, put together from what the databases and the log say of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from common.codec import decoded
from common.events import (
    INVENTORY,
    ORDERS,
    OUTCOMES,
    PAYMENTS,
    READERS,
    SAGA,
    AnyOrderEvent,
    OrderConfirmed,
    OrderDiscarded,
    OrderPlaced,
    OrderRef,
    type_of,
)
from common.tracing.ids import trace_of
from ops.trace.rows import EntryRow, ItemRow, MovementRow, PaymentRow, ReservationRow

RANKS: Final = {type_of(kind): kind.rank for kind in get_args(AnyOrderEvent)} | {
    type_of(OrderDiscarded): OrderDiscarded.rank
}
PLACED: Final = type_of(OrderPlaced)
REVOKING: Final = ("order.rejected", "order.cancelled")
CONFIRMED: Final = type_of(OrderConfirmed)
OUTCOME_TYPES: Final = (CONFIRMED, *REVOKING)
SENDERS: Final = {PAYMENTS: "payment", INVENTORY: "inventory"}
BY_API: Final = (PLACED, "order.cancel_requested")
UNCAUSED: Final = (*BY_API, "order.deadline_passed")
"""Sent because a client or a clock said so, not in answer to a record."""
UNREADABLE: Final = "(not an event)"

Row = Mapping[str, Any]


class LogRecord(Struct, frozen=True):
    """A record of the log that names the order. `at` is the broker's time in ms since the Unix epoch."""

    topic: str
    partition: int
    offset: int
    at: int
    value: bytes
    key: bytes | None = None


class Stage(Struct, frozen=True, kw_only=True):
    """A step of an order's way: an event, who sent it, where the log has it, and how long after its cause it came.

    Times are the broker's, in ms since the Unix epoch, durations in ms.
    """

    event: str
    by: str
    at: int
    after_ms: int | None
    took_ms: int | None
    topic: str
    partition: int
    offset: int | None
    """None for an outcome that the saga has stored, and that was not found in the log."""
    in_log: bool | None
    """False for a record that the saga has read and that was trimmed since, None if the log was not read."""
    repeat: bool
    """Whether the same event came before."""
    unread_by: tuple[str, ...]
    """The consumer groups that have not processed this record yet."""
    event_id: str
    cause_id: str | None
    cause_at: int | None

    @property
    def record(self) -> str:
        return f"{self.topic}/{self.partition}@{'?' if self.offset is None else self.offset}"


class ParkedEvent(Struct, frozen=True, kw_only=True):
    """An event about the order that a service has parked, and what operators did with it."""

    service: str
    group: str
    record: str
    event: str
    event_id: str
    root: bool
    state: str
    error: str
    attempts: int
    record_time: int
    parked_at: int
    blocked_by: tuple[str, ...]
    """The roots of the same customer that it waits for."""
    acts: tuple[str, ...]


class Story(Struct, frozen=True, kw_only=True):
    """All that is known of an order. Amounts are in minor units, times in ms since the Unix epoch."""

    order_id: str
    trace_id: str
    caller_span_id: str | None
    customer_id: str | None
    status: str | None
    """None while the saga has not stored it."""
    reason: str | None
    amount: int | None
    currency: str | None
    items: list[ItemRow]
    placed_at: int | None
    decided_at: int | None
    settled_at: int | None
    idempotency_key: str | None
    stages: tuple[Stage, ...]
    payment: PaymentRow | None
    ledger: tuple[EntryRow, ...]
    reservation: ReservationRow | None
    movements: tuple[MovementRow, ...]
    parked: tuple[ParkedEvent, ...]
    unread: dict[str, str]
    """The sources (`order`, `payment`, `inventory`, `log`) that could not be read, and why."""

    @property
    def is_empty(self) -> bool:
        """Whether the order is nowhere."""
        rows = (self.status, self.payment, self.reservation, self.idempotency_key)
        return not (self.stages or self.parked or any(row is not None for row in rows))


class Found(Struct, kw_only=True):
    """What the sources say of an order, not yet put together."""

    order: Row | None = None
    request: Row | None = None
    payment: PaymentRow | None = None
    ledger: Sequence[EntryRow] = ()
    reservation: ReservationRow | None = None
    movements: Sequence[MovementRow] = ()
    parked: list[ParkedEvent] = []
    records: Sequence[LogRecord] | None = None
    """None if the log was not read."""
    positions: dict[tuple[str, str, int], int] = {}
    """By group, topic and partition number: the next offset to process."""
    unread: dict[str, str] = {}


class _Named(Struct):
    id: str
    type: str
    data: OrderRef
    traceparent: str = ""


_decode: Final = msgspec.json.Decoder(_Named).decode


def event_named(value: bytes, order_id: str) -> _Named | None:
    """The event in a record that is about this order; None when it cannot be read."""
    event = decoded(_decode, value)
    return event if event is not None and event.data.order_id == order_id else None


def concerns(value: bytes, order_id: str) -> bool:
    """Whether a record that contains the order's id is about it. Another order's customer may be named like it."""
    event = decoded(_decode, value)
    return event is None or event.data.order_id == order_id


class _Seen(Struct):
    event: str
    event_id: str
    topic: str
    partition: int
    offset: int | None
    at: int
    in_log: bool | None


def tell(order_id: str, found: Found) -> Story:
    """Put together what was found of an order."""
    order = found.order or {}
    events = [event for record in found.records or () if (event := event_named(record.value, order_id)) is not None]
    traceparent = order.get("traceparent") or next((event.traceparent for event in events), "")
    trace = trace_of(order_id, traceparent)
    holders: tuple[Row | None, ...] = (order, found.payment, found.reservation, found.request)
    customer = next((row["customer_id"] for row in holders if row), None)
    if customer is None and events:
        customer = events[0].data.customer_id
    return Story(
        order_id=order_id,
        trace_id=trace.trace_id,
        caller_span_id=trace.caller_span_id,
        customer_id=customer,
        status=order.get("status"),
        reason=order.get("reason"),
        amount=order.get("amount"),
        currency=order.get("currency"),
        items=order.get("items", []),
        placed_at=order.get("placed_at"),
        decided_at=order.get("decided_at"),
        settled_at=order.get("settled_at"),
        idempotency_key=found.request["idempotency_key"] if found.request else None,
        stages=stages(order_id, order.get("timeline", ()), found),
        payment=found.payment,
        ledger=tuple(found.ledger),
        reservation=found.reservation,
        movements=tuple(found.movements),
        parked=tuple(found.parked),
        unread=found.unread,
    )


def stages(order_id: str, timeline: Sequence[Row], found: Found) -> tuple[Stage, ...]:
    """The stages of an order, in the order of time: of its records, and of its timeline what the log lacks."""
    seen = [_of_record(order_id, record) for record in found.records or ()]
    undoing = {s.event_id for s in seen if s.topic == ORDERS}  # which `outcomes` has as well
    seen = [s for s in seen if s.topic != OUTCOMES or s.event_id not in undoing]
    known = {(s.topic, s.partition, s.offset) for s in seen}
    in_log = {s.event for s in seen}
    missing = None if found.records is None else False
    for entry in timeline:
        event, offset = entry["event"], entry["offset"]
        topic = _topic_of(event, offset)
        if (topic, entry["partition"], offset) not in known and not (offset is None and event in in_log):
            event_id = f"{order_id}:{event}:{RANKS.get(event, 0)}"
            seen.append(_Seen(event, event_id, topic, entry["partition"], offset, entry["at"], missing))
    seen.sort(key=lambda s: (s.at, RANKS.get(s.event, 0), s.topic, -1 if s.offset is None else s.offset))
    placed_at = next((s.at for s in seen if s.event == PLACED), None)
    told: list[Stage] = []
    ids: set[str] = set()
    for number, s in enumerate(seen):
        repeat = s.event_id in ids
        cause = None if repeat else _cause(s.event, seen[:number])
        told.append(
            Stage(
                event=s.event,
                by=_sender(s.event, s.topic),
                at=s.at,
                after_ms=None if placed_at is None else s.at - placed_at,
                took_ms=None if cause is None else s.at - cause.at,
                topic=s.topic,
                partition=s.partition,
                offset=s.offset,
                in_log=s.in_log,
                repeat=repeat,
                unread_by=_unread_by(s, found.positions),
                event_id=s.event_id,
                cause_id=None if cause is None else cause.event_id,
                cause_at=None if cause is None else cause.at,
            )
        )
        ids.add(s.event_id)
    return tuple(told)


def _of_record(order_id: str, record: LogRecord) -> _Seen:
    event = event_named(record.value, order_id)
    place = f"{record.topic}/{record.partition}@{record.offset}"
    name, event_id = (event.type, event.id) if event else (UNREADABLE, place)
    return _Seen(name, event_id, record.topic, record.partition, record.offset, record.at, True)


def _unread_by(seen: _Seen, positions: Mapping[tuple[str, str, int], int]) -> tuple[str, ...]:
    if seen.offset is None or seen.in_log is False:
        return ()
    standing = {group: positions.get((group, seen.topic, seen.partition)) for group in READERS[seen.topic]}
    return tuple(group for group, offset in standing.items() if offset is not None and offset <= seen.offset)


def _topic_of(event: str, offset: int | None) -> str:
    """Where an entry of the timeline is in the log. A confirmation with an offset is in `orders`, where older versions
    wrote it."""
    if event == CONFIRMED and offset is None:
        return OUTCOMES
    return {"payment": PAYMENTS, "inventory": INVENTORY}.get(event.partition(".")[0], ORDERS)


def _sender(event: str, topic: str) -> str:
    if event == UNREADABLE:
        return "?"
    return SENDERS.get(topic) or ("order-api" if event in BY_API else SAGA)


def _cause(event: str, before: Sequence[_Seen]) -> _Seen | None:
    """The event that led to this one: the last of those that can, before it."""
    if event in UNCAUSED or event not in RANKS:
        return None
    if event.startswith("order."):
        causes = [s for s in before if s.event not in OUTCOME_TYPES and s.event in RANKS]
    elif RANKS[event] == RANKS["payment.refunded"]:
        causes = [s for s in before if s.event in REVOKING]
    else:
        causes = [s for s in before if s.event == PLACED]
    return causes[-1] if causes else None


def window(order_id: str, found: Found, margin_ms: int) -> tuple[int | None, int | None]:
    """The time within which the log can have records of the order: None for its beginning and its end.

    A UUIDv7 tells when it was made. Everything about a settled order was published before it was settled, or just
    then.
    """
    order = found.order or {}
    times = [at for at in (made_at(order_id), order.get("placed_at")) if at is not None]
    start = min(times) - margin_ms if times else None
    if order.get("settled_at") is None:
        return start, None
    last = max(order["settled_at"], *(entry["at"] for entry in order["timeline"]))
    return start, last + margin_ms


def made_at(order_id: str) -> int | None:
    """When a UUIDv7 was made, in ms since the Unix epoch by the clock of the api; None for another id."""
    return int(order_id.replace("-", "")[:12], 16) if order_id[14] == "7" else None


def partition_of(found: Found) -> int | None:
    """The partition number that all records of the order have, if it is known."""
    return found.order["partition"] if found.order else None
