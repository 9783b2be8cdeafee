"""Errors over HTTP, as RFC 9457 problem documents: one form for all services and all errors."""

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

CONTENT_TYPE: Final = b"application/problem+json"


class FieldError(Struct, frozen=True):
    """One field at fault. `pointer` is an RFC 6901 JSON pointer in fragment form, such as `#/items/0/quantity`."""

    pointer: str
    detail: str


class ProblemDocument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457. With an `order_id` the outcome is unknown, and that is the order to ask for."""

    type: str
    title: str
    status: int
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    order_id: str | UnsetType = UNSET
    request_id: str


class Problem(Struct, frozen=True):
    """A problem before it is answered to a request. `code` becomes its document's `type`, `/problems/<code>`."""

    status: Annotated[int, Meta(ge=400, le=599)]
    code: str
    title: str
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    retry_after_s: int | None = None
    order_id: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Further headers of its answer, with names in lower case."""

    def body(self, request_id: str) -> bytes:
        """The document as JSON, for the request with this id."""
        return msgspec.json.encode(
            ProblemDocument(
                type=f"/problems/{self.code}",
                title=self.title,
                status=self.status,
                detail=self.detail,
                errors=self.errors,
                order_id=UNSET if self.order_id is None else self.order_id,
                request_id=request_id,
            )
        )


class ProblemError(Exception):
    """Raised by a handler to answer with `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title)
        self.problem = problem


def validation(*errors: FieldError) -> Problem:
    """422: the body is JSON, but these fields are at fault."""
    return Problem(422, "validation", "The request is not valid", errors=errors)


def malformed(detail: str) -> Problem:
    """400: this is not an HTTP/1.1 request that can be taken."""
    return Problem(400, "malformed-request", "Malformed request", detail)


def too_large(detail: str) -> Problem:
    return Problem(413, "too-large", "Content too large", detail)


def not_found(kind: str, name: str) -> Problem:
    return Problem(404, "not-found", "Not found", f"there is no {kind} {name!r}")


def unavailable(detail: str, *, retry_after_s: int = 1, order_id: str | None = None) -> Problem:
    """503: retry later. With `order_id` the outcome is unknown, and that is the order to ask for."""
    return Problem(503, "unavailable", "Not available now", detail, retry_after_s=retry_after_s, order_id=order_id)


INTERNAL: Final = Problem(500, "internal", "Internal error", "it has been logged")
