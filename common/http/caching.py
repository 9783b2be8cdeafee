"""Conditional requests: an answer that the client has already is not sent again.

References: RFC 9110 §8.8.3 (ETag), §13.1.2 (If-None-Match), §15.4.5 (304); RFC 9111 §5.2.2 (Cache-Control); RFC 8288
(Link).
"""

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

REVALIDATE: Final = "private, no-cache"
"""The client's own cache may keep the answer, and must ask before each use whether it still holds."""
TAG_BYTES: Final = 12
NO_STORE: Final = {"cache-control": "no-store"}
"""For an answer that will be another one soon."""
_KEPT: Final = ("cache-control", "etag", "vary")

Handler = Callable[[Request], Awaitable[Response]]


def conditional(handler: Handler) -> Handler:
    """The handler, with an ETag in each 200: its own, or the hash of the body. A client that has that version is
    answered 304.

    Unless the handler says otherwise, a cache must ask each time.
    """

    async def respond(request: Request) -> Response:
        response = await handler(request)
        if response.status_code != 200:
            return response
        tag = response.headers.get("etag") or tag_of(response.body)
        response.headers["etag"] = tag
        response.headers.setdefault("cache-control", REVALIDATE)
        if not is_current(request.headers.get("if-none-match"), tag):
            return response
        kept = {name: response.headers[name] for name in _KEPT if name in response.headers}
        return Response(status_code=304, headers=kept)

    return respond


def tag_of(content: bytes | memoryview) -> str:
    """The ETag of this content."""
    return f'"{blake2b(content, digest_size=TAG_BYTES).hexdigest()}"'


def is_current(if_none_match: str | None, tag: str) -> bool:
    """Whether the header names this version, by the weak comparison that RFC 9110 wants here."""
    if if_none_match is None:
        return False
    named = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return tag in named or named == {"*"}


def next_page(request: Request, cursor: str | None) -> dict[str, str]:
    """The header that leads to the page after this one, if there is one."""
    if cursor is None:
        return {}
    query = urlencode({**request.query_params, "cursor": cursor})
    return {"link": f'<{request.url.path}?{query}>; rel="next"'}
