"""What a service gives to the batch loop: its handler, and how it wants its records held back. What payment and
inventory share stands at the end: each decides once about an order, and answers every event that concerns it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Final, Protocol, TypeVar

from loguru import logger

from common.consume.records import Arrival, Received
from common.errors import Poison
from common.events import CustomerId, Event, OrderId
from common.kafka.broker import Partition
from common.pipeline import Pipeline, Statements
from common.postgres import Conn

Locked = TypeVar("Locked")


HELD_RECORDS_MAX: Final = 20_000
"""The most records that are held back, whatever they wait for: about 30 MB of memory."""


class Arrivals(Protocol):
    """The records that have arrived and are not due yet. Each partition's records become due in order."""

    @property
    def held(self) -> int:
        """How many records are held back. While they are more than `HELD_RECORDS_MAX`, no more are read."""

    @property
    def ahead(self) -> Set[Partition]:
        """Partitions of which no more is read for now, since what is held waits for records of others."""

    def add(self, arrival: Arrival) -> None: ...

    def due(self, at_s: float) -> list[Arrival]:
        """Remove and return the records to process now, given the monotonic time."""

    def drop(self, lost: Collection[Partition]) -> None:
        """Forget the records of these partitions."""


class InOrderOfArrival:
    """Holds nothing back."""

    held = 0
    ahead: Set[Partition] = frozenset()

    def __init__(self) -> None:
        self._arrived: list[Arrival] = []

    def add(self, arrival: Arrival) -> None:
        self._arrived.append(arrival)

    def due(self, _: float) -> list[Arrival]:
        arrived, self._arrived = self._arrived, []
        return arrived

    def drop(self, lost: Collection[Partition]) -> None:
        self._arrived = [arrival for arrival in self._arrived if arrival.record.partition not in lost]


class Handler(Protocol[Locked]):
    """What a service does with a batch. Both steps run inside the batch's transaction, in this order."""

    @property
    def group(self) -> str:
        """The consumer group."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The topics that it reads."""

    @property
    def publishes(self) -> tuple[str, ...]:
        """The topics that its results go to, if there are any."""

    @property
    def phase(self) -> float:
        """When in a slot its batches begin, as a share of the slot. See `common.consume.timetable`."""

    def lacking(self, connection: Conn, published: Sequence[Event]) -> list[Event]:
        """Those of the events that say more than the database has. Called after a failover, in a transaction."""

    def arrivals(self) -> Arrivals:
        """Make the place where records wait until they are due."""

    def lock(self, statements: Pipeline, records: Sequence[Received]) -> Locked:
        """Queue the statements that lock, then read, all rows to be touched. The handlers of the three services take a
        connection too: `just replay` has no pipeline."""

    def decide(self, locked: Locked, fresh: Sequence[Received], repeats: Sequence[Received]) -> "Decided":
        """Decide the fresh records; look up what was decided for the repeats."""


class Decided(Protocol):
    """The outcome of a batch: what to store and what to publish."""

    def store(self, statements: Statements) -> None:
        """Write new rows: before the pipeline, or in it (`common.pipeline.Table`)."""

    def update(self, statements: Pipeline) -> None:
        """Queue the updates of existing rows."""

    def results(self) -> Iterable[tuple[int, Event]]:
        """The events to publish, each with its partition number."""


UNFORESEEN: Final = (
    LookupError,
    ArithmeticError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
)
"""What a rule raises that meets something it was not written for: a bug, or a row that it needs is gone."""


def decide(handler: Handler[Locked], locked: Locked, fresh: Sequence[Received], repeats: Sequence[Received]) -> Decided:
    """What the handler decides. Raises `Poison` when a rule fails on a fresh record: that customer waits, not all.

    A repeat cannot be parked, since it was decided before: there the failure is raised as it is.
    """
    try:
        return handler.decide(locked, fresh, repeats)
    except UNFORESEEN as error:
        if not fresh:
            raise
        if len(fresh) == 1 and not repeats:
            logger.opt(exception=error).error("a rule failed: {!r}", error)
        raise Poison(f"a rule failed on it: {type(error).__name__}: {error}") from error


class Decision(Protocol):
    """What a service has decided about an order."""

    @property
    def customer_id(self) -> CustomerId: ...


D = TypeVar("D", bound=Decision)


def of_kinds(records: Sequence[Received], kinds: Collection[type[Event]]) -> list[Received]:
    """The records whose event is of one of these types."""
    return [record for record in records if type(record.event) in kinds]


def answers(
    records: Iterable[Received],
    changed: Mapping[OrderId, D],
    stored: Mapping[OrderId, D],
    answer: Callable[[D, str], Event],
) -> Iterator[tuple[int, Event]]:
    """The answers to the records, each with the partition number to publish it to. Repeats are answered too: their
    answers may not have been published.

    `changed` holds the decisions that the batch made or changed, `stored` those that it read. `answer` is given a
    decision and the event's trace.
    """
    for record in records:
        order_id = OrderId(record.event.data.order_id)
        # There is no answer to a parked event: it has no decision, or named an order of another customer.
        decision = changed.get(order_id) or stored.get(order_id)
        if decision is not None and decision.customer_id == record.event.data.customer_id:
            yield record.partition.number, answer(decision, record.event.traceparent)
