"""What comes with a request: its body, within a limit and of a content type that is taken, and what stands in its path
and headers. A wrong value is answered with what is allowed."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from common.events import IDENTIFIER_PATTERN, KEY_CHARS_MAX
from common.http import problem
from common.http.problem import Problem, ProblemError

BODY_BYTES_MAX: Final = 64 * 1024
JSON: Final = b"application/json"
IDEMPOTENCY_KEY_CHARS_MAX: Final = KEY_CHARS_MAX
_IDEMPOTENCY_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}")
REPLAYED: Final = {"idempotency-replayed": "true"}
"""The header of an answer to a key that was used before, for the same request."""
_IDENTIFIER: Final = re.compile(IDENTIFIER_PATTERN)
_CHARSETS: Final = frozenset({b"utf-8", b"utf8", b"us-ascii"})

B = TypeVar("B", bytes, bytearray)


class ClientGone(Exception):
    """The client closed the connection before its request had arrived. There is nobody to answer."""


async def read_body(request: Request) -> bytes:
    """The request's JSON body. Raises what `receive_body` raises."""
    return await receive_body(dict(request.scope["headers"]), request.receive)


async def receive_body(
    headers: Mapping[bytes, bytes], receive: Receive, types: Sequence[bytes] = (JSON,), bytes_max: int = BODY_BYTES_MAX
) -> bytes:
    """The request's body.

    Raises `ProblemError` 415 without a content type of `types`, 413 above `bytes_max`; `ClientGone`.
    """
    content_type = headers.get(b"content-type")
    if content_type not in types and not is_of_type(content_type, types):
        stated = "is missing" if content_type is None else f"is {content_type.decode('latin-1')!r}"
        detail = f"content-type {stated}, must be {b' or '.join(types).decode()}, in UTF-8"
        raise ProblemError(Problem(problem.UNSUPPORTED_MEDIA_TYPE, detail))
    if int(headers.get(b"content-length", b"0")) > bytes_max:  # before the client is told to go on and send it
        raise ProblemError(problem.too_large(f"the body is over {bytes_max} bytes"))
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        return within_limit(body, "body", bytes_max)
    return await _receive_rest(message, receive, bytes_max)


def is_of_type(content_type: bytes | None, types: Sequence[bytes]) -> bool:
    """Whether it is one of `types`, in UTF-8 or in a charset that is a part of it.

    A missing one does not count: without a content type, a browser sends a page's request to any site without asking
    it.
    """
    if content_type is None:
        return False
    media_type, *parameters = content_type.split(b";")
    pairs = (parameter.partition(b"=") for parameter in parameters)
    charsets = {value.strip(b' \t"').lower() for name, _, value in pairs if name.strip().lower() == b"charset"}
    return media_type.strip().lower() in types and charsets <= _CHARSETS


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
        raise ProblemError(problem.too_large(f"the {name} is over {bytes_max} bytes"))
    return content


def path_identifier(request: Request, name: str) -> str:
    """The identifier in the path. Raises `ProblemError` 404 for a name that is no identifier."""
    value = str(request.path_params[name])
    if not _IDENTIFIER.match(value):
        raise ProblemError(problem.not_found(name.removesuffix("_id"), value[:64]))
    return value


def idempotency_key(scope: Scope) -> str | None:
    """The `Idempotency-Key` header, if there is one. Raises `ProblemError` 400 if it is not valid, or not the only one:
    a key that is passed over protects nobody."""
    keys = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    if len(keys) > 1:
        raise ProblemError(_invalid_key(f"there are {len(keys)} Idempotency-Key headers, must be one"))
    return checked_idempotency_key(keys[0].decode("latin-1")) if keys else None


def checked_idempotency_key(key: str) -> str:
    """The key. Raises `ProblemError` 400 if it is not valid."""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ProblemError(_invalid_key(f"must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters"))
    return key


def _invalid_key(detail: str) -> Problem:
    return Problem(problem.IDEMPOTENCY_KEY, detail)


def idempotency_key_reused(key: str, owner: str) -> Problem:
    """422: the key came before with `owner`, such as "another order of this customer"."""
    detail = f"the key {key!r} belongs to {owner}; use a new one"
    return Problem(problem.IDEMPOTENCY_KEY_REUSED, detail)
