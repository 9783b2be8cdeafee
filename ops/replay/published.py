"""What a service published and its database lost: read from the log, found, and reported."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, LiteralString, TypeVar

from common.codec import decoded, decoder_for
from common.consume.records import Received, within_range
from common.errors import Fatal
from common.events import PAYMENT_EVENTS, STOCK_EVENTS, Event, Milliseconds, OrderId, PaymentEvent, StockEvent
from common.kafka.broker import Partition
from common.postgres import Conn
from ops.log import Log
from ops.tool import chunks

CHUNK_EVENTS: Final = 10_000
SHOWN_MAX: Final = 20
RANKS: Final[Mapping[str | None, int]] = {
    None: 0,
    **{state: event.rank for state, event in PAYMENT_EVENTS.items()},
    **{state: event.rank for state, event in STOCK_EVENTS.items()},
}
"""How far a stored state is. `void` is a state of both sides, and of the same rank."""

Decision = TypeVar("Decision", PaymentEvent, StockEvent)


@dataclass
class Restored:
    """What was brought back from the log: how many decisions, and what else was done, line by line."""

    decisions: int
    notes: list[str] = field(default_factory=list)


def received(log: Log, bounds: Mapping[Partition, tuple[int, int]]) -> Iterator[Received]:
    """The events of these parts of the log. A record that is no event of its topic is left out: its reader parks it."""
    for message in log.read(bounds):
        partition = Partition(str(message.topic()), int(message.partition() or 0))
        event: Event | None = decoded(decoder_for[partition.topic].decode, message.value())
        if event is not None:
            yield Received(partition, int(message.offset() or 0), within_range(message.timestamp()[1]), event)


def events(log: Log, topic: str) -> Iterator[Any]:
    """The events of a topic from its beginning to its end, each partition's in order."""
    return (record.event for record in received(log, log.bounds([topic])))


def lost(connection: Conn, published: Iterable[Decision], stored: LiteralString) -> dict[OrderId, Decision]:
    """The last decision published about each order that the database has not, or not yet so far. `stored` selects
    order id and state of the orders given."""
    decisions: dict[OrderId, Decision] = {}
    for chunk in chunks(published, CHUNK_EVENTS):
        ids = list({event.subject for event in chunk})
        states: dict[str, str] = dict(connection.execute(stored, (ids,)).fetchall())
        for event in chunk:
            order_id = OrderId(event.subject)
            previous = decisions.get(order_id)
            if (previous is None or previous.rank < event.rank) and RANKS[states.get(order_id)] < event.rank:
                decisions[order_id] = event
    return decisions


def cover_notes(shortfalls: Sequence[object], missing: str, cover: str | None) -> list[str]:
    """What is entered as `cover`, line by line. Raises `Fatal` when there are shortfalls and nothing to cover them:
    what was published needs more than the database has."""
    if not shortfalls:
        return []
    lines = [str(shortfall) for shortfall in shortfalls]
    if cover is not None:
        return [f"{missing} entered as {cover}:", *lines]
    rest = [f"… and {len(lines) - SHOWN_MAX} more"] if len(lines) > SHOWN_MAX else []
    raise Fatal(
        "\n".join(
            [
                f"replay: {missing} made after the backup are gone, and published decisions depend on them:",
                *lines[:SHOWN_MAX],
                *rest,
                f"replay: nothing was changed; enter the {missing} again (the service takes them while it waits),",
                "or run it with --cover, which enters the least that the published decisions prove",
            ]
        )
    )


def time_of(event: Event) -> Milliseconds:
    """When the event says that it happened; 0 for a text that is no time, which only a stranger writes."""
    try:
        return within_range(round(datetime.fromisoformat(event.time).timestamp() * 1000))
    except (ValueError, OverflowError):
        return Milliseconds(0)
