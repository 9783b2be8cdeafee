"""What watches a stack while it is measured: a console with open tabs, and a collector that takes traces."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from bench.measure.meter import Say
from bench.stack.private import READY_S, System
from bench.stack.processes import tree_cpu_s
from dev.servers.console import Console
from dev.settings import HOST, SERVICES, free_ports

TABS: Final = 20
TRACED_SHARE: Final = 0.01
TEXT: Final = f"a console with {TABS} open tabs, and traces of one order in {1 / TRACED_SHARE:.0f}"
TAB_TIMEOUT_S: Final = 60.0


class _Collector(BaseHTTPRequestHandler):
    """Takes spans, and forgets them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def tracing() -> Iterator[Mapping[str, str]]:
    """The settings of services that send traces to a collector, which runs until the context ends."""
    with ThreadingHTTPServer((HOST, 0), _Collector) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            endpoint = f"http://{HOST}:{server.server_port}"
            yield {"TRACE_SAMPLE": str(TRACED_SHARE), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def console(system: System, directory: Path, say: Say) -> Iterator[None]:
    """A console beside a stack, with `TABS` open tabs, until the context ends. Raises `StartError`."""
    directory.mkdir()
    targets = directory / "targets.json"
    targets.write_text(
        json.dumps(
            [
                {
                    "targets": [f"{HOST}:{system.layout.admin_ports[service.instance(1)]}"],
                    "labels": {"service": service.name, "instance": service.instance(1)},
                }
                for service in SERVICES
            ]
        )
    )
    port, admin_port = free_ports(2)
    watching = Console(directory, port, admin_port, system.api_port, targets, system.layout.variables)
    watching.variables["CONSOLE_STACK"] = "other"
    try:
        watching.start(READY_S)
        with ExitStack() as tabs:
            for _ in range(TABS):
                tabs.enter_context(_tab(port))
            assert watching.process is not None
            began_s, before_s = time.monotonic(), tree_cpu_s(watching.process.pid)
            yield
            used_s = tree_cpu_s(watching.process.pid) - before_s
            say(f"the console used {used_s / (time.monotonic() - began_s):.2%} of a core")
    finally:
        watching.kill()


@contextmanager
def _tab(port: int) -> Iterator[None]:
    """A stream that is read as a browser reads it."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TAB_TIMEOUT_S)
    connection.request("GET", "/api/stream")
    answer = connection.getresponse()

    def read() -> None:
        with suppress(OSError, ValueError, http.client.HTTPException):  # the console has ended
            for _ in answer:
                pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield
