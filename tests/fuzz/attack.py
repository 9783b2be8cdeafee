"""What an attack is: bytes for a connection, and what has to come back.

A well-framed attack has exactly one answer, with its own x-request-id, and leaves its connection in use. An attack
below HTTP may be answered or not, but never wrongly.
"""

import random
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from common.http.protocol import HEAD_BYTES_MAX
from tests.fuzz.requests import Request, posted

Ending = Literal["keep", "close", "half-close", "reset", "slow"]


class Attack(NamedTuple):
    """What is sent on a connection, in parts; and how it ends."""

    kind: str
    service: str
    parts: tuple[bytes, ...]
    requests: int = 1
    due: int | None = None
    """Answers that must come; None where that is not defined."""
    request_ids: tuple[bytes, ...] = ()
    """To be repeated by the first answers, in order."""
    path: str = ""
    head_only: bool = False
    ending: Ending = "close"
    comparable: bool = True
    """Whether two servers with the same data must answer alike."""
    number: int = 0


Draw = Callable[[random.Random, int], Attack]


def framed(request: Request, number: int, *, comparable: bool = True) -> Attack:
    request_id = f"{number:x}"
    rendered = request.rendered(("x-request-id", request_id))
    too_large = rendered.find(b"\r\n\r\n") > HEAD_BYTES_MAX  # refused before its id is known
    return Attack(
        "",
        request.service,
        (rendered,),
        due=1,
        request_ids=() if too_large else (request_id.encode(),),
        path=request.target.partition("?")[0],
        head_only=request.method == "HEAD",
        ending="keep",
        comparable=comparable,
    )


def raw(service: str, *parts: bytes, ending: Ending = "close", **fields: Any) -> Attack:
    return Attack("", service, parts, ending=ending, **fields)


def post(body: Any, number: int, *headers: tuple[str, str]) -> Attack:
    return framed(posted("order-api", "/orders", body, *headers), number)
