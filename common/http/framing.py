"""How requests and responses are framed, where the parser and uvicorn are less strict than HTTP, or do not support a
part of it.

References: RFC 9112 §3.2.2 (absolute-form), §6.1 (Transfer-Encoding, HTTP/1.0), RFC 9110 §7.8 (Upgrade), §10.1.1
(Expect), §15.6.6 (505).
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from common.http import problem
from common.http.problem import Problem, ProblemError

_ABSOLUTE: Final = re.compile(rb"(?i:https?)://(?P<host>[^/?#]*)(?P<rest>[^#]*)")

_NO_CHUNKS: Final = problem.malformed("HTTP/1.0 has no transfer-encoding; send a content-length (RFC 9112 §6.1)")
_CODED: Final = Problem(
    problem.NOT_IMPLEMENTED, "no transfer-encoding but chunked can be decoded; send the body as it is"
)
_TUNNEL: Final = Problem(problem.NOT_IMPLEMENTED, "this is no proxy: CONNECT is not supported")
_VERSION: Final = Problem(problem.HTTP_VERSION, "use HTTP/1.1 or HTTP/1.0")
_FRAGMENT: Final = problem.malformed("the request target has a fragment, which is for the client alone")
_TARGET: Final = problem.malformed("the request target is not a path or an http URI")


def refusal(method: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> Problem | None:
    """The reason why a request cannot be read, if there is one. The parser takes HTTP/0.9 and 2.0 too, and any coding
    before `chunked`."""
    if version not in ("1.1", "1.0"):
        return _VERSION
    if method == b"CONNECT":
        return _TUNNEL
    for name, value in headers:
        if name == b"transfer-encoding":
            if version == "1.0":
                return _NO_CHUNKS
            if value.lower() != b"chunked":
                return _CODED
    return None


def unreadable(reason: BaseException) -> Problem:
    """Why the parser could not read a request. It must not depend on the pieces in which that arrived."""
    if str(reason) in ("Invalid HTTP version", "Pause on PRI/Upgrade"):
        return _VERSION
    return problem.malformed(f"this is not an HTTP/1.1 request: {str(reason)[:100]}")


def target(url: bytes) -> tuple[bytes | None, bytes]:
    """The host, if the request target names one, and the rest. That host counts, not the header's.

    Raises `ProblemError` 400 if it is neither a path nor an http URI.
    """
    if url.startswith(b"/"):
        if b"#" in url:
            raise ProblemError(_FRAGMENT)
        return None, url
    if url == b"*":
        return None, url
    absolute = _ABSOLUTE.fullmatch(url)
    if absolute is None:
        raise ProblemError(_TARGET)
    rest = absolute["rest"]
    return absolute["host"], rest if rest.startswith(b"/") else b"/" + rest


def without_offer(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request without its offer to upgrade. Names of headers are in lower case."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() != b"upgrade")
        if name != b"upgrade":
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join((*lines, b"", b""))


def closing(app: Any, cycle: RequestResponseCycle) -> Any:
    """`app`, for a request of HTTP/1.0 or one that waits for `100 Continue`.

    HTTP/1.0 has no chunks: a response of unknown length ends with the connection. So does a request whose body was
    not asked for: whether it still comes cannot be known.
    """

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        until_close = False

        async def send_closing(message: Message) -> None:
            nonlocal until_close
            if message["type"] == "http.response.start":
                if cycle.waiting_for_100_continue:
                    cycle.keep_alive = False
                if scope["http_version"] == "1.0" and not any(
                    name == b"content-length" for name, _ in message["headers"]
                ):
                    until_close = True
                    cycle.chunked_encoding = False
            elif until_close:  # uvicorn holds the body against its length
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_closing)

    return respond
