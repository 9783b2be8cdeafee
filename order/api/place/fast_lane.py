"""The fast lane: `POST /api/v1/orders` without ASGI, for requests of the usual form. All else goes the ordinary way.

uvicorn lets a server bring its own protocol class. This one looks at what arrives on a connection between two requests:
if it is one whole request for an order, with a head that means nothing unusual, it is answered here, by the same desk
and in the same bytes. Anything else (pieces, several at once, another route, `Prefer`, a header that changes what the
body is) is handed on untouched to uvicorn's protocol, which is this one's base class. What uvicorn and ASGI cost an
order, three quarters of its CPU in this process, is thus spared where it matters, and only there.

One request at a time is served on a connection: what comes early waits, unread beyond one chunk.
"""

import asyncio
import re
from functools import lru_cache, partial
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final, NamedTuple

from loguru import logger

from common.codec import encode
from common.events import OrderId
from common.http import problem, responses
from common.http.bodies import BODY_BYTES_MAX, JSON
from common.http.problem import Problem, ProblemError
from common.http.protocol import Protocol
from common.http.validation import decode_body
from common.kafka.async_publisher import Acknowledged
from order.api.log.orders_log import OrdersLog
from order.api.place.desk import OrderDesk, accepted
from order.api.place.idempotency import KeyedOrders
from order.api.place.single import LOCATION, ORDERS_PATH, REPLAYED, accept_seconds
from order.api.requests import order_request_decoder
from order.api.responses import Accepted

HEAD_BYTES_MAX: Final = 2_048
HEADS_KEPT: Final = 256
"""A client sends the same head with almost every request, so that it need not be read anew."""

REQUEST_LINE: Final = f"POST {ORDERS_PATH} HTTP/1.1\r\n".encode()
_HEAD_END: Final = b"\r\n\r\n"
# RFC 9110 §5.5 and §5.6.2, without obs-text and without empty values.
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)[ \t]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,6}")
_ONCE: Final = frozenset(
    {b"host", b"content-length", b"content-type", b"connection", b"idempotency-key", b"traceparent", b"x-request-id"}
)
_UNUSUAL: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"prefer"})

_accepted_count: Final = responses.counter("POST", ORDERS_PATH, 202)


class Head(NamedTuple):
    """What a request's head says, as far as it matters here."""

    length: int
    request_id: bytes | None
    traceparent: bytes | None
    key: str | None


@lru_cache(HEADS_KEPT)
def read_head(head: bytes) -> Head | None:
    """The header lines of a request that can be served here, or None."""
    found: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        name = field[1].lower()
        if name in _UNUSUAL or (name in _ONCE and name in found):
            return None
        found[name] = field[2]
    length = found.get(b"content-length", b"")
    kind = found.get(b"content-type", JSON)
    if (
        b"host" not in found
        or not _LENGTH.fullmatch(length)
        or int(length) > BODY_BYTES_MAX
        or kind.partition(b";")[0].strip().lower() != JSON
        or found.get(b"connection", b"keep-alive").lower() != b"keep-alive"
    ):
        return None
    key = found.get(b"idempotency-key")
    return Head(
        int(length),
        found.get(b"x-request-id"),
        found.get(b"traceparent"),
        None if key is None else key.decode("latin-1"),
    )


class FastLane(Protocol):
    """A connection."""

    def __init__(self, *given: Any, desk: OrderDesk, keyed: KeyedOrders, log: OrdersLog, **named: Any) -> None:
        super().__init__(*given, **named)
        self._desk = desk
        self._keyed = keyed
        self._log = log
        self._serving = False
        self._early = b""
        self._answered_at = 0.0

    # What arrives

    def data_received(self, data: bytes) -> None:
        if self._serving:
            self._early += data
            self.flow.pause_reading()
            return
        if data.startswith(REQUEST_LINE) and self._is_between_requests():
            end = data.find(_HEAD_END, len(REQUEST_LINE), HEAD_BYTES_MAX)
            head = read_head(data[len(REQUEST_LINE) : end]) if end > 0 else None
            if head is not None and head.length == len(data) - end - len(_HEAD_END):
                self._serving = True
                self._unanswered += 1
                self._awaiting_since = None
                self._serve(head, data[end + len(_HEAD_END) :])
                return
        super().data_received(data)

    def _is_between_requests(self) -> bool:
        return not (self.arriving or self._unanswered or self.flow.write_paused) and self._refusal is None

    # What is done with it

    def _serve(self, head: Head, body: bytes) -> None:
        began = perf_counter()
        request_id = responses.request_id(head.request_id)
        try:
            if (refused := self._desk.refusal()) is not None:
                self._answer_problem(refused, request_id)
            elif head.key is not None:
                self._start(self._serve_keyed(head, body, request_id, began))
            else:
                event = self._desk.draft(decode_body(body, order_request_decoder), head.traceparent)
                if isinstance(event, Problem):
                    self._answer_problem(event, request_id)
                    return
                sent = self._log.send(OrderId(event.subject), event.partitionkey, encode(event))
                sent.add_done_callback(partial(self._acknowledged, accepted(event), request_id, began))
        except Exception as error:
            self._answer_error(error, request_id)

    def _acknowledged(
        self, order: Accepted, request_id: bytes, began: float, sent: "asyncio.Future[Acknowledged]"
    ) -> None:
        try:
            self._log.fate(OrderId(order.order_id), sent)
        except Exception as error:
            self._answer_error(error, request_id)
        else:
            accept_seconds.observe(perf_counter() - began)
            self._answer_accepted(order, request_id)

    async def _serve_keyed(self, head: Head, body: bytes, request_id: bytes, began: float) -> None:
        assert head.key is not None
        try:
            order, repeated = await self._keyed.place(body, head.traceparent, head.key)
        except Exception as error:
            self._answer_error(error, request_id)
        else:
            accept_seconds.observe(perf_counter() - began)
            self._answer_accepted(order, request_id, REPLAYED if repeated else None)

    def _start(self, serving: Any) -> None:
        """Run a request as a task that the server knows, and so waits for when it ends."""
        task = self.loop.create_task(serving)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # What is answered

    def _answer_accepted(self, order: Accepted, request_id: bytes, more: tuple[bytes, bytes] | None = None) -> None:
        _accepted_count.inc()
        body = encode(order)
        extra = b"" if more is None else b"%b: %b\r\n" % more
        self._answer(
            b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: %d\r\nlocation: %b%b\r\n"
            b"x-request-id: %b\r\n%b" % (len(body), LOCATION, order.order_id.encode(), request_id, extra),
            body,
        )

    def _answer_error(self, error: Exception, request_id: bytes) -> None:
        if isinstance(error, ProblemError):
            self._answer_problem(error.problem, request_id)
            return
        logger.opt(exception=error).error("unhandled error", path=ORDERS_PATH)
        self._answer_problem(problem.INTERNAL, request_id)

    def _answer_problem(self, found: Problem, request_id: bytes) -> None:
        responses.counter("POST", ORDERS_PATH, found.status).inc()
        body = found.body(request_id.decode())
        headers = responses.problem_headers(found, body, request_id)
        self._answer(
            b"HTTP/1.1 %d %b\r\n%b"
            % (found.status, HTTPStatus(found.status).phrase.encode(), b"".join(b"%b: %b\r\n" % h for h in headers)),
            body,
        )

    def _answer(self, head: bytes, body: bytes) -> None:
        self._serving = False
        self._unanswered -= 1
        transport = self.transport
        if transport.is_closing():  # the client has gone; what it ordered stands
            return
        self.server_state.total_requests += 1
        if self._closing:
            transport.write(b"%bconnection: close\r\n\r\n%b" % (head, body))
            transport.close()
            return
        transport.write(b"%b\r\n%b" % (head, body))
        self._answered_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._await_next(self.timeout_keep_alive)
        if self._early:
            early, self._early = self._early, b""
            self.flow.resume_reading()
            self.data_received(early)

    # How it ends

    def _await_next(self, delay_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(delay_s, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close what is idle. One timer serves many requests: setting a new one for each costs as much as a header."""
        self.timeout_keep_alive_task = None
        left_s = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if self._serving:
            self._await_next(self.timeout_keep_alive)
        elif left_s > 0:
            self._await_next(left_s)
        else:
            super().timeout_keep_alive_handler()
