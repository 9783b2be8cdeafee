"""Sends spans by OTLP over HTTP, with the exporter and the background thread of OpenTelemetry's SDK.

OpenTelemetry is optional: it is imported here alone, and only when spans are to be sent. It instruments nothing by
itself.
"""

import atexit
import logging
import time
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

from loguru import logger

from common.errors import Fatal
from common.tracing.spans import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORT_TIMEOUT_S: Final = 2.0
"""Short, because a process that ends waits for it."""
REPORT_EVERY_S: Final = 60.0
SPANS_PATH: Final = "/v1/traces"
FLAGS: Final = 0x01
"""Sampled."""


def is_installed() -> bool:
    """Whether OpenTelemetry's exporter is there."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def check_installed(wanted_by: str) -> None:
    """Raises `Fatal` when OpenTelemetry is not there. The message begins with what wants it."""
    if not is_installed():
        raise Fatal(
            f"{wanted_by} needs OpenTelemetry, which is not installed: "
            "'pip install --require-hashes -r requirements-otel.txt'"
        )


def otlp_exporter(endpoint: str) -> "SpanExporter":
    """An exporter to a collector's base URL, such as http://127.0.0.1:4318."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # It logs every attempt. What becomes of the spans is reported by those who send them.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    url = endpoint if endpoint.endswith(SPANS_PATH) else endpoint.rstrip("/") + SPANS_PATH
    return OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S)


def send(endpoint: str, spans: Sequence[Span]) -> None:
    """Send these spans now. Raises `Fatal` when the collector does not take them."""
    from opentelemetry.sdk.trace.export import SpanExportResult

    exporter = otlp_exporter(endpoint)
    try:
        if exporter.export([readable(span) for span in spans]) is not SpanExportResult.SUCCESS:
            raise Fatal(f"{endpoint} did not take the spans; is a collector of OTLP over HTTP there?")
    finally:
        exporter.shutdown()


class Background:
    """Sends spans from a thread of the SDK, some seconds later. Spans are dropped while the collector is away."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

        inner = otlp_exporter(endpoint)

        class Reporting(SpanExporter):
            """Reports what is lost, now and then."""

            lost = 0
            reported_at_s = -REPORT_EVERY_S

            def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
                result = inner.export(spans)
                if result is not SpanExportResult.SUCCESS:
                    self.lost += len(spans)
                if self.lost and time.monotonic() - self.reported_at_s >= REPORT_EVERY_S:
                    logger.warning("traces are lost: {} does not take them", endpoint, spans=self.lost)
                    self.lost, self.reported_at_s = 0, time.monotonic()
                return result

            def shutdown(self) -> None:
                inner.shutdown()

        self._processor = BatchSpanProcessor(Reporting())
        atexit.register(self._processor.shutdown)

    def add(self, span: Span) -> None:
        """Have a span sent."""
        self._processor.on_end(readable(span))


def readable(span: Span) -> "ReadableSpan":
    """The span as the SDK has it. Made directly: a tracer of the SDK would draw ids of its own."""
    sdk = _sdk()
    context = sdk.context
    made: ReadableSpan = sdk.span(
        span.name,
        context(span.trace_id, span.span_id),
        context(span.trace_id, span.parent_id) if span.parent_id else None,
        sdk.resource(span.service),
        span.attributes,
        [sdk.event(event.name, event.attributes, event.at_ns) for event in span.events],
        [sdk.link(context(*link)) for link in span.links],
        sdk.kinds[span.kind],
        status=sdk.failed(span.error) if span.error else None,
        start_time=span.start_ns,
        end_time=span.end_ns,
    )
    return made


@lru_cache(1)
def _sdk() -> SimpleNamespace:
    """What `readable` needs, imported once: an import in a function costs a microsecond each time."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

    class Hashed(Resource):
        """A resource that is looked up for each span. The SDK's own hash writes it as JSON."""

        __eq__ = object.__eq__
        __hash__ = object.__hash__

    flags = TraceFlags(FLAGS)
    return SimpleNamespace(
        context=lambda trace_id, span_id: SpanContext(int(trace_id, 16), int(span_id, 16), False, flags),
        event=Event,
        failed=lambda error: Status(StatusCode.ERROR, error),
        kinds={"producer": SpanKind.PRODUCER, "consumer": SpanKind.CONSUMER},
        link=Link,
        resource=lru_cache(lambda service: Hashed({"service.name": service, "service.namespace": "tandem"})),
        span=ReadableSpan,
    )
