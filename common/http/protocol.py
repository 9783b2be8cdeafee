"""uvicorn's HTTP protocol with limits on time and memory, and with problem documents for what cannot be parsed.

- A refusal waits until earlier requests on the connection are answered. A client that pipelines would otherwise take it
  for the answer to an order that is being accepted.
- A request must be complete `ARRIVE_S` after it began. Otherwise a client that sends a byte a minute would hold its
  connection, and its place among the requests of many orders, for ever.
- A client must read its answer. One that reads nothing for `UNREAD_S` is cut off.
- Heads and requests are limited: httptools collects everything before the empty line, whether a body follows or not.
- Pipelining is limited: 30,000 requests sent without reading an answer cost 50 MB each time.
- Upgrades are ignored, since none is offered. An upgrade with a body is refused: httptools takes the body for the next
  request.

References: RFC 9112 §9.3.2 (pipelining), RFC 9110 §7.8 (Upgrade), §15.5.9 (408), RFC 6585 §5 (431).
"""

from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from common import metrics
from common.http import problem
from common.http.problem import Problem, ProblemError
from common.http.responses import problem_headers, request_id

PIPELINED_MAX: Final = 64
HEAD_BYTES_MAX: Final = 32 * 1024
REQUEST_BYTES_MAX: Final = 32 * 1024 * 1024
"""Any request: the largest body is 4 MB, and chunks of one byte each make it six times as long."""
ARRIVE_S: Final = 15.0
UNREAD_S: Final = 30.0
REFUSED_CLOSE_S: Final = 1.0
"""A connection is closed this long after a refusal. Closed at once, it would be reset by what the client still sends,
and the refusal lost."""
IDLE_CLOSE_S: Final = 0.5
"""When the server ends, an idle connection is closed after this time, unless a request arrives."""

_MALFORMED: Final = problem.malformed("this is not an HTTP/1.1 request")
_UPGRADE: Final = problem.malformed("a request to upgrade may not have a body")
_PIPELINED: Final = Problem(
    400, "too-many-pipelined", "Too many requests at once",
    f"over {PIPELINED_MAX} requests are waiting on this connection",
)  # fmt: skip
_HEAD_TOO_LARGE: Final = Problem(
    431, "head-too-large", "Request head too large", f"request line and headers are over {HEAD_BYTES_MAX} bytes"
)
_TOO_LARGE: Final = problem.too_large(f"the request is over {REQUEST_BYTES_MAX} bytes on the wire")
_TOO_SLOW: Final = Problem(
    408, "too-slow", "Request timeout", f"the request was not complete {ARRIVE_S:.0f} s after it began"
)


class Connection(HttpToolsProtocol):
    """One connection. The server calls `check_time` once a second."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._awaiting_since: float | None = self.loop.time()
        """Since when the rest of a request, or its first byte, is awaited; None while neither is."""
        self._in_head = False
        self._in_body = False
        self._fed = 0
        self._bytes = 0
        """Size so far of the request that is arriving, without the piece in which it began."""
        self._answered: RequestResponseCycle | None = None
        """The request that is being answered. uvicorn's `cycle` is the last that arrived."""
        self._unanswered = 0
        """Requests received whose answers are not complete."""
        self._refusal: Problem | None = None
        self._closing = False
        self._unread = 0
        self._unread_since = 0.0

    @property
    def arriving(self) -> bool:
        """Whether a part of a request has arrived and the rest has not."""
        return self._in_head or self._in_body

    # Requests

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data and self._refusal is None:
            data = self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """Parse. Returns the bytes that are left after a request to upgrade."""
        self._fed = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.problem if isinstance(cause, ProblemError) else _MALFORMED)
            return b""
        if self.arriving:
            self._bytes += self._fed
            if self._bytes > (HEAD_BYTES_MAX if self._in_head else REQUEST_BYTES_MAX):
                self._refuse(_HEAD_TOO_LARGE if self._in_head else _TOO_LARGE)
        return b""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._bytes = -self._fed
        self._awaiting_since = self.loop.time()

    def on_headers_complete(self) -> None:
        in_pieces = self._bytes > -self._fed
        if (in_pieces or self._fed > HEAD_BYTES_MAX) and self._head_bytes > HEAD_BYTES_MAX:
            raise ProblemError(_HEAD_TOO_LARGE)
        if len(self.pipeline) >= PIPELINED_MAX:
            raise ProblemError(_PIPELINED)
        if self.parser.should_upgrade() and self._has_body:
            raise ProblemError(_UPGRADE)
        super().on_headers_complete()
        if self._closing:
            self.cycle.keep_alive = False
        self._in_head, self._in_body = False, True
        self._unanswered += 1

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False
        self._awaiting_since = None

    @property
    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    @property
    def _has_body(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in self.headers)

    # Time limits and the end

    def check_time(self, now: float) -> None:
        """Give up on a client that takes too long. `now` is the loop's time in seconds."""
        unread = self.transport.get_write_buffer_size()
        if not unread or unread < self._unread:
            self._unread_since = now
        elif now - self._unread_since > UNREAD_S:
            self.transport.abort()
            return
        self._unread = unread
        if self._refusal is not None:
            return
        if self._awaiting_since is None:
            # Between two requests uvicorn's own timer runs, unless a client has stopped it with an empty line.
            if not self._unanswered and self.timeout_keep_alive_task is None:
                self._awaiting_since = now
        elif now - self._awaiting_since > ARRIVE_S:
            if self.arriving:
                self._refuse(_TOO_SLOW)
            else:
                self.transport.close()

    def shutdown(self) -> None:
        """The server ends: the answer to the request under way, or to the next one, is this connection's last.

        An idle connection is not closed at once: a request may be on its way, and would be answered by a reset.
        """
        self._closing = True
        if self._unanswered:
            if self.cycle is not None:
                self.cycle.keep_alive = False
        else:
            self.loop.call_later(IDLE_CLOSE_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._unanswered:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn abandons only the last request: answers to others would fail, each with a traceback in the log."""
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._answered is not None and not self._answered.response_complete:
            _abandon(self._answered)

    # Refusals

    def _refuse(self, refusal: Problem) -> None:
        """Serve no further request, and close once earlier ones are answered."""
        self._refusal = refusal
        if self._in_body:
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()  # its turn has not come: others are being answered
                self._unanswered -= 1
            elif self.cycle.response_started:
                self.transport.close()
            else:
                self._send_refusal(refusal)
                _abandon(self.cycle)
        elif not self._unanswered:
            self._send_refusal(refusal)

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        if self._refusal is not None and not self._unanswered and not self.transport.is_closing():
            self._send_refusal(self._refusal)

    def _send_refusal(self, refusal: Problem) -> None:
        self._unset_keepalive_if_required()
        metrics.http_requests.labels("", "malformed", refusal.status).inc()
        self.transport.write(b"%bconnection: close\r\n\r\n%b" % raw_problem(refusal, request_id(None)))
        self.transport.write_eof()
        self.loop.call_later(REFUSED_CLOSE_S, self.transport.close)


def raw_problem(refusal: Problem, id_: bytes) -> tuple[bytes, bytes]:
    """A problem in HTTP/1.1, for the request with this id: the head, open for more headers, and the body."""
    body = refusal.body(id_.decode())
    lines = [b"%b: %b\r\n" % header for header in problem_headers(refusal, body, id_)]
    return STATUS_LINE[refusal.status] + b"".join(lines), body


def _abandon(cycle: RequestResponseCycle) -> None:
    """Its request never arrives complete, or nobody is left to read its answer."""
    cycle.disconnected = True
    cycle.message_event.set()
