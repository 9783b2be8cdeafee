"""uvicorn's HTTP protocol with limits on time and memory, and with problem documents for what cannot be parsed.

- A refusal waits until earlier requests on the connection are answered. A client that pipelines would otherwise take it
  for the answer to an order that is being accepted.
- A request must be complete `ARRIVE_S` after it began. Otherwise a client that sends a byte a minute would hold its
  connection, and its place among the requests of many orders, for ever.
- A client must read its answer. One that reads nothing for `UNREAD_S` is cut off.
- Heads and requests are limited: httptools collects everything before the empty line, whether a body follows or not.
- Pipelining is limited: 30,000 requests sent without reading an answer cost 50 MB each time.
- An offer to upgrade is ignored. httptools would take the body after it for another protocol, so the head is parsed
  once more without the offer.
- Trailers are ignored. uvicorn would take them for headers.

References: RFC 9112 §9.3.2 (pipelining), RFC 9110 §6.5 (trailers), §7.8 (Upgrade), §15.5.9 (408), RFC 6585 §5 (431).
"""

from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from common import metrics
from common.http import framing, problem
from common.http.connections import ListenerState
from common.http.limits.sources import source_of
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

_CROWDED: Final = problem.unavailable("too many connections; this one was closed before its request was complete")
_NO_ROOM: Final = problem.unavailable("too many connections are open, from this address or in total")


_PIPELINED: Final = Problem(problem.TOO_MANY_PIPELINED, f"over {PIPELINED_MAX} requests are waiting on this connection")
_HEAD_TOO_LARGE: Final = Problem(problem.HEAD_TOO_LARGE, f"request line and headers are over {HEAD_BYTES_MAX} bytes")
_TOO_LARGE: Final = problem.too_large(f"the request is over {REQUEST_BYTES_MAX} bytes on the wire")
_TOO_SLOW: Final = Problem(problem.TOO_SLOW, f"the request was not complete {ARRIVE_S:.0f} s after it began")


class Connection(HttpToolsProtocol):
    """One connection. The server calls `check_time` once a second."""

    server_state: ListenerState

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.source = ""
        """The client, or the proxy before it, as `source_of` names it."""
        self.peer = ""
        """Its address."""
        self._gate = self.server_state.gate
        self._awaiting_since: float | None = self.loop.time()
        """Since when the rest of a request, or its first byte, is awaited; None while neither is."""
        self._in_head = False
        self._in_body = False
        self._offered = False
        """Whether the request that is arriving offers an upgrade."""
        self._fed = 0
        self._bytes = 0
        """Size so far of the request that is arriving, without the piece in which it began."""
        self._answered: RequestResponseCycle | None = None
        """The request that is being answered. uvicorn's `cycle` is the last that arrived."""
        self._unanswered = 0
        """Requests received whose answers are not complete."""
        self._answered_at = 0.0
        """When the last answer was complete (loop time)."""
        self._refusal: Problem | None = None
        self._closing = False
        self._unread = 0
        self._unread_since = self.loop.time()

    @property
    def arriving(self) -> bool:
        """Whether a part of a request has arrived and the rest has not."""
        return self._in_head or self._in_body

    @property
    def waits_since(self) -> tuple[bool, float] | None:
        """See `common.http.connections.Guest`."""
        if (
            self.transport.is_closing()
            or self._unanswered > self._in_body
            or (self._in_body and self.cycle.response_started and not self.cycle.response_complete)
        ):
            return None
        began = self._awaiting_since if self._awaiting_since is not None else self._answered_at
        return self._answered_at > 0, began

    # Requests

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self.source = source_of(self.peer)
        self._gate.admit(self, self.loop.time())

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data and self._refusal is None:
            data = self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """Parse. Returns what is left to parse: after an offer to upgrade, its head without the offer and the rest."""
        self._fed = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            version = self.parser.get_http_version()
            head = framing.without_offer(self.parser.get_method(), self.url, version, self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self._offered = False
            return head + rest
        except httptools.HttpParserError as error:
            cause = error.__context__
            refusal = cause.problem if isinstance(cause, ProblemError) else framing.unreadable(cause or error)
            self._refuse(refusal)
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

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        in_pieces = self._bytes > -self._fed
        if (in_pieces or self._fed > HEAD_BYTES_MAX) and self._head_bytes > HEAD_BYTES_MAX:
            raise ProblemError(_HEAD_TOO_LARGE)
        if len(self.pipeline) >= PIPELINED_MAX:
            raise ProblemError(_PIPELINED)
        version = self.parser.get_http_version()
        if (refused := framing.refusal(self.parser.get_method(), version, self.headers)) is not None:
            raise ProblemError(refused)
        if self.parser.should_upgrade():
            self._offered = True
            return
        if version == "1.0":
            self.expect_100_continue = False
        host, self.url = framing.target(self.url)
        if host is not None:
            self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]
        super().on_headers_complete()
        if self._closing:
            self.cycle.keep_alive = False
        self._in_head, self._in_body = False, True
        self._unanswered += 1

    def on_message_complete(self) -> None:
        if self._offered:
            return
        super().on_message_complete()
        self._in_body = False
        self._awaiting_since = None

    @property
    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

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
        if cycle.scope["http_version"] == "1.0" or cycle.waiting_for_100_continue:
            app = framing.closing(app, cycle)
        super()._start_asgi_task(cycle, app)

    def eof_received(self) -> bool:  # type: ignore[override]  # what asyncio allows, uvicorn's type does not
        """The client sends nothing more. It may still read: it gets the answers that are due, though no stream, whose
        client would never be known to have gone. Returns whether to keep the connection. TLS has no half-closed
        connections."""
        if not self.transport.can_write_eof():
            return False
        answered = self._answered
        streams = (
            answered is not None
            and answered.response_started
            and not answered.response_complete
            and not answered.expected_content_length  # what is left of an answer of known length
        )
        if not self._unanswered or self._in_body or streams:
            return False
        self._closing = True
        if self.cycle is not None:
            self.cycle.keep_alive = False
        return True

    def give_way(self) -> None:
        """See `common.http.connections.Guest`."""
        answered = self._in_body and self.cycle.response_started
        unread = self.transport.get_write_buffer_size()
        if self.arriving and not answered and self._refusal is None:
            self._write_refusal(_CROWDED)
        if unread:  # it would stay open, uncounted, until the client has read what is left
            self.transport.abort()
        self.transport.close()

    def turn_away(self) -> None:
        """See `common.http.connections.Guest`."""
        self._write_refusal(_NO_ROOM)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn abandons only the last request: answers to others would fail, each with a traceback in the log."""
        self._gate.leave(self)
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
        self._answered_at = self.loop.time()
        super().on_response_complete()
        if self._refusal is not None and not self._unanswered and not self.transport.is_closing():
            self._send_refusal(self._refusal)

    def _send_refusal(self, refusal: Problem) -> None:
        self._unset_keepalive_if_required()
        self._write_refusal(refusal)
        if self.transport.can_write_eof():  # TLS has no half-closed connections
            self.transport.write_eof()
        self.loop.call_later(REFUSED_CLOSE_S, self.transport.close)

    def _write_refusal(self, refusal: Problem) -> None:
        metrics.http_requests.labels("", "malformed", refusal.status).inc()
        head, body = raw_problem(refusal, request_id(None))
        self.transport.write(b"%b%bconnection: close\r\n\r\n%b" % (head, self.server_state.header_lines, body))


def raw_problem(refusal: Problem, id_: bytes) -> tuple[bytes, bytes]:
    """A problem in HTTP/1.1, for the request with this id: the head, open for more headers, and the body."""
    body = refusal.body(id_.decode())
    lines = [b"%b: %b\r\n" % header for header in problem_headers(refusal, body, id_)]
    return STATUS_LINE[refusal.status] + b"".join(lines), body


def _abandon(cycle: RequestResponseCycle) -> None:
    """Its request never arrives complete, or nobody is left to read its answer."""
    cycle.disconnected = True
    cycle.message_event.set()
