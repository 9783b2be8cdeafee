"""Orders under an `Idempotency-Key`: a request is one order, however often and at whichever process it arrives.

The key belongs to its customer. The first request of a key is stored with its priced event before that is published.
Later requests get the stored one, whatever the prices are by then. A refusal (4xx) uses up no key.

A repeat is published again unless the log is known to have the order. That is safe: the event keeps its id, and every
consumer drops it. It is also needed: the process that stored the request may have died before it published.

References: draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET
from prometheus_client import Counter

from common.codec import encode
from common.database import DatabaseUnavailable
from common.events import OrderId, OrderPlaced
from common.http import problem
from common.http.problem import Problem, ProblemError
from common.http.requests import checked_idempotency_key, idempotency_key_reused
from common.http.validation import decode_body
from common.kafka.produce.batch import Acknowledged
from common.keyed_answers import Answer, Keyed, KeyReused
from order.api.log.orders_log import OrdersLog
from order.api.log.recent import RecentOrders
from order.api.place.desk import OrderDesk, accepted, check_name
from order.api.place.keyed_requests import First, KeyedRequest, KeyedRequests
from order.api.requests import OrderLine, OrderRequest, line_decoder, order_request_decoder
from order.api.responses import PLACED_NOTHING, Accepted

EXPIRED_MEANWHILE: Final = problem.unavailable(f"the key has just expired; {PLACED_NOTHING}")

MANY: Final = "POST /api/v1/orders/batch"

_placed: Final = msgspec.json.Decoder(OrderPlaced)
_repeats: Final = Counter("tandem_order_repeats_total", "Requests that came again under their idempotency key.")


class Begun(NamedTuple):
    """A request that is being stored. `draft` is its order if it is the first of its key, or why it cannot be one."""

    key: str
    customer_id: str
    request_hash: bytes
    draft: OrderPlaced | Problem
    first: "asyncio.Future[First | None]"


class Kept(NamedTuple):
    """An order as it is stored: the bytes to publish, and whether its request had come before."""

    order_id: OrderId
    customer_id: str
    event: bytes
    accepted: Accepted
    repeated: bool
    in_log: bool


class KeyedOrders:
    """Takes orders that come with a key."""

    def __init__(self, desk: OrderDesk, requests: KeyedRequests, log: OrdersLog, recent: RecentOrders) -> None:
        self._desk = desk
        self._requests = requests
        self._log = log
        self._recent = recent

    async def place(
        self, body: bytes, traceparent: bytes | None, key: str, customer: str | None
    ) -> tuple[Accepted, bool]:
        """Accept an order, or find it accepted: on return it is in the log. Also returns whether it is a repeat.
        It must be this customer's, if one is given.

        Raises `ProblemError`.
        """
        kept = await self.kept(self.receive(body, traceparent, key, customer))
        if not kept.in_log:
            try:
                await self._log.acknowledged(kept.order_id, kept.customer_id, self.send(kept))
            except ProblemError as error:
                raise ProblemError(with_key(error.problem)) from None
        return kept.accepted, kept.repeated

    def receive(self, body: bytes, traceparent: bytes | None, key: str, customer: str | None) -> Begun:
        """`begin` with what a client has sent. Raises `ProblemError`."""
        checked_idempotency_key(key)
        request = decode_body(body, order_request_decoder)
        check_name(request, customer)
        return self.begin(request, key, traceparent)

    def send(self, kept: Kept) -> "asyncio.Future[Acknowledged]":
        """Send the order to the log. It is accepted once the future has its acknowledgement; see `fate`."""
        return self._log.send(kept.order_id, kept.customer_id, kept.event)

    def fate(self, kept: Kept, sent: "asyncio.Future[Acknowledged]") -> Acknowledged:
        """Where the log has the order, now that its future is done. Raises `ProblemError` 503."""
        try:
            return self._log.fate(kept.order_id, kept.customer_id, sent)
        except ProblemError as error:
            raise ProblemError(with_key(error.problem)) from None

    async def came_before(self, key: str, lines: Sequence[bytes], customer: str | None) -> bool:
        """Whether a request of these lines came before under this key. Raises `ProblemError` 422 when others did.

        A customer's keys are their own: they meet nobody else's.
        """
        resource = MANY if customer is None else f"{MANY} {customer}"
        keyed = Keyed(resource, key, encode([_meaning(line) for line in lines]))
        try:
            return (await self._requests.keep(keyed, Answer(200, b""))).replayed
        except KeyReused:
            raise ProblemError(idempotency_key_reused(key, "another request of many orders")) from None
        except DatabaseUnavailable as error:
            raise ProblemError(not_stored(error)) from None

    def begin(self, request: OrderRequest, key: str, traceparent: bytes | None) -> Begun:
        """The first half: price the order, and have it stored. Raises `ProblemError` 503."""
        hashed = request_hash(request.customer_id, request.lines, _expected_amount(request))
        draft: OrderPlaced | Problem
        try:
            draft = self._desk.draft(request, traceparent)
            first = First(hashed, OrderId(draft.subject), encode(draft))
        except ProblemError as error:
            draft, first = error.problem, None
        try:
            stored = self._requests.submit(KeyedRequest(request.customer_id, key, first))
        except DatabaseUnavailable as error:
            raise ProblemError(not_stored(error)) from None
        return Begun(key, request.customer_id, hashed, draft, stored)

    async def kept(self, begun: Begun) -> Kept:
        """The second half: the order that the key stands for, once that is known. Raises `ProblemError`."""
        with suppress(DatabaseUnavailable):
            await begun.first
        return self.stored(begun)

    def stored(self, begun: Begun) -> Kept:
        """The second half, now that the future `begun.first` is done. Raises `ProblemError`."""
        try:
            first = begun.first.result()
        except DatabaseUnavailable as error:
            raise ProblemError(not_stored(error)) from None
        draft = begun.draft
        if first is None:
            raise ProblemError(draft if isinstance(draft, Problem) else EXPIRED_MEANWHILE)
        if first.request_hash != begun.request_hash:
            raise ProblemError(idempotency_key_reused(begun.key, "another order of this customer"))
        order_id, customer_id, value = first.order_id, begun.customer_id, first.event
        if isinstance(draft, OrderPlaced) and draft.subject == order_id:
            return Kept(order_id, customer_id, value, accepted(draft), repeated=False, in_log=False)
        _repeats.inc()
        in_log = first.in_log or self._recent.get(order_id) is not None
        return Kept(order_id, customer_id, value, accepted(_placed.decode(value)), repeated=True, in_log=in_log)


def request_hash(customer_id: str, lines: Sequence[OrderLine], expected_amount: int | None) -> bytes:
    """Equal for two requests exactly when they ask for the same; how they are written does not matter."""
    return sha256(encode((customer_id, lines, expected_amount))).digest()


def _expected_amount(request: OrderRequest) -> int | None:
    return None if request.expected_amount is UNSET else request.expected_amount


def _meaning(line: bytes) -> bytes:
    """Equal for two lines when they ask for the same; a line that cannot be read means what it is."""
    try:
        request = line_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return line
    key = "" if request.idempotency_key is UNSET else request.idempotency_key
    return request_hash(request.customer_id, request.lines, _expected_amount(request)) + key.encode()


def key_of_line(key: str, number: int) -> str:
    """The key of a line, by that of its request. No client can send it: it has a blank in it."""
    return f"{key} {number}"


def with_key(refusal: Problem) -> Problem:
    """An unknown outcome in words for a client with a key; any other problem unchanged."""
    if refusal.order_id is None:
        return refusal
    detail = "the log has not acknowledged this in time and may still take it: send it again with the same key"
    return msgspec.structs.replace(refusal, detail=detail, retry_after_s=1)


def not_stored(error: DatabaseUnavailable) -> Problem:
    return problem.unavailable(f"the Idempotency-Key cannot be looked up: {error}; {PLACED_NOTHING} with the same key")
