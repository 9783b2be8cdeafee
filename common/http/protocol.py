"""uvicorn's HTTP protocol, with bounds where it has none: so much time and memory for a client, and no more; and what
cannot be parsed is refused in its turn, by a problem document.

- A refusal waits for the answers to what came before it on the connection. Sent at once, a client that pipelines would
  take it for the answer to an order that is being accepted.
- A request has to be there whole `ARRIVE_S` after it began; without that, a client that sends a byte a minute holds its
  connection, and its place among the batches, for ever.
- An answer has to be read: a client that takes nothing of it for `UNREAD_S` is cut off.
- Heads and requests are bounded: httptools collects whatever comes before the empty line, in front of a body or after.
- Pipelining is bounded: 30,000 requests sent without reading an answer cost 50 MB each time.
- An upgrade is ignored, since none is offered, but not together with a body: httptools takes that for the next request.

References: RFC 9112 §9.3.2 (pipelining), RFC 9110 §7.8 (Upgrade), §15.5.9 (408), RFC 6585 §5 (431).
"""

import random
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from common import metrics
from common.http import problem
from common.http.problem import Problem, ProblemError

PIPELINED_MAX: Final = 64
HEAD_BYTES_MAX: Final = 32 * 1024
REQUEST_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of everything: the largest body is 4 MB, which chunks of a byte each make six times as long."""
ARRIVE_S: Final = 15.0
UNREAD_S: Final = 30.0
"""A client that takes nothing of its answer for so long has gone, or will not."""
LINGER_S: Final = 1.0
"""A refusal would be lost if the connection were reset because of what the client still sends."""

_MALFORMED: Final = Problem(
    code="malformed-request", title="Malformed request", status=400, detail="this is not an HTTP/1.1 request"
)
_UPGRADE: Final = Problem(
    code="malformed-request", title="Malformed request", status=400, detail="a request to upgrade may not have a body"
)
_PIPELINED: Final = Problem(
    code="too-many-pipelined",
    title="Too many requests at once",
    status=400,
    detail=f"over {PIPELINED_MAX} requests are waiting on this connection",
)
_HEAD_TOO_LARGE: Final = Problem(
    code="head-too-large",
    title="Request head too large",
    status=431,
    detail=f"request line and headers are over {HEAD_BYTES_MAX} bytes",
)
_TOO_LARGE: Final = Problem(
    code="too-large",
    title="Content too large",
    status=413,
    detail=f"the request is over {REQUEST_BYTES_MAX} bytes on the wire",
)
_TOO_SLOW: Final = Problem(
    code="too-slow",
    title="Request timeout",
    status=408,
    detail=f"the request was not complete {ARRIVE_S:.0f} s after it began",
)


class Protocol(HttpToolsProtocol):
    """One connection. The server calls `look` now and then."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._awaiting_since: float | None = self.loop.time()
        """Since when the rest of a request, or the first byte of one, is awaited; None while nothing is."""
        self._in_head = False
        self._in_body = False
        self._fed = 0
        self._bytes = 0
        """Of the request that is arriving, without the piece in which it began."""
        self._answered: RequestResponseCycle | None = None
        """The request whose turn it is. uvicorn's `cycle` is the last that came."""
        self._unanswered = 0
        """Requests taken in whose answers are not complete."""
        self._refusal: Problem | None = None
        self._unread = 0
        self._unread_since = 0.0

    @property
    def arriving(self) -> bool:
        """Whether a part of a request has come and the rest has not."""
        return self._in_head or self._in_body

    # What comes

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data and self._refusal is None:
            data = self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """Parse. Returns what is left after a request to upgrade."""
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

    # What does not come

    def look(self, now: float) -> None:
        """Give up on a client that takes too long. `now` is the loop's time."""
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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the last request only, so that the answers to others fail, each with a traceback in the log."""
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._answered is not None and not self._answered.response_complete:
            _abandon(self._answered)

    # What is refused

    def _refuse(self, found: Problem) -> None:
        """Answer nothing from here on, and close once what came before is answered."""
        self._refusal = found
        if self._in_body:
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()  # its turn has not come: others are being answered
                self._unanswered -= 1
            elif self.cycle.response_started:
                self.transport.close()
            else:
                self._send_refusal(found)
                _abandon(self.cycle)
        elif not self._unanswered:
            self._send_refusal(found)

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        if self._refusal is not None and not self._unanswered and not self.transport.is_closing():
            self._send_refusal(self._refusal)

    def _send_refusal(self, found: Problem) -> None:
        self._unset_keepalive_if_required()
        metrics.http_requests.labels("", "malformed", found.status).inc()
        request_id = b"%016x" % random.getrandbits(64)
        body = found.body(request_id.decode())
        headers = b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[found.status] + headers % (problem.CONTENT_TYPE, len(body), request_id) + body)
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def _abandon(cycle: RequestResponseCycle) -> None:
    """Its request never arrives whole, or its answer has nobody to go to."""
    cycle.disconnected = True
    cycle.message_event.set()
