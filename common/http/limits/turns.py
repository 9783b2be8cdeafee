"""Turns at threads that requests share: one principal has a few at once, and its further requests wait for those."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from common.auth.guard import principal_of

AT_ONCE: Final = 4
"""Of a pool of 40 threads. A page asks for two or three things at once."""


class Turns:
    """The requests of each principal that are being answered. With AUTH=off nobody is told from others."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._semaphores: dict[str, asyncio.Semaphore] = {}
        self._requests: Counter[str] = Counter()

    def limited(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint, answering a principal as often at once as all endpoints of these turns together may."""

        async def limited_endpoint(request: Request) -> Response:
            principal = principal_of(request.scope)
            if principal.kind == "anonymous":
                return await endpoint(request)
            subject = principal.subject
            semaphore = self._semaphores.setdefault(subject, asyncio.Semaphore(self._at_once))
            self._requests[subject] += 1
            try:
                async with semaphore:
                    return await endpoint(request)
            finally:
                self._requests[subject] -= 1
                if not self._requests[subject]:
                    del self._requests[subject], self._semaphores[subject]

        return limited_endpoint
