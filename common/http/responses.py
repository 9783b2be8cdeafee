"""Responses: JSON, problem documents, and request ids."""

import random
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
import orjson
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope, Send

from common.http.problem import CONTENT_TYPE, Problem

UuidText = Annotated[str, Meta(description="a UUID", extra_json_schema={"format": "uuid"})]
Moment = Annotated[str, Meta(description="RFC 3339, in UTC", extra_json_schema={"format": "date-time"})]
"""How the texts of answers are described; nothing checks them."""
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


def header(scope: Scope, name: bytes) -> str:
    """All values of a header as one (RFC 9110 §5.3), empty without it."""
    return b", ".join(value for key, value in scope["headers"] if key == name).decode("latin-1")


def request_id(supplied: bytes | None) -> bytes:
    """The caller's id if it can be repeated in a header, else a new one."""
    if supplied is not None and _REQUEST_ID.fullmatch(supplied):
        return supplied
    return b"%016x" % random.getrandbits(64)


def request_id_of(scope: Scope) -> bytes:
    """The same for a request in ASGI; the id is kept in its scope."""
    state: dict[str, Any] = scope.setdefault("state", {})
    kept: bytes | None = state.get("request_id")
    if kept is None:
        supplied = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        kept = state["request_id"] = request_id(supplied)
    return kept


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response written by orjson. Structs are accepted."""
    body = orjson.dumps(content, default=msgspec.to_builtins)
    return Response(body, status, headers, media_type="application/json")


def problem_response(request: Request, problem: Problem) -> Response:
    """The problem as Starlette's response."""
    headers = dict(problem.headers)
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(problem.retry_after_s)
    body = problem.body(request_id_of(request.scope).decode())
    return Response(body, problem.status, headers, media_type=CONTENT_TYPE.decode())


async def send_problem(send: Send, problem: Problem, request_id: bytes) -> None:
    """The problem as bare ASGI messages, for a `direct` endpoint."""
    body = problem.body(request_id.decode())
    headers = problem_headers(problem, body, request_id)
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def problem_headers(problem: Problem, body: bytes, request_id: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a problem document."""
    headers = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id),
        *((name.encode(), value.encode()) for name, value in problem.headers),
    ]
    if problem.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % problem.retry_after_s))
    return headers
