"""`GET /api/stream`: one stream of server-sent events for each tab, all fed by the same poller.

A message is encoded once for all. Each client has a queue of limited length; one that does not read is dropped, and may
come again: it then gets the newest of each kind.

References: WHATWG HTML, "Server-sent events".
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send

from common import metrics
from common.auth.guard import principal_of
from common.http import problem
from common.http.limits.places import Places
from common.http.problem import ProblemError

STREAMS_MAX: Final = 64
QUEUE_MAX: Final = 128
"""Messages: about a minute of them, and all that a client gets when it connects."""
HEARTBEAT_S: Final = 10.0
CHECK_S: Final = 1.0
"""How often a stream asks whether it has to end."""
SEND_S: Final = 20.0
"""How long a client may leave one message unread when the system's buffers are full."""
RETRY_MS: Final = 2_000
_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def message(kind: str, document: object) -> bytes:
    """A server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(document, default=str))


class Client:
    """The queue of one stream."""

    def __init__(self) -> None:
        self.queue: deque[bytes] = deque()
        self.dropped = False
        self._ready = asyncio.Event()

    def put(self, text: bytes) -> None:
        """Queue a message, or drop the client when it has not read so many."""
        if len(self.queue) >= QUEUE_MAX:
            self.dropped = True
            self.queue.clear()
        if not self.dropped:
            self.queue.append(text)
        self._ready.set()

    async def take(self, within_s: float) -> bytes:
        """All that is queued, as one; empty when nothing comes in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._ready.wait()
        self._ready.clear()
        text = b"".join(self.queue)
        self.queue.clear()
        return text


class Hub:
    """The clients, and the newest message of each kind."""

    def __init__(
        self,
        first: Callable[[], Iterator[tuple[str, object]]],
        stopping: Callable[[], bool],
        is_admitted: Callable[[Scope], Awaitable[bool]],
    ) -> None:
        """`first` makes what every client gets first. A stream ends when its request `is_admitted` no more."""
        self._first = first
        self._stopping = stopping
        self._is_admitted = is_admitted
        self._newest: dict[str, bytes] = {}
        self._clients: set[Client] = set()
        self._places = Places(STREAMS_MAX, STREAMS_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None
        metrics.watch_pool("console-streams", STREAMS_MAX, lambda: len(self._clients))

    def open(self) -> None:
        """Call it in the event loop, before anything is published."""
        self._loop = asyncio.get_running_loop()

    @property
    def clients(self) -> int:
        """How many streams are open."""
        return len(self._clients)

    def publish(self, kind: str, document: Any, *, key: str | None = None, keep: bool = True) -> None:
        """Send a message to all, from any thread. `keep` it for clients to come, in the place of the one before it with
        the same `key`, by default its kind."""
        text = message(kind, document)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._spread, key or kind, text, keep)

    def forget(self, key: str) -> None:
        """Keep nothing under this key any more."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._newest.pop, key, None)

    def _spread(self, key: str, text: bytes, keep: bool) -> None:
        if keep:
            self._newest[key] = text
        for client in self._clients:
            client.put(text)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = principal_of(scope)
        if (full := self._places.full(principal)) is not None:
            raise ProblemError(
                problem.unavailable(f"{full.limit} streams {full.whose} are open already; close some tabs")
            )
        with self._places.taking(principal):
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client()
        for text in [b"retry: %d\n\n" % RETRY_MS, *(message(*each) for each in self._first()), *self._newest.values()]:
            client.put(text)
        self._clients.add(client)
        gone = asyncio.ensure_future(self._gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await self._feed(client, gone, scope, send)
            async with asyncio.timeout(SEND_S):
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            pass  # it reads nothing: the connection is closed
        finally:
            self._clients.discard(client)
            gone.cancel()

    async def _gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _feed(self, client: Client, gone: "asyncio.Future[None]", scope: Scope, send: Send) -> None:
        now = asyncio.get_running_loop().time
        checked_at = sent_at = now()
        while not (gone.done() or client.dropped or self._stopping()):
            text = await client.take(CHECK_S)
            if now() - checked_at >= CHECK_S:
                if not await self._is_admitted(scope):
                    return
                checked_at = now()
            if not text and now() - sent_at < HEARTBEAT_S:
                continue
            body = {"type": "http.response.body", "body": text or b": nothing new\n\n", "more_body": True}
            async with asyncio.timeout(SEND_S):  # `wait_for` makes a task of each message before Python 3.12
                await send(body)
            sent_at = now()
