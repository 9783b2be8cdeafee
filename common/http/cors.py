"""Cross-origin requests: which pages of other origins may read the answers. None, unless `CORS_ORIGINS` names them.

A request of any other foreign origin is refused (`common.http.heads`), so nothing here has to refuse.

References: https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

from collections.abc import Iterable
from typing import Final

from starlette.types import Message, Scope, Send

MAX_AGE_S: Final = 600
"""How long a browser may remember what a preflight request was answered."""
REQUEST_HEADERS: Final = (
    b"authorization, content-type, idempotency-key, if-none-match, last-event-id, prefer, traceparent, x-request-id"
)
ANSWER_HEADERS: Final = (
    b"deprecation, etag, idempotency-replayed, link, location, preference-applied, ratelimit, ratelimit-policy, "
    b"retry-after, sunset, www-authenticate, x-request-id"
)


def origin_of(headers: Iterable[tuple[bytes, bytes]], allowed: frozenset[bytes]) -> bytes | None:
    """The allowed origin that a request comes from, if it does."""
    origin = next((value for name, value in headers if name == b"origin"), None)
    return origin if origin in allowed else None


def opened(scope: Scope, send: Send, origin: bytes) -> Send:
    """`send` for a request of this origin: its page may read the answer, and a preflight request is told what it may
    send."""
    asked = {name for name, _ in scope["headers"]}
    preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in asked

    async def send_opened(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            vary = b", ".join([*(value for name, value in headers if name == b"vary"), b"Origin"])
            headers = [(name, value) for name, value in headers if name != b"vary"]
            headers += [(b"access-control-allow-origin", origin), (b"vary", vary)]
            if preflight:
                methods = next((value for name, value in headers if name == b"allow"), b"")
                headers += [
                    (b"access-control-allow-methods", methods),
                    (b"access-control-allow-headers", REQUEST_HEADERS),
                    (b"access-control-max-age", b"%d" % MAX_AGE_S),
                ]
            else:
                headers.append((b"access-control-expose-headers", ANSWER_HEADERS))
            message["headers"] = headers
        await send(message)

    return send_opened
