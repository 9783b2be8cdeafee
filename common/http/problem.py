"""Errors over HTTP, as RFC 9457 problem documents: one form for all services and all errors.

Each type of problem is defined once, as a `ProblemType`: here, or in the module that alone can raise it. Its page
`/problems/<code>`, its part of the OpenAPI documents and its answers are made from that.
"""

from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

CONTENT_TYPE: Final = b"application/problem+json"


class ProblemHeader(NamedTuple):
    """A header that answers with a problem have, beside those that every answer has."""

    name: str
    description: str
    always: bool = True


class ProblemType(Struct, frozen=True, kw_only=True):
    """A type of problem. `code` is the last part of its URI, `/problems/<code>`."""

    code: str
    status: Annotated[int, Meta(ge=400, le=599)]
    title: str
    when: str
    """When it happens."""
    remedy: str
    """What a client can do about it."""
    example: str = ""
    """The `detail` of such a problem."""
    headers: tuple[ProblemHeader, ...] = ()

    @property
    def uri(self) -> str:
        """A reference, relative to the service that answers."""
        return f"/problems/{self.code}"


VALIDATION: Final = ProblemType(
    code="validation",
    status=422,
    title="The request is not valid",
    when="the body or the query can be read, but fields of it are at fault",
    remedy="correct the fields that `errors` names, each by a JSON pointer, and send the request again; nothing was "
    "changed",
)
MALFORMED_JSON: Final = ProblemType(
    code="malformed-json",
    status=400,
    title="The body is not JSON",
    when="the body is empty or is not a JSON document in UTF-8",
    remedy="send one JSON document in UTF-8, without a byte order mark; nothing was changed",
    example="the body is empty",
)
IDEMPOTENCY_KEY: Final = ProblemType(
    code="idempotency-key",
    status=400,
    title="The idempotency key is not valid",
    when="the Idempotency-Key header is there more than once, is empty or too long, or has characters that it may not",
    remedy="send one key of visible ASCII characters without blanks, such as a UUID; nothing was changed",
    example="must be 1 to 255 visible ASCII characters",
)
IDEMPOTENCY_KEY_REUSED: Final = ProblemType(
    code="idempotency-key-reused",
    status=422,
    title="The idempotency key was used for another request",
    when="an earlier request with the same key asked for something else",
    remedy="use a new key for each new request, and the same key only to repeat a request; nothing was changed",
    example="the key 'basket-17' belongs to another order of this customer; use a new one",
)
NOT_FOUND: Final = ProblemType(
    code="not-found",
    status=404,
    title="Not found",
    when="there is nothing of this name, or no such path",
    remedy='check the path and the id; an order that was accepted is never "not found"',
    example="there is no account 'cust-1'",
)
METHOD_NOT_ALLOWED: Final = ProblemType(
    code="method-not-allowed",
    status=405,
    title="Method not allowed",
    when="the path exists, but does not take this method",
    remedy="use one of the methods in the Allow header",
    headers=(ProblemHeader("Allow", "the methods that the path takes"),),
)
TOO_LARGE: Final = ProblemType(
    code="too-large",
    status=413,
    title="Content too large",
    when="the body is over the limit of its operation, has too many lines, or one of its lines is too long",
    remedy="send less at once; nothing was changed",
    example="the body is over 65536 bytes",
)
UNSUPPORTED_MEDIA_TYPE: Final = ProblemType(
    code="unsupported-media-type",
    status=415,
    title="Unsupported media type",
    when="the content type is missing, another one, or not in UTF-8; or the body has a content coding",
    remedy="send the content type that the operation takes, in UTF-8 and without a content coding; nothing was changed",
    example="content-type is 'text/plain', must be application/json, in UTF-8",
    headers=(ProblemHeader("Accept-Encoding", "the content codings that can be decoded", always=False),),
)
UNAVAILABLE: Final = ProblemType(
    code="unavailable",
    status=503,
    title="Not available now",
    when="something that the request needs is away or busy, or there are more orders than can be settled in time",
    remedy="send the request again after the seconds in Retry-After, with some jitter. If the document has an "
    "`order_id`, the outcome is unknown: ask for that order, or send the request again with its idempotency key",
    example="Kafka cannot be reached; this request placed nothing, send it again",
    headers=(ProblemHeader("Retry-After", "the seconds after which to send the request again"),),
)
RATE_LIMITED: Final = ProblemType(
    code="rate-limited",
    status=429,
    title="Too many requests",
    when="the client or its address has sent more requests than it may",
    remedy="wait for the seconds in Retry-After, with some jitter, and send the request again; it was not processed. "
    "RateLimit-Policy says how many requests may come at once (`q`), and in how many seconds as many more (`w`)",
    example="requests of the customer 'cust-000001': over 50 a second (200 at once)",
    headers=(
        ProblemHeader("Retry-After", "the seconds after which to send the request again"),
        ProblemHeader("RateLimit-Policy", "the limit: `q` requests in `w` seconds"),
        ProblemHeader("RateLimit", "what is left of it now (`r`), and the seconds until there is more (`t`)"),
    ),
)
INTERNAL_ERROR: Final = ProblemType(
    code="internal",
    status=500,
    title="Internal error",
    when="the service has a fault; it has been logged with the request id",
    remedy="report it with its `request_id`. The outcome is unknown: repeat the request only with its idempotency key",
    example="it has been logged",
)
UNAUTHENTICATED: Final = ProblemType(
    code="unauthenticated",
    status=401,
    title="Not authenticated",
    when="the request has no credentials, or some that are not good: expired, revoked, of another issuer, or forged",
    remedy="send `Authorization: Bearer …` with a valid token or API key; `detail` says what is wrong. Nothing was "
    "changed",
    example="the token has expired",
    headers=(ProblemHeader("WWW-Authenticate", "how to authenticate (RFC 6750)"),),
)
FORBIDDEN: Final = ProblemType(
    code="forbidden",
    status=403,
    title="Not allowed",
    when="the credentials are good, but do not allow this: none of the scopes that the operation asks for, or a thing "
    "that is to be made in another customer's name",
    remedy="use credentials with one of the scopes that `detail` names; nothing was changed",
    example="this needs one of the scopes merchant",
    headers=(ProblemHeader("WWW-Authenticate", "the scopes that are needed (RFC 6750)", always=False),),
)

# What the server itself refuses, before or while it reads a request.

MALFORMED_REQUEST: Final = ProblemType(
    code="malformed-request",
    status=400,
    title="Malformed request",
    when="it is not an HTTP/1.1 request that can be taken",
    remedy="send a request that keeps RFC 9112; `detail` says what is wrong",
    example="an HTTP/1.1 request must have exactly one host header (RFC 9112 §3.2)",
)
TOO_MANY_PIPELINED: Final = ProblemType(
    code="too-many-pipelined",
    status=400,
    title="Too many requests at once",
    when="too many requests were sent on one connection without reading their answers",
    remedy="read the answers, or use more connections",
)
FOREIGN_ORIGIN: Final = ProblemType(
    code="foreign-origin",
    status=403,
    title="Foreign origin",
    when="a browser sent the request for a web page of another origin",
    remedy="set CORS_ORIGINS to let pages of that origin use the service",
    example="origin 'https://shop.example' is not the host of this request",
)
TOO_SLOW: Final = ProblemType(
    code="too-slow",
    status=408,
    title="Request timeout",
    when="the request was not complete in time after it began",
    remedy="send it again on a new connection; it was not processed",
)
EXPECTATION_FAILED: Final = ProblemType(
    code="expectation-failed",
    status=417,
    title="Expectation failed",
    when="the Expect header asks for something other than 100-continue",
    remedy="send the request without it",
    example="expect is 'something'; only 100-continue can be expected",
)
MISDIRECTED: Final = ProblemType(
    code="misdirected",
    status=421,
    title="Misdirected request",
    when="the process does not answer for the host that the request names",
    remedy="use an address that the service knows, or add the host to ALLOWED_HOSTS",
    example="this process does not answer for the host 'shop.example'; set ALLOWED_HOSTS if it should",
)
HEAD_TOO_LARGE: Final = ProblemType(
    code="head-too-large",
    status=431,
    title="Request head too large",
    when="the request line and the headers are over their limit",
    remedy="send fewer or shorter headers",
)
NOT_IMPLEMENTED: Final = ProblemType(
    code="not-implemented",
    status=501,
    title="Not implemented",
    when="the request is a CONNECT, or has a transfer coding other than chunked",
    remedy="send the body as it is, and no CONNECT",
    example="this is no proxy: CONNECT is not supported",
)
HTTP_VERSION: Final = ProblemType(
    code="http-version",
    status=505,
    title="HTTP version not supported",
    when="the request is of another version of HTTP",
    remedy="use HTTP/1.1 or HTTP/1.0",
    example="use HTTP/1.1 or HTTP/1.0",
)

OF_ANY_REQUEST: Final = (
    MALFORMED_REQUEST, TOO_MANY_PIPELINED, FOREIGN_ORIGIN, TOO_SLOW, TOO_LARGE, UNSUPPORTED_MEDIA_TYPE,
    EXPECTATION_FAILED, MISDIRECTED, RATE_LIMITED, HEAD_TOO_LARGE, INTERNAL_ERROR, NOT_IMPLEMENTED, UNAVAILABLE,
    HTTP_VERSION,
)  # fmt: skip
"""What the server may answer to a request for any route. `METHOD_NOT_ALLOWED` and `NOT_FOUND` are for the others."""


class FieldError(Struct, frozen=True):
    """One field at fault. `pointer` is an RFC 6901 JSON pointer in fragment form, such as `#/items/0/quantity`; for a
    parameter of the query it is its name, such as `?limit`."""

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
    """A problem before it is answered to a request."""

    type: ProblemType
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    retry_after_s: int | None = None
    order_id: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Further headers of its answer, with names in lower case."""

    @property
    def status(self) -> int:
        return self.type.status

    @property
    def code(self) -> str:
        return self.type.code

    @property
    def title(self) -> str:
        return self.type.title

    def body(self, request_id: str) -> bytes:
        """The document as JSON, for the request with this id."""
        return msgspec.json.encode(
            ProblemDocument(
                type=self.type.uri,
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
    return Problem(VALIDATION, errors=errors)


def malformed(detail: str) -> Problem:
    """400: this is not an HTTP/1.1 request that can be taken."""
    return Problem(MALFORMED_REQUEST, detail)


def too_large(detail: str) -> Problem:
    return Problem(TOO_LARGE, detail)


def not_found(kind: str, name: str) -> Problem:
    return Problem(NOT_FOUND, f"there is no {kind} {name!r}")


def unavailable(detail: str, *, retry_after_s: int = 1, order_id: str | None = None) -> Problem:
    """503: retry later. With `order_id` the outcome is unknown, and that is the order to ask for."""
    return Problem(UNAVAILABLE, detail, retry_after_s=retry_after_s, order_id=order_id)


INTERNAL: Final = Problem(INTERNAL_ERROR, "it has been logged")
