"""A server with the console's contract and made-up answers: the page's tests decide what it says."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from common.http.contract.files import HEADERS
from common.http.problem import ProblemError
from ops.console.app import FILES
from tests.browser import made_up

SEND_EVERY_S: Final = 1.0

Json = dict[str, Any]
UNAUTHENTICATED: Final[tuple[int, Json]] = (401, {"title": "No credentials", "detail": "the token has expired"})


class Fake:
    """What the server answers. Tests set the attributes, and read `posted` and `queried`."""

    def __init__(self) -> None:
        self.newest: dict[str, Json] = made_up.stream()
        self.orders: dict[str, Json] = {}
        self.order_page: Json = made_up.orders()
        self.letters: Json = made_up.dead_letters()
        self.answers: dict[str, tuple[int, Json]] = {}
        """What a POST to a path is answered with: status and document."""
        self.posted: list[tuple[str, Json, str | None]] = []
        """Path, body and idempotency key of each POST."""
        self.queried: list[tuple[str, dict[str, str]]] = []
        """Path and query of each GET below /api, without the stream."""
        self.jobs: dict[str, Json] = {}
        self.held: dict[str, threading.Event] = {}
        """Paths whose next GET waits for the event before it is answered as it would have been at once. It is taken out
        when it waits."""
        self.streams: list[queue.Queue[tuple[str, Json] | None]] = []
        self.refuses_streams = False
        self.session: Json | None = made_up.session()
        """Who has a session; None: nobody has, and all but the page itself is a 401."""
        self.tokens: dict[str, Json] = {}
        """The sessions that tokens begin."""

    def tell(self, kind: str, document: Json) -> None:
        """Send an event to every stream, and to those that open later."""
        key = f"job {document['id']}" if kind == "job" else kind
        if kind != "point":
            self.newest[key] = document
        for stream in list(self.streams):
            stream.put((kind, document))

    def cut(self) -> None:
        """End every stream, and let none open."""
        self.refuses_streams = True
        for stream in list(self.streams):
            stream.put(None)

    def end_session(self) -> None:
        """Let nobody have a session, and end every stream."""
        self.session = None
        for stream in list(self.streams):
            stream.put(None)

    def get(self, path: str, query: dict[str, str]) -> tuple[int, Json]:
        if path == "/api/session" and self.session is not None:
            return 200, self.session
        if self.session is None:
            return UNAUTHENTICATED
        self.queried.append((path, query))
        match [unquote(part) for part in path.split("/")[2:]]:
            case ["orders"]:
                return 200, self.order_page
            case ["orders", order_id] if order_id in self.orders:
                return 200, self.orders[order_id]
            case ["orders", _, "events"]:
                return 200, made_up.raw_events()
            case ["dead-letters"]:
                return 200, self.letters
            case ["dead-letters", _, record]:
                return 200, made_up.dead_letter(record)
            case ["jobs", job] if job in self.jobs:
                return 200, self.jobs[job]
        return 404, {"title": "Not Found", "status": 404, "detail": f"{path} is not there"}


def handler(fake: Fake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, content: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(content)))
            self.send_header("content-security-policy", HEADERS["content-security-policy"])
            self.end_headers()
            self.wfile.write(content)

        def answer_json(self, status: int, document: Json) -> None:
            self.answer(status, json.dumps(document).encode(), "application/json")

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path == "/api/stream":
                self.stream()
            elif address.path.startswith("/api/"):
                answer = fake.get(address.path, dict(parse_qsl(address.query)))
                if held := fake.held.pop(address.path, None):
                    held.wait()
                self.answer_json(*answer)
            else:
                name = "index.html" if address.path == "/" else address.path.removeprefix("/static/")
                try:
                    file = FILES.answer(name)
                except ProblemError:
                    self.answer_json(404, {"detail": f"{name} is not there"})
                else:
                    self.answer(200, bytes(file.body), file.headers["content-type"])

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert self.headers["content-type"] == "application/json"
            if self.path == "/api/session":
                fake.session = fake.tokens.get(self.headers["authorization"].removeprefix("Bearer "))
                self.answer_json(*(UNAUTHENTICATED if fake.session is None else (201, fake.session)))
                return
            fake.posted.append((self.path, body, self.headers["idempotency-key"]))
            self.answer_json(*fake.answers.get(self.path, (404, {"detail": f"{self.path} is not there"})))

        def do_DELETE(self) -> None:
            fake.end_session()
            self.send_response(204)
            self.end_headers()

        def stream(self) -> None:
            if fake.session is None:
                self.answer_json(*UNAUTHENTICATED)
                return
            if fake.refuses_streams:
                self.answer_json(503, {"detail": "no more streams"})
                return
            events: queue.Queue[tuple[str, Json] | None] = queue.Queue()
            for key, document in list(fake.newest.items()):
                events.put((key.split()[0], document))
            fake.streams.append(events)
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True
            try:
                self.wfile.write(b"retry: 100\n\n")
                while True:
                    try:
                        event = events.get(timeout=SEND_EVERY_S)
                    except queue.Empty:
                        event = ("flow", fake.newest["flow"])
                    if event is None:
                        return
                    self.wfile.write(f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n".encode())
            except OSError:
                pass  # the page has gone
            finally:
                fake.streams.remove(events)

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a page that is closed cuts its connections


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """Serve on a free port. Yields the origin."""
    with Server(("127.0.0.1", 0), handler(fake)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            fake.cut()
            server.shutdown()
            thread.join()
