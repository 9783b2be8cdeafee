"""A card gateway that behaves as badly as a real one. The customer's name says what is wrong with the card:

    …-declines      has no money
    …-slow          authorises after `SLOW_S`, when nobody waits any more
    …-drops         drops each first answer, after the effect
    …-fails         answers each first request with 500, before the effect
    …-twice         answers twice on the same connection

Its state is in memory, and `GET /payments` shows all of it. `PUT /down` takes it down, `PUT /up` brings it back.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

PORT: Final = 8099
SLOW_S: Final = 10.0
_FROM: Final = {
    "capture": ("authorised", "captured"),
    "void": ("authorised", "voided"),
    "refund": ("captured", "refunded"),
}


class Book:
    """The gateway's payments by order, and each change of them that moved or held money."""

    def __init__(self) -> None:
        self.payments: dict[str, dict[str, Any]] = {}
        self.changes: list[tuple[str, str]] = []
        self.is_down = False
        self.lock = threading.Lock()
        self._seen: set[tuple[str, str]] = set()

    def is_first(self, method: str, path: str) -> bool:
        with self.lock:
            first = (method, path) not in self._seen
            self._seen.add((method, path))
        return first

    def authorise(self, order_id: str, wanted: dict[str, Any]) -> None:
        with self.lock:
            if order_id not in self.payments:
                state = "declined" if wanted["customer_id"].endswith("-declines") else "authorised"
                self._set(order_id, wanted, state)

    def change(self, order_id: str, act: str) -> None:
        before, after = _FROM[act]
        with self.lock:
            payment = self.payments.get(order_id)
            if payment is None and act == "void":
                self._set(order_id, {"customer_id": "", "amount": 0, "currency": ""}, "voided")
            elif payment is not None and payment["state"] == before:
                self._set(order_id, payment, after)

    def _set(self, order_id: str, payment: dict[str, Any], state: str) -> None:
        self.payments[order_id] = {**payment, "order_id": order_id, "state": state}
        self.changes.append((order_id, state))


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FakeGateway"

    def do_GET(self) -> None:
        self._handle()

    do_PUT = do_POST = do_GET  # noqa: N815 - the server's names

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _handle(self) -> None:
        book = self.server.book
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        _, root, *rest = self.path.split("/")
        if root in ("down", "up"):
            book.is_down = root == "down"
            return self._answer(200, {})
        if not rest:
            with book.lock:
                return self._answer(200, {"payments": list(book.payments.values()), "changes": book.changes})
        if book.is_down:
            return self._answer(503, {})
        order_id, *act = rest
        wanted = json.loads(body) if body else {}
        customer_id = str(wanted.get("customer_id") or book.payments.get(order_id, {}).get("customer_id", ""))
        fault = customer_id.rpartition("-")[2]
        first = book.is_first(self.command, self.path)
        if fault == "fails" and first:
            return self._answer(500, {})
        if fault == "slow" and self.command == "PUT":
            time.sleep(SLOW_S)
        if self.command == "PUT":
            book.authorise(order_id, wanted)
        elif act:
            book.change(order_id, act[0])
        if fault == "drops" and first:
            self.close_connection = True
            return None
        payment = book.payments.get(order_id)
        self._answer(200 if payment else 404, payment or {})
        if fault == "twice":
            self._answer(200 if payment else 404, payment or {})
        return None

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class FakeGateway(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        self.book = Book()
        super().__init__(("127.0.0.1", port), _Request)

    def handle_error(self, *_: object) -> None:
        """Log nothing when a client closes its connection."""


def main(arguments: list[str]) -> None:
    gateway = FakeGateway(int(arguments[0]) if arguments else PORT)
    print(f"a card gateway on http://127.0.0.1:{gateway.server_port}", flush=True)
    gateway.serve_forever()
