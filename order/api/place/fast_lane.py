"""The fast lane: `POST /api/v1/orders` without ASGI, for requests of the usual form.

uvicorn lets a server bring its own protocol class. This one looks at what arrives on a connection between two requests.
One complete request for an order, whose head holds nothing unusual, is answered here, by the same desk and with the
same bytes. Everything else (a request in pieces, several at once, another route, `Prefer`, a header that changes what
the body is) goes untouched to uvicorn's protocol, the base class. For the usual request that saves three quarters of
the CPU an order costs in this process.

A connection serves one request at a time: what arrives early waits, unread beyond one chunk.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from time import perf_counter
from typing import Any, Final

from common.auth.authenticator import Authenticator
from common.auth.principal import Principal
from common.codec import encode
from common.events import OrderId, OrderPlaced
from common.http.heads import Hosts, host_refusal
from common.http.limits.limiter import Limiter
from common.http.limits.sources import forwarded_source
from common.http.problem import ProblemError
from common.http.protocol import Connection, raw_problem
from common.http.requests import BODY_BYTES_MAX, JSON, is_of_type
from common.http.responses import request_id
from common.kafka.produce.batch import Acknowledged
from order.api.log.orders_log import OrdersLog
from order.api.place.desk import ACCESS, OrderDesk, accepted
from order.api.place.idempotency import Begun, Kept, KeyedOrders
from order.api.place.keyed_requests import First
from order.api.place.single import LOCATION, ORDERS_PATH, REPLAYED, accept_seconds, accepted_count, counted_problem
from order.api.responses import Accepted

HEAD_BYTES_MAX: Final = 2_048
HEADS_KEPT: Final = 256
"""Clients of one kind send the same head with almost every request, but for what `split_own` takes out, so it is parsed
once."""

REQUEST_LINE: Final = f"POST {ORDERS_PATH} HTTP/1.1\r\n".encode()
_LINES_FROM: Final = len(REQUEST_LINE) - len(b"\r\n")
"""Where the lines of the head begin, each with the line end before it."""
_HEAD_END: Final = b"\r\n\r\n"
# RFC 9110 §5.5 and §5.6.2, without obs-text and without empty values.
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)[ \t]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,6}")
# What each request has of its own. Written in another way, it stays among the lines, and is unusual there.
_OWN: Final = re.compile(
    rb"\r\n(?i:(authorization|idempotency-key|traceparent|x-request-id|x-forwarded-for)): "
    rb"([\x21-\x7e]+(?: [\x21-\x7e]+)*)(?=\r\n|\Z)"
)
_ONCE: Final = frozenset({b"host", b"content-length", b"content-type", b"connection"})
_UNUSUAL: Final = frozenset(
    {
        b"authorization",
        b"idempotency-key",
        b"traceparent",
        b"x-request-id",
        b"x-forwarded-for",
        b"transfer-encoding",
        b"content-encoding",
        b"content-range",
        b"expect",
        b"origin",
        b"prefer",
        b"sec-fetch-site",
    }
)
_PERSISTENT: Final = frozenset({b"keep-alive", b"upgrade", b"http2-settings"})
"""Options of a connection that stays. Java's client offers an upgrade with every request, and an offer is ignored."""


def split_own(lines: bytes) -> tuple[bytes, Mapping[bytes, bytes]]:
    """The lines of a head without those that each request has of its own, and the values of these by their names. If
    one comes twice, all stay among the lines."""
    parts = _OWN.split(lines)
    if len(parts) == 1:
        return lines, {}
    own = {name.lower(): value for name, value in zip(parts[1::3], parts[2::3], strict=True)}
    return (b"".join(parts[::3]), own) if len(own) == len(parts) // 3 else (lines, {})


def read_head(lines: bytes, hosts: Hosts) -> int | None:
    """The length of the body, in bytes, if the request can be served here. The lines are those of its head but for its
    own, each with its line end before it."""
    headers: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n")[1:]:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        name = field[1].lower()
        if name in _UNUSUAL or (name in _ONCE and name in headers):
            return None
        headers[name] = field[2]
    length = headers.get(b"content-length", b"")
    options = {option.strip() for option in headers.get(b"connection", b"keep-alive").lower().split(b",")}
    if (
        b"host" not in headers
        or host_refusal(headers[b"host"], hosts) is not None
        or not _LENGTH.fullmatch(length)
        or int(length) > BODY_BYTES_MAX
        or not is_of_type(headers.get(b"content-type"), (JSON,))
        or not options <= _PERSISTENT
    ):
        return None
    return int(length)


def head_reader(hosts: Hosts) -> Callable[[bytes], int | None]:
    """`read_head` for these hosts, which remembers what it has read."""
    return lru_cache(HEADS_KEPT)(partial(read_head, hosts=hosts))


def accepted_head(further: Iterable[tuple[str, str]] = ()) -> bytes:
    """The head of a 202 with these further headers: a template for the length of the body, the order's id, the
    request's id and the headers of this answer alone."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in further).replace("%", "%%")
    return (
        b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: %%d\r\nlocation: %b%%b\r\n"
        b"x-request-id: %%b\r\n%b%%b" % (LOCATION, lines.encode())
    )


class FastLane(Connection):
    """A connection. `accepted` is its `accepted_head`."""

    def __init__(
        self,
        *arguments: Any,
        desk: OrderDesk,
        keyed: KeyedOrders,
        log: OrdersLog,
        read_head: Callable[[bytes], int | None],
        auth: Authenticator,
        limiter: Limiter,
        accepted: bytes = accepted_head(),
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._desk = desk
        self._keyed = keyed
        self._log = log
        self._read_head = read_head
        self._limiter = limiter
        self._accepted = accepted
        self._auth = auth
        self._serving = False
        self._early = b""

    # Requests

    def data_received(self, data: bytes) -> None:
        if self._serving:
            self._early += data
            self.flow.pause_reading()
            return
        if data.startswith(REQUEST_LINE) and self._is_between_requests():
            end = data.find(_HEAD_END, len(REQUEST_LINE), HEAD_BYTES_MAX)
            lines, own = split_own(data[_LINES_FROM:end] if end > 0 else b"")
            if self._read_head(lines) == len(data) - end - len(_HEAD_END):
                # Credentials that are not known yet, or no longer good, are judged where all others are.
                principal = self._auth.known(own.get(b"authorization"))
                if principal is not None and not principal.scopes.isdisjoint(ACCESS.accepted):
                    self._serving = True
                    self._unanswered += 1
                    self._awaiting_since = None
                    self._serve(own, data[end + len(_HEAD_END) :], principal)
                    return
        super().data_received(data)

    def _is_between_requests(self) -> bool:
        return not (self.arriving or self._unanswered or self.flow.write_paused) and self._refusal is None

    def _serve(self, own: Mapping[bytes, bytes], body: bytes, principal: Principal) -> None:
        """Serve a request of this principal, who may place orders. `own` is what `split_own` took out of its head."""
        customer = ACCESS.confinement(principal)
        began = perf_counter()
        id_ = request_id(own.get(b"x-request-id"))
        traceparent = own.get(b"traceparent")
        try:
            proxies = self._limiter.proxies
            source = (
                self.source if not proxies else forwarded_source(self.peer, own.get(b"x-forwarded-for", b""), proxies)
            )
            refused = (
                self._limiter.refusal_of_source(source, began)
                or self._limiter.refusal_of_principal(principal, began)
                or self._desk.refusal()
            )
            if refused is not None:
                raise ProblemError(refused)
            if (key := own.get(b"idempotency-key")) is not None:
                begun = self._keyed.receive(body, traceparent, key.decode(), customer)
                begun.first.add_done_callback(partial(self._stored, begun, id_, began))
            else:
                event, sent = self._desk.send(body, traceparent, customer)
                sent.add_done_callback(partial(self._acknowledged, event, id_, began))
        except Exception as error:
            self._answer_error(error, id_)

    def _acknowledged(
        self, event: OrderPlaced, request_id: bytes, began: float, sent: "asyncio.Future[Acknowledged]"
    ) -> None:
        try:
            self._log.fate(OrderId(event.subject), event.partitionkey, sent)
        except Exception as error:
            self._answer_error(error, request_id)
        else:
            self._answer_accepted(accepted(event), request_id, began)

    def _stored(self, begun: Begun, request_id: bytes, began: float, _: "asyncio.Future[First | None]") -> None:
        """The request has a key, and the first one under it is known."""
        try:
            kept = self._keyed.stored(begun)
            if not kept.in_log:
                sent = self._keyed.send(kept)
                sent.add_done_callback(partial(self._acknowledged_with_key, kept, request_id, began))
                return
        except Exception as error:
            self._answer_error(error, request_id)
        else:
            self._answer_kept(kept, request_id, began)

    def _acknowledged_with_key(
        self, kept: Kept, request_id: bytes, began: float, sent: "asyncio.Future[Acknowledged]"
    ) -> None:
        try:
            self._keyed.fate(kept, sent)
        except Exception as error:
            self._answer_error(error, request_id)
        else:
            self._answer_kept(kept, request_id, began)

    # Answers

    def _answer_error(self, error: Exception, request_id: bytes) -> None:
        self._answer(*raw_problem(counted_problem(error), request_id))

    def _answer_kept(self, kept: Kept, request_id: bytes, began: float) -> None:
        self._answer_accepted(kept.accepted, request_id, began, REPLAYED if kept.repeated else None)

    def _answer_accepted(
        self, order: Accepted, request_id: bytes, began: float, replayed: tuple[bytes, bytes] | None = None
    ) -> None:
        accept_seconds.observe(perf_counter() - began)
        accepted_count.inc()
        body = encode(order)
        extra = b"" if replayed is None else b"%b: %b\r\n" % replayed
        self._answer(self._accepted % (len(body), order.order_id.encode(), request_id, extra), body)

    def _answer(self, head: bytes, body: bytes) -> None:
        self._serving = False
        self._unanswered -= 1
        transport = self.transport
        if transport.is_closing():  # the client has gone; its order stands
            return
        self.server_state.total_requests += 1
        if self._closing:
            transport.write(b"%b%bconnection: close\r\n\r\n%b" % (head, self.server_state.header_lines, body))
            transport.close()
            return
        transport.write(b"%b%b\r\n%b" % (head, self.server_state.header_lines, body))
        self._answered_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._await_next(self.timeout_keep_alive)
        if self._early:
            early, self._early = self._early, b""
            self.flow.resume_reading()
            self.data_received(early)

    def _await_next(self, delay_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(delay_s, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection. One timer serves many requests: a new one for each costs as much as a header."""
        self.timeout_keep_alive_task = None
        left_s = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if self._serving:
            self._await_next(self.timeout_keep_alive)
        elif left_s > 0:
            self._await_next(left_s)
        else:
            super().timeout_keep_alive_handler()
