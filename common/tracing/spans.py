"""The spans of an order, named by OpenTelemetry's conventions for messaging: `send orders`, `process orders`.

Nothing here needs OpenTelemetry: `common.tracing.export` turns these spans into those of its SDK.

Reference: OpenTelemetry semantic conventions, messaging spans and Kafka.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from common.tracing.ids import Trace, processed_span_id, sent_span_id

Value = str | int | bool
NS_PER_MS: Final = 1_000_000


class SpanEvent(NamedTuple):
    """Something that happened within a span. `at_ns` is a time since the Unix epoch."""

    name: str
    at_ns: int
    attributes: Mapping[str, Value] = {}


class Span(NamedTuple):
    """A span of a service. Ids are hexadecimal digits, times nanoseconds since the Unix epoch."""

    service: str
    name: str
    kind: Literal["producer", "consumer"]
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    links: tuple[tuple[str, str], ...] = ()
    """Trace and span ids."""
    events: tuple[SpanEvent, ...] = ()
    error: str = ""


class Sent(NamedTuple):
    """An event about an order, and where the log has it, as far as that is known."""

    event_id: str
    topic: str
    partition: int | None
    offset: int | None = None


def send_span(
    service: str, trace: Trace, sent: Sent, parent_id: str | None, start_ns: int, end_ns: int, error: str = ""
) -> Span:
    """A service sends an event."""
    return Span(
        service, f"send {sent.topic}", "producer", trace.trace_id, sent_span_id(sent.event_id), parent_id,
        start_ns, max(start_ns, end_ns), _attributes("send", sent), error=error,
    )  # fmt: skip


def process_span(
    service: str,
    trace: Trace,
    sent: Sent,
    start_ns: int,
    end_ns: int,
    events: tuple[SpanEvent, ...] = (),
    error: str = "",
) -> Span:
    """A consumer group, which has the service's name, processes an event. The parent is the span that sent it."""
    return Span(
        service, f"process {sent.topic}", "consumer", trace.trace_id, processed_span_id(service, sent.event_id),
        sent_span_id(sent.event_id), start_ns, max(start_ns, end_ns),
        _attributes("process", sent), (), events, error,
    )  # fmt: skip


def batch_span(
    service: str, trace_id: str, topics: str, records: int, start_ns: int, end_ns: int,
    links: tuple[tuple[str, str], ...],
) -> Span:  # fmt: skip
    """A consumer group processes a batch, in a trace of its own. `links` are the spans of its sampled orders."""
    attributes: dict[str, Value] = {
        **_operation("process"),
        "messaging.batch.message_count": records,
    }
    if " " not in topics:
        attributes["messaging.destination.name"] = topics
    return Span(
        service, f"process {topics}", "consumer", trace_id, trace_id[16:], None, start_ns, end_ns, attributes, links,
    )  # fmt: skip


def _operation(name: str) -> dict[str, Value]:
    return {"messaging.system": "kafka", "messaging.operation.name": name, "messaging.operation.type": name}


def _attributes(operation: str, sent: Sent) -> dict[str, Value]:
    """Few, since each costs several microseconds to send. The event's id begins with the order's."""
    attributes = _operation(operation) | {
        "messaging.destination.name": sent.topic,
        "messaging.message.id": sent.event_id,
    }
    if sent.partition is not None:
        attributes["messaging.destination.partition.id"] = str(sent.partition)
    if sent.offset is not None:
        attributes["messaging.kafka.offset"] = sent.offset
    return attributes
