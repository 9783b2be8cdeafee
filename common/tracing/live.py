"""Live tracing (`TRACE_SAMPLE`): the spans of sampled orders, from the api and the consumers, as they happen.

Off, there is no `Tracer`, and the hot path only asks whether there is one. On, each event that is sent costs a
comparison of 8 digits, and only those of sampled orders cost more.
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from common.codec import decoded
from common.config.telemetry import Tracing
from common.consume.records import Received
from common.events import Event
from common.kafka.async_publisher import OnDelivery
from common.kafka.produce.batch import Acknowledged
from common.tracing.export import Background
from common.tracing.ids import RANDOM, Sampling, Trace, sampling, sent_again_span_id, sent_span_id, trace_of
from common.tracing.spans import Sent, Span, batch_span, process_span, send_span

_NS_PER_S: Final = 1_000_000_000


class _Sent(msgspec.Struct):
    id: str
    subject: str
    traceparent: str = ""


_decode: Final = msgspec.json.Decoder(_Sent).decode


class Sink(Protocol):
    """Where spans go."""

    def add(self, span: Span) -> None: ...


def tracer_of(service: str, tracing: Tracing | None) -> "Tracer | None":
    """The tracer of a process; None when tracing is off."""
    return None if tracing is None else Tracer(service, sampling(tracing.share), Background(tracing.endpoint))


class Tracer:
    """Makes the spans of one service. Each of its methods belongs to one thread."""

    def __init__(self, service: str, sampled: Sampling, sink: Sink) -> None:
        self.sampling = sampled
        self._service = service
        self._sink = sink
        self._results: list[Event] = []
        """Results of sampled orders whose batch has not ended yet."""
        self._published_ns = 0
        """When the log had them; 0 before."""

    def sending(self, topic: str, value: bytes, on_delivery: OnDelivery | None) -> OnDelivery | None:
        """The callback for the delivery of an event of a sampled order that is sent now."""
        if (event := decoded(_decode, value)) is None:
            return on_delivery
        start_ns = time.time_ns()

        def delivered(acknowledged: Acknowledged | None) -> None:
            if on_delivery is not None:
                on_delivery(acknowledged)
            partition, offset = (acknowledged.partition, acknowledged.offset) if acknowledged else (None, None)
            trace = trace_of(event.subject, event.traceparent)
            sent = Sent(event.id, topic, partition, offset)
            error = "" if acknowledged else "the log did not take it"
            self._sink.add(send_span(self._service, trace, sent, trace.caller_span_id, start_ns, time.time_ns(), error))

        return delivered

    def watched(self, results: Iterable[tuple[int, Event]]) -> list[tuple[int, Event]]:
        """The results that are about to be published, unchanged. Those of sampled orders are noted."""
        self.end_without_batch()
        threshold = self.sampling.threshold
        listed = list(results)
        # As `Sampling.includes` does, without a call for each result.
        self._results = [event for _, event in listed if event.subject[RANDOM] >= threshold]
        return listed

    def published(self) -> None:
        """Note that the log has the results. `processed` says to which batch they belong."""
        self._published_ns = time.time_ns()

    def processed(self, received: Sequence[Received], records: int, laps: Mapping[str, float]) -> None:
        """Make the spans of a batch that has just ended, if it had results of sampled orders: of `records` records,
        those in `received` were processed. `laps` are the seconds that its stages took, in their order.

        A record that led to no result has no span: the saga waits for a second result.
        """
        if not self._results:
            return
        causes = _causes(received, {event.subject for event in self._results})
        end_ns = time.time_ns()
        start_ns = end_ns - int(sum(laps.values()) * _NS_PER_S)
        stored_ns = start_ns + int(laps.get("store", 0) * _NS_PER_S)
        batch_id = os.urandom(16).hex()
        links = {}
        for event in self._results:
            trace = trace_of(event.subject, event.traceparent)
            cause = causes.get(event.subject)
            if cause is None:
                self._send(event, trace, sent_span_id(f"{event.subject}:order.placed:1"), stored_ns)
                continue
            sent = Sent(cause.event.id, *cause.partition, cause.offset)
            processed = process_span(self._service, trace, sent, start_ns, end_ns)
            links[trace.trace_id, processed.span_id] = cause.partition.topic
            self._sink.add(processed)
            self._send(event, trace, processed.span_id, stored_ns, cause)
        self._results, self._published_ns = [], 0
        if links:
            topics = " ".join(sorted(set(links.values())))
            self._sink.add(batch_span(self._service, batch_id, topics, records, start_ns, end_ns, tuple(links)))

    def end_without_batch(self) -> None:
        """Make the spans of what was published and has no batch: the results of redriven events, or what a timer sends.
        Above them is the span that placed the order."""
        if self._published_ns:
            for event in self._results:
                trace = trace_of(event.subject, event.traceparent)
                self._send(event, trace, sent_span_id(f"{event.subject}:order.placed:1"), self._published_ns)
        self._results, self._published_ns = [], 0

    def _send(self, event: Event, trace: Trace, parent_id: str, start_ns: int, cause: Received | None = None) -> None:
        sent = Sent(event.id, event.topic, None)  # the partition is that of the record which led to it
        span = send_span(self._service, trace, sent, parent_id, start_ns, self._published_ns)
        if cause is not None and cause.event.rank > event.rank:
            # An earlier answer is given again, such as "rejected" to the rejection of the order.
            span = span._replace(span_id=sent_again_span_id(event.id, cause.event.id))
        self._sink.add(span)


def _causes(received: Sequence[Received], order_ids: Collection[str]) -> dict[str, Received]:
    """The record of a batch that led to each order's result: its last one."""
    causes: dict[str, Received] = {}
    for record in received:
        order_id = record.event.subject
        if order_id in order_ids and (order_id not in causes or causes[order_id].at <= record.at):
            causes[order_id] = record
    return causes
