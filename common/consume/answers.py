"""What payment and inventory share: each decides once about an order, and answers every event that concerns it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from common.consume.records import Received
from common.events import CustomerId, Event, OrderId


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
