"""The CloudEvents envelope of all events.

An event's `id` is derived from its subject, type and sequence, not drawn at random: a service that publishes an event
again after a crash gives it the same id, and any consumer may drop the repeat. `sequence` is fixed by the type
(`Event.rank`): the event's usual place in the life of an order. It need not rise within a partition: a result may be
published again after the outcome. A product's sequence is its version.

References: CloudEvents 1.0.2 (https://github.com/cloudevents/spec), its partitioning, sequence and distributed
tracing extensions.
"""

from typing import Annotated, ClassVar, Literal, TypeVar

from msgspec import Meta, Struct

from common.events.clock import rfc3339
from common.events.data import OrderRef
from common.events.fields import COUNT_MAX, Attribute, Milliseconds, TraceParentText


class Event(Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """The CloudEvents envelope. `subject` is the order, `partitionkey` the customer; for a product both are its id."""

    topic: ClassVar[str]
    """The first of its topics: see `TOPICS_OF`."""
    rank: ClassVar[int]
    origin: ClassVar[str]

    specversion: Literal["1.0"] = "1.0"
    id: Annotated[Attribute, Meta(description="subject, type and sequence: the same when the event is published again")]
    source: Annotated[Attribute, Meta(description="the service that publishes it, /tandem/order for api and saga")]
    subject: Annotated[Attribute, Meta(description="the order's id; of product.changed, the product's")]
    time: Annotated[
        Attribute, Meta(description="RFC 3339, UTC, by the publisher's clock; the record's time is the broker's")
    ]
    partitionkey: Annotated[
        Attribute, Meta(description="the record's key: the customer; of product.changed, the product")
    ]
    traceparent: TraceParentText = ""
    sequence: Annotated[
        int, Meta(ge=0, le=COUNT_MAX, description="fixed by the type; of product.changed, the product's version")
    ]
    datacontenttype: Literal["application/json"] = "application/json"


E = TypeVar("E", bound=Event)


def type_of(kind: type[Event] | Event) -> str:
    """The CloudEvents type: `order.placed` for `OrderPlaced`."""
    return str(kind.__struct_config__.tag)


def make(kind: type[E], data: OrderRef, *, at: Milliseconds, traceparent: str) -> E:
    """Put an order's `data` into the envelope of its `kind`. `at` becomes the event's `time`."""
    order_id = data.order_id
    return kind(
        id=f"{order_id}:{kind.__struct_config__.tag}:{kind.rank}",
        source=kind.origin,
        subject=order_id,
        time=rfc3339(at),
        partitionkey=data.customer_id,
        traceparent=traceparent,
        sequence=kind.rank,
        data=data,  # type: ignore[call-arg]  # every concrete kind declares it; `Event` itself carries none
    )
