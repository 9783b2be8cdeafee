"""Where Alertmanager sends its alerts: a webhook that remembers which fire."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from dev.settings import HOST


class Receiver:
    def __init__(self, port: int) -> None:
        self.url = f"http://{HOST}:{port}/"
        self._fired: dict[str, float] = {}
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer((HOST, port), Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, notification: dict[str, Any]) -> None:
        with self._lock:
            for alert in notification["alerts"]:
                if alert["status"] == "firing":
                    self._fired.setdefault(alert["labels"]["alertname"], time.monotonic())

    def clear(self) -> None:
        with self._lock:
            self._fired.clear()

    def fired(self) -> dict[str, float]:
        """The names of the alerts that were sent, and the monotonic time of each one's first notification."""
        with self._lock:
            return dict(self._fired)
