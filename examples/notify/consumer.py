"""A batch in notify: find the mails that exist already, and write the others."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, get_args

from common.consume.handler import InOrderOfArrival, of_kinds
from common.consume.records import Received
from common.events import OUTCOMES, Event, Outcome, rfc3339, type_of
from common.pipeline import Answer, Pipeline, Statements, Table
from common.postgres import Conn

RELEVANT: Final = frozenset(get_args(Outcome))
_WRITTEN: Final = "SELECT event_id FROM mails WHERE event_id = ANY(%s::text[])"
_MAILS: Final = Table(
    "mails", event_id="text", order_id="uuid", customer_id="text", kind="text", reason="text", decided_at="timestamptz"
)


class Batch(NamedTuple):
    """A decided batch: the outcomes that have no mail yet, by the event's id."""

    outcomes: dict[str, Received]

    def store(self, statements: Statements) -> None:
        if self.outcomes:
            _MAILS.insert(statements, map(_row, self.outcomes.values()))

    def update(self, statements: Pipeline) -> None:
        """Mails are written once."""

    def results(self) -> Iterable[tuple[int, Event]]:
        """It publishes nothing."""
        return ()


class NotifyHandler:
    """Notify's part in the batch loop. See `common.consume.handler.Handler`."""

    group = "notify"
    reads = (OUTCOMES,)
    publishes = ()
    phase = 0.7
    """After the saga, which publishes the outcomes."""
    arrivals = InOrderOfArrival

    def lacking(self, connection: Conn, published: Sequence[Event]) -> list[Event]:
        """It publishes nothing, so nothing can be missing."""
        return []

    def lock(self, statements: Pipeline, records: Sequence[Received]) -> Answer:
        return statements.execute(_WRITTEN, ([r.event.id for r in of_kinds(records, RELEVANT)],))

    def decide(self, locked: Answer, fresh: Sequence[Received], repeats: Sequence[Received]) -> Batch:
        """The saga may publish an outcome twice, with the same id. So the position, which makes each record count once,
        is not enough."""
        written = {event_id for (event_id,) in locked.fetchall()}
        outcomes = {r.event.id: r for r in of_kinds(fresh, RELEVANT)}
        return Batch({event_id: record for event_id, record in outcomes.items() if event_id not in written})


def _row(record: Received) -> tuple[str | None, ...]:
    event = record.event
    kind = type_of(event).removeprefix("order.")
    return event.id, event.data.order_id, event.data.customer_id, kind, event.data.reason, rfc3339(record.at)
