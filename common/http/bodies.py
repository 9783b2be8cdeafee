"""Request bodies: read within a limit, and only of a content type that is taken."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive

from common.http.problem import Problem, ProblemError, too_large

BODY_BYTES_MAX: Final = 64 * 1024
JSON: Final = b"application/json"

B = TypeVar("B", bytes, bytearray)


class ClientGone(Exception):
    """The client closed the connection before its request had arrived. There is nobody to answer."""


async def read_body(request: Request) -> bytes:
    """The request's JSON body. Raises what `receive_body` raises."""
    return await receive_body(dict(request.scope["headers"]), request.receive)


async def receive_body(
    headers: Mapping[bytes, bytes], receive: Receive, types: Sequence[bytes] = (JSON,), bytes_max: int = BODY_BYTES_MAX
) -> bytes:
    """The request's body. A missing content type is taken for the first of `types`.

    Raises `ProblemError` 415 for a content type that is none of `types`, 413 above `bytes_max`; `ClientGone`.
    """
    content_type = headers.get(b"content-type", types[0])
    if content_type not in types and content_type.partition(b";")[0].strip().lower() not in types:
        detail = f"content-type is {content_type.decode('latin-1')!r}, must be {b' or '.join(types).decode()}"
        raise ProblemError(Problem(415, "unsupported-media-type", "Unsupported media type", detail))
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        return within_limit(body, "body", bytes_max)
    return await _receive_rest(message, receive, bytes_max)


async def _receive_rest(message: Message, receive: Receive, bytes_max: int) -> bytes:
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        within_limit(body, "body", bytes_max)
        if not message.get("more_body", False):
            return bytes(body)
        message = await receive()
    raise ClientGone


def within_limit(content: B, name: str, bytes_max: int = BODY_BYTES_MAX) -> B:
    """The content. Raises `ProblemError` 413, which calls it by `name`, when it is over `bytes_max`."""
    if len(content) > bytes_max:
        raise ProblemError(too_large(f"the {name} is over {bytes_max} bytes"))
    return content
