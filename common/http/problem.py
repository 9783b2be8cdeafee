"""Errors over HTTP, as RFC 9457 problem documents: one shape for every service and every mistake."""

from typing import Annotated, Final

import msgspec
import orjson
from msgspec import Meta, Struct

CONTENT_TYPE = b"application/problem+json"


class FieldError(Struct, frozen=True):
    """One field at fault. `pointer` is an RFC 6901 JSON pointer in fragment form, such as `#/items/0/quantity`."""

    pointer: str
    detail: str


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document. `code` becomes its `type`, `/problems/<code>`."""

    code: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    retry_after_s: int | None = None
    order_id: str | None = None

    def body(self, request_id: str) -> bytes:
        """The document as JSON, for the request with this id."""
        document: dict[str, object] = {"type": f"/problems/{self.code}", "title": self.title, "status": self.status}
        if self.detail:
            document["detail"] = self.detail
        if self.errors:
            document["errors"] = msgspec.to_builtins(self.errors)
        if self.order_id is not None:
            document["order_id"] = self.order_id
        document["request_id"] = request_id
        return orjson.dumps(document)


class ProblemError(Exception):
    """Raised by a handler to answer with `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title)
        self.problem = problem


def validation(*errors: FieldError) -> Problem:
    """422: the body is JSON, but these fields are at fault."""
    return Problem(code="validation", title="The request is not valid", status=422, errors=errors)


def malformed(detail: str) -> Problem:
    """400: not a request of HTTP/1.1 as it is taken here."""
    return Problem(code="malformed-request", title="Malformed request", status=400, detail=detail)


def too_large(detail: str) -> Problem:
    return Problem(code="too-large", title="Content too large", status=413, detail=detail)


def not_found(what: str, name: str) -> Problem:
    return Problem(code="not-found", title="Not found", status=404, detail=f"there is no {what} {name!r}")


def unavailable(detail: str, *, retry_after_s: int = 1, order_id: str | None = None) -> Problem:
    """503: try again later. With `order_id`, the outcome is unknown and that is the order to ask for."""
    return Problem(
        code="unavailable",
        title="Not available now",
        status=503,
        detail=detail,
        retry_after_s=retry_after_s,
        order_id=order_id,
    )


INTERNAL: Final = Problem(code="internal", title="Internal error", status=500, detail="it has been logged")
