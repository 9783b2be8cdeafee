"""`GET /api/v1/orders/{id}/events`: what becomes of an order, as server-sent events, until it is settled.

Each entry of the order's timeline is an event of its own name, whose id is the number of entries sent so far. Then
`settled` comes with the whole order, and the stream ends. A client that reconnects with `Last-Event-ID` gets what it
missed, at any process; once it has everything, 204 tells it not to come again. A stream also ends when the process
does: without a `settled` there is more to come.

References: WHATWG HTML, "Server-sent events".
"""

import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from loguru import logger
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from common import metrics
from common.auth.authenticator import Authenticator
from common.auth.guard import authorizations_of, confined_to, is_still_good, principal_of
from common.codec import encode
from common.events import OrderId
from common.http import problem
from common.http.limits.places import Full, Places
from common.http.limits.sources import source_of_request
from common.http.problem import Problem, ProblemError
from common.http.repeats import Repeats
from common.http.responses import header
from order.api.read.lookup import Lookup
from order.api.read.outcomes import Outcomes
from order.api.read.queries import ANYTHING, Stored, Watched

STREAMS_MAX: Final = 1_000
"""Open streams in this process."""
STREAMS_OF_CUSTOMER_MAX: Final = 32
HEARTBEAT_S: Final = 10.0
"""A comment this often keeps proxies from closing the connection."""
RETRY_MS: Final = 1_000

_LAST_EVENT_ID: Final = re.compile(r"([0-9]{1,6})(-settled)?")
_HEADERS: Final = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}


class OrderEvents:
    """Bare ASGI, so that it knows how many streams are open: each until it has ended or its client has gone."""

    def __init__(self, lookup: Lookup, outcomes: Outcomes, auth: Authenticator, streams_max: int = STREAMS_MAX) -> None:
        self._lookup = lookup
        self._auth = auth
        self._outcomes = outcomes
        self._open = Places(streams_max, STREAMS_OF_CUSTOMER_MAX)
        metrics.watch_pool("event-streams", streams_max, lambda: self._open.taken)
        self._refused = Repeats()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal, source = principal_of(scope), source_of_request(scope, ())
        if (full := self._open.full(principal, source)) is not None:
            raise ProblemError(self._no_room(full, source, time.monotonic()))
        with self._open.taking(principal, source):
            response = await self._response(scope)
            await response(scope, receive, send)

    def _no_room(self, full: Full, source: str, now: float) -> Problem:
        """The refusal of a stream, logged now and then with the number of them. `now` is in seconds."""
        if times := self._refused.count(now):
            logger.warning("too many event streams: {} refused", times, limit=full.limit, source=source)
        return problem.unavailable(
            f"{full.limit} streams {full.whose} are open at this process already; ask for the order"
        )

    async def _response(self, scope: Scope) -> Response:
        order = await self._lookup.find(scope["path_params"]["order_id"], confined_to(scope))
        last = _LAST_EVENT_ID.fullmatch(header(scope, b"last-event-id"))
        if last and order.view.settled and last[0] == _settled_id(order):
            return Response(status_code=204)
        if scope["method"] == "HEAD":
            return Response(headers=_HEADERS)
        events = self._events(order, int(last[1]) if last else 0, authorizations_of(scope))
        return StreamingResponse(events, headers=_HEADERS)

    async def _events(self, order: Stored, seen: int, authorizations: Sequence[bytes]) -> AsyncIterator[bytes]:
        """What comes after the first `seen` entries, until the order is settled, the process drains, or the client's
        credentials (`authorizations`) have expired or been revoked."""
        yield b"retry: %d\n\n" % RETRY_MS
        order_id = OrderId(order.view.order_id)
        # An order that is only accepted may turn out to have another first entry: only the saga's timeline counts.
        stored = order if order.view.settled else None
        known = ANYTHING
        while not self._outcomes.draining and await is_still_good(self._auth, authorizations):
            if stored is not None:
                if entries := _entries(stored, seen):
                    yield entries
                # Also for an id beyond the end, which is none of this order's: waiting past it would never end.
                seen = known = len(stored.view.timeline)
                if stored.view.settled:
                    return
            stored = await self._outcomes.news(Watched(order_id, known), HEARTBEAT_S)
            if stored is None:
                yield b": nothing new\n\n"


def _entries(stored: Stored, seen: int) -> bytes:
    """The entries after the first `seen`, and the end if there is one."""
    events = [
        b"id: %d\nevent: %s\ndata: %s\n\n" % (number, entry.event.encode(), encode(entry))
        for number, entry in enumerate(stored.view.timeline[seen:], seen + 1)
    ]
    if stored.view.settled:
        events.append(b"id: %s\nevent: settled\ndata: %s\n\n" % (_settled_id(stored).encode(), encode(stored.view)))
    return b"".join(events)


def _settled_id(stored: Stored) -> str:
    """A settled order that is cancelled is open again; its next end has another number of entries."""
    return f"{len(stored.view.timeline)}-settled"
