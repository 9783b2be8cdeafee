"""`GET /api/v1/orders/{id}/events`: what becomes of an order, as server-sent events, until it is settled.

Each entry of the order's timeline is an event of its own name, whose id is the number of entries sent so far. Then
`settled` comes with the whole order, and the stream ends. A client that reconnects with `Last-Event-ID` gets what it
missed, at any process; once it has everything, 204 tells it not to come again. A stream also ends when the process
does: without a `settled` there is more to come.

References: WHATWG HTML, "Server-sent events".
"""

import asyncio
import re
from typing import Final

from starlette.types import Receive, Scope, Send

from common.codec import encode
from common.events import OrderId
from common.http import problem
from common.http.problem import ProblemError
from common.http.responses import header
from order.api.read.lookup import Lookup
from order.api.read.outcomes import Outcomes
from order.api.read.queries import Stored, Watched

STREAMS_MAX: Final = 1_000
"""Open streams in this process."""
HEARTBEAT_S: Final = 10.0
"""A comment this often keeps proxies from closing the connection."""
RETRY_MS: Final = 1_000
NO_ROOM: Final = problem.unavailable(f"{STREAMS_MAX} streams are open at this process already; ask for the order")

_LAST_EVENT_ID: Final = re.compile(r"([0-9]{1,6})(-settled)?")
_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class OrderEvents:
    """Bare ASGI, so that a client that goes away frees its stream at once."""

    def __init__(self, lookup: Lookup, outcomes: Outcomes, most: int = STREAMS_MAX) -> None:
        self._lookup = lookup
        self._outcomes = outcomes
        self._most = most
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._open >= self._most:
            raise ProblemError(NO_ROOM)
        self._open += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self._open -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        order = await self._lookup.find(scope["path_params"]["order_id"])
        last = _LAST_EVENT_ID.fullmatch(header(scope, b"last-event-id"))
        if last and order.view.settled and last[0] == _settled_id(order):
            await send({"type": "http.response.start", "status": 204, "headers": ()})
            await send({"type": "http.response.body"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if scope["method"] != "HEAD":
            sending = asyncio.create_task(self._send_events(send, order, int(last[1]) if last else 0))
            leaving = asyncio.create_task(_gone(receive))
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        await send({"type": "http.response.body"})

    async def _send_events(self, send: Send, order: Stored, seen: int) -> None:
        """Send what comes after the first `seen` entries, until the order is settled or the process drains."""
        await _send(send, b"retry: %d\n\n" % RETRY_MS)
        order_id = OrderId(order.view.order_id)
        # An order that is only accepted may turn out to have another first entry: only the saga's timeline counts.
        stored = order if order.view.settled else None
        while not self._outcomes.draining:
            if stored is not None:
                await _send(send, _entries(stored, seen))
                seen = max(seen, len(stored.view.timeline))
                if stored.view.settled:
                    return
            stored = await self._outcomes.news(Watched(order_id, seen), HEARTBEAT_S)
            if stored is None:
                await _send(send, b": nothing new\n\n")


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


async def _send(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _gone(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
