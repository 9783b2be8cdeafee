"""The declaration of an operation: a method and a path, what it takes and what it answers.

A service has a module `operations.py` with a table of these. The types in it are those that decode the requests and
encode the answers, so no field, status or limit is written down a second time. What every operation answers (a foreign
host, a head that is too large, …) and what follows from its parts (a body that is not JSON, a wrong key) is added here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from email.utils import format_datetime
from typing import Any, Final, Literal

from common.auth.access import Access
from common.http import problem
from common.http.problem import ProblemType
from common.http.requests import BODY_BYTES_MAX, IDEMPOTENCY_KEY_CHARS_MAX

Method = Literal["GET", "POST", "PUT", "DELETE"]
JSON: Final = "application/json"


@dataclass(frozen=True, kw_only=True)
class Header:
    """A header of a request or of an answer. `kind` is the type of its value."""

    name: str
    description: str
    kind: Any = str
    schema: Mapping[str, Any] = field(default_factory=dict)
    """Further members of its JSON schema."""
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class Link:
    """How an answer leads to another operation: `parameters` are runtime expressions of OpenAPI."""

    name: str
    operation_id: str
    description: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that is not a problem. `kind` is the type of its body; without one it has no body.

    Without a description, it has the first line of the type's docstring.
    """

    status: int
    kind: Any = None
    media_types: tuple[str, ...] = (JSON,)
    description: str = ""
    headers: tuple[Header, ...] = ()
    links: tuple[Link, ...] = ()
    example: Any = None


@dataclass(frozen=True, kw_only=True)
class Body:
    """The body of a request: its type, its media types, its limit, and examples by their summaries."""

    kind: Any
    media_types: tuple[str, ...] = (JSON,)
    bytes_max: int = BODY_BYTES_MAX
    examples: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Deprecation:
    """An operation that will go: since when it is deprecated, from when on it may be gone, and a page that says what to
    use instead. References: RFC 9745 (Deprecation), RFC 8594 (Sunset)."""

    since: date
    sunset: date
    page: str

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of its answers, with names in lower case."""
        since, sunset = (datetime.combine(day, time(), UTC) for day in (self.since, self.sunset))
        return (
            ("deprecation", f"@{int(since.timestamp())}"),
            ("sunset", format_datetime(sunset, usegmt=True)),
            ("link", f'<{self.page}>; rel="deprecation"; type="text/html"'),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """One method of one path. Two operations are equal only if they are the same object, so it can be a key."""

    method: Method
    path: str
    """As Starlette routes it: a parameter is `{name}`, or `{name:path}` if it may hold slashes."""
    id: str
    """Its `operationId`."""
    summary: str
    tag: str
    access: Access
    """Who may use it."""
    answers: tuple[Answer, ...]
    problems: tuple[ProblemType, ...] = ()
    """What it answers beyond `all_problems` of its parts."""
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The types of the parameters in its path, by their names."""
    query: Any = None
    """The type of its query."""
    headers: tuple[Header, ...] = ()
    body: Body | None = None
    key: str = ""
    """What an Idempotency-Key does here; empty if it takes none."""
    conditional: bool = False
    """Whether its answer has an ETag, and is 304 for a client that has it already."""
    deprecation: Deprecation | None = None
    documented: bool = True
    """Whether it is in the OpenAPI document. The files of a page are not."""

    def all_problems(self) -> Iterator[ProblemType]:
        """The problems that it alone may answer, without those of any request."""
        yield from self.problems
        if not self.access.public:
            yield problem.UNAUTHENTICATED
            yield problem.FORBIDDEN
        if self.body is not None:
            yield problem.TOO_LARGE
            yield problem.UNSUPPORTED_MEDIA_TYPE
            yield problem.MALFORMED_JSON
        if self.body is not None or self.query is not None:
            yield problem.VALIDATION
        if self.key:
            yield problem.IDEMPOTENCY_KEY
            yield problem.IDEMPOTENCY_KEY_REUSED

    def all_headers(self) -> Iterator[Header]:
        """The headers that its requests may have."""
        yield from self.headers
        if self.key:
            pattern = {"pattern": f"^[!-~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}$"}
            yield Header(name="Idempotency-Key", description=self.key, schema=pattern)
        if self.conditional:
            yield IF_NONE_MATCH

    def all_answers(self) -> Iterator[Answer]:
        """Its answers that are not problems."""
        for answer in self.answers:
            replayed = (IDEMPOTENCY_REPLAYED,) if self.key else ()
            tagged = (ETAG,) if self.conditional and answer.status == 200 else ()
            deprecated = DEPRECATION_HEADERS if self.deprecation else ()
            yield replace(answer, headers=(*answer.headers, *replayed, *tagged, *deprecated))
        if self.conditional:
            headers = (VARY, ETAG) if any(VARY in answer.headers for answer in self.answers) else (ETAG,)
            yield Answer(status=304, description="the client has the current version already", headers=headers)


IF_NONE_MATCH: Final = Header(
    name="If-None-Match",
    description="the ETag of the version that the client has; if it is current, the answer is 304",
)
ETAG: Final = Header(name="ETag", description="the version of the answer, for If-None-Match", required=True)
IDEMPOTENCY_REPLAYED: Final = Header(
    name="Idempotency-Replayed",
    description="there if the key came before with this request: the answer is the first one's",
    schema={"const": "true"},
)
REQUEST_ID: Final = Header(
    name="X-Request-Id",
    description="the id of the request: the client's own if it sent a usable one, otherwise a new one. It is in the "
    "log of the service",
    required=True,
)
CACHE_CONTROL: Final = Header(name="Cache-Control", description="whether a cache may keep the answer")
LINK_NEXT: Final = Header(name="Link", description='the next page, as `rel="next"`; not there on the last page')
LOCATION: Final = Header(name="Location", description="the path of what was made", required=True)
BUFFERING: Final = Header(name="X-Accel-Buffering", description="keeps proxies from holding events back")
VARY: Final = Header(name="Vary", description="the request headers on which the answer depends")
DEPRECATION_HEADERS: Final = (
    Header(name="Deprecation", description="since when the operation is deprecated (RFC 9745)", required=True),
    Header(name="Sunset", description="from when on the operation may be gone (RFC 8594)", required=True),
    Header(name="Link", description='what to use instead, as `rel="deprecation"`', required=True),
)
