"""Orders under an `Idempotency-Key`: however often a request comes, wherever and whenever, it is one order.

The key belongs to its customer. The first request of a key is stored with its priced event, before that is published;
who comes later gets the stored one, whatever things cost by then. So a client whose request timed out, or was answered
with a 5xx, sends it again with its key until it is answered; without a key it cannot do that safely, for nobody knows
whether the first one was accepted. A refusal (4xx) uses up no key.

A repeat is published again unless the log is known to have the order already. That is safe, since an event that comes
again has the id it had, and every consumer drops it; and it is what makes the answer true if the process that stored
the request died before it published.

References: draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET
from prometheus_client import Counter

from common.codec import encode
from common.events import OrderId, OrderPlaced
from common.http import problem
from common.http.parameters import checked_idempotency_key, idempotency_key_reused
from common.http.problem import Problem, ProblemError
from common.http.validation import decode_body
from order.api.log.orders_log import OrdersLog
from order.api.log.recent import RecentOrders
from order.api.place.desk import OrderDesk, accepted
from order.api.place.keyed_requests import Ask, First, KeyedRequests
from order.api.read.queries import DatabaseAway
from order.api.refusals import PLACED_NOTHING
from order.api.requests import OrderLine, OrderRequest, order_request_decoder
from order.api.responses import Accepted

_placed: Final = msgspec.json.Decoder(OrderPlaced)
_repeats: Final = Counter("tandem_order_repeats_total", "Orders asked for again under their idempotency key.")


class Begun(NamedTuple):
    """An order whose request is being stored. `draft` is what it would be if it is the first of its key."""

    key: str
    customer_id: str
    request_hash: bytes
    draft: OrderPlaced | Problem
    first: "asyncio.Future[First | None]"


class Kept(NamedTuple):
    """An order as it stands in the store: the bytes to publish, and whether it was asked for before."""

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

    async def place(self, body: bytes, traceparent: bytes | None, key: str) -> tuple[Accepted, bool]:
        """Accept an order, or find it accepted: on return it is in the log. Also says whether it came before.

        Raises `ProblemError`.
        """
        checked_idempotency_key(key)
        request = decode_body(body, order_request_decoder)
        kept = await self.kept(self.begin(request, key, traceparent))
        if not kept.in_log:
            try:
                await self._log.place(kept.order_id, kept.customer_id, kept.event)
            except ProblemError as error:
                raise ProblemError(with_key(error.problem)) from None
        return kept.accepted, kept.repeated

    def begin(self, request: OrderRequest, key: str, traceparent: bytes | None) -> Begun:
        """The first half: price the order, and have it stored. Raises `ProblemError` 503."""
        draft = self._desk.draft(request, traceparent)
        request_hash = hash_of(request)
        first = None
        if isinstance(draft, OrderPlaced):
            first = First(request_hash, OrderId(draft.subject), encode(draft))
        try:
            stored = self._requests.submit(Ask(request.customer_id, key, first))
        except DatabaseAway as away:
            raise ProblemError(_not_stored(away)) from None
        return Begun(key, request.customer_id, request_hash, draft, stored)

    async def kept(self, begun: Begun) -> Kept:
        """The second half: the order that the key stands for. Raises `ProblemError`."""
        try:
            first = await begun.first
        except DatabaseAway as away:
            raise ProblemError(_not_stored(away)) from None
        draft = begun.draft
        if first is None:
            raise ProblemError(draft if isinstance(draft, Problem) else _EXPIRED_MEANWHILE)
        if first.request_hash != begun.request_hash:
            raise ProblemError(idempotency_key_reused(begun.key, "another order of this customer"))
        order_id, customer_id, value = first.order_id, begun.customer_id, first.event
        if isinstance(draft, OrderPlaced) and draft.subject == order_id:
            return Kept(order_id, customer_id, value, accepted(draft), repeated=False, in_log=False)
        _repeats.inc()
        in_log = first.in_log or self._recent.get(order_id) is not None
        return Kept(order_id, customer_id, value, accepted(_placed.decode(value)), repeated=True, in_log=in_log)


def hash_of(request: OrderRequest) -> bytes:
    """What two requests have in common exactly when they ask for the same: how they are written does not matter."""
    expected = None if request.expected_amount is UNSET else request.expected_amount
    return request_hash(request.customer_id, request.lines, expected)


def request_hash(customer_id: str, lines: Sequence[OrderLine], expected_amount: int | None) -> bytes:
    """The same, of its parts."""
    return sha256(encode((customer_id, lines, expected_amount))).digest()


def with_key(found: Problem) -> Problem:
    """An unknown outcome, for a client that has a key."""
    if found.order_id is None:
        return found
    detail = "the log has not acknowledged this in time and may still take it: send it again with the same key"
    return msgspec.structs.replace(found, detail=detail, retry_after_s=1)


def _not_stored(away: DatabaseAway) -> Problem:
    return problem.unavailable(
        f"without its database an Idempotency-Key cannot be honoured: {away}; {PLACED_NOTHING} with the same key"
    )


_EXPIRED_MEANWHILE: Final = problem.unavailable(f"the key has expired this moment; {PLACED_NOTHING}")
