"""A collector of traces for tests: OTLP over HTTP, decoded by the protocol's own definition."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from dev.settings import HOST, free_ports

PRODUCER: Final = 4
CONSUMER: Final = 5


class Collector:
    """Takes spans at `url`, and keeps each as a dictionary."""

    def __init__(self) -> None:
        [port] = free_ports(1)
        self.url = f"http://{HOST}:{port}"
        self._spans: list[dict[str, Any]] = []
        self._taking = threading.Lock()
        taken = self._take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-length", "0")
                self.end_headers()
                taken(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer((HOST, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spans(self, trace_id: str | None = None) -> list[dict[str, Any]]:
        """The spans taken so far, of this trace or of all."""
        with self._taking:
            return [span for span in self._spans if trace_id in (None, span["trace_id"])]

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._taking:
            for of_service in request.resource_spans:
                resource = {a.key: a.value.string_value for a in of_service.resource.attributes}
                for span in (span for scope in of_service.scope_spans for span in scope.spans):
                    self._spans.append(
                        {
                            "service": resource["service.name"],
                            "name": span.name,
                            "kind": span.kind,
                            "trace_id": span.trace_id.hex(),
                            "span_id": span.span_id.hex(),
                            "parent_id": span.parent_span_id.hex(),
                            "ms": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
                            "links": [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                            "error": span.status.message,
                        }
                    )
