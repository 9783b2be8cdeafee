"""The operations that every process has: its health, its metrics, and what says how to use it."""

from typing import Any, Final, Literal

from msgspec import Struct

from common.auth.access import PUBLIC, Access
from common.auth.principal import AUDITOR, OPERATOR
from common.http import problem
from common.http.contract.operation import VARY, Answer, Header, Operation

TAG: Final = "process"
PAGE_HEADERS: Final = (
    Header(name="Content-Security-Policy", description="the page loads nothing from elsewhere"),
    Header(name="Referrer-Policy", description="the page names itself to nobody"),
    Header(name="X-Content-Type-Options", description="nothing is taken for another type"),
)
HTML: Final = "text/html; charset=utf-8"


class Alive(Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadinessView(Struct, frozen=True):
    """Whether it can do its work. `missing` says what it lacks for that, `degraded` what is away although it works: to
    operators and auditors, and on the admin port."""

    ready: bool
    missing: list[str]
    degraded: list[str]


class ProblemPage(Struct, frozen=True, kw_only=True):
    """What a type of problem means: when it happens, what to do, and an example."""

    type: str
    status: int
    title: str
    when: str
    remedy: str
    example: problem.ProblemDocument


class ProblemIndex(Struct, frozen=True):
    """All types of problems that this service answers with."""

    problems: list[ProblemPage]


LIVEZ: Final = Operation(
    method="GET", path="/livez", id="livez", tag=TAG, access=PUBLIC, summary="Whether the process is alive",
    answers=(Answer(status=200, kind=Alive),),
)  # fmt: skip
READYZ: Final = Operation(
    method="GET", path="/readyz", id="readyz", tag=TAG, access=PUBLIC,
    summary="Whether the process is ready, and what it lacks",
    answers=(
        Answer(status=200, kind=ReadinessView, description="it is ready"),
        Answer(status=503, kind=ReadinessView, description="it is not ready"),
    ),
)  # fmt: skip
METRICS: Final = Operation(
    method="GET", path="/metrics", id="metrics", tag=TAG,
    access=Access(scopes=(OPERATOR, AUDITOR), open_on_admin_port=True),
    summary="Metrics in the text format of Prometheus",
    answers=(Answer(status=200, kind=str, media_types=("text/plain",), description="the metrics"),),
)  # fmt: skip
OPENAPI: Final = Operation(
    method="GET", path="/openapi.json", id="openapi", tag=TAG, access=PUBLIC, summary="This document", conditional=True,
    answers=(Answer(status=200, kind=dict[str, Any], description="an OpenAPI 3.1 document"),),
)  # fmt: skip
PROBLEMS: Final = Operation(
    method="GET", path="/problems", id="listProblems", tag=TAG, access=PUBLIC,
    summary="All types of problems", conditional=True,
    description="HTML for a client that accepts it, otherwise JSON.",
    answers=(
        Answer(status=200, kind=ProblemIndex, headers=(VARY,)),
        Answer(
            status=200, kind=str, media_types=("text/html",), description="the same to read",
            headers=(VARY, *PAGE_HEADERS),
        ),
    ),
)  # fmt: skip
PROBLEM: Final = Operation(
    method="GET", path="/problems/{code}", id="getProblem", tag=TAG, access=PUBLIC, conditional=True,
    summary="What a type of problem means; the type of a problem document leads here",
    description=PROBLEMS.description,
    parameters={"code": str},
    answers=(
        Answer(status=200, kind=ProblemPage, headers=(VARY,)),
        Answer(
            status=200, kind=str, media_types=("text/html",), description="the same to read",
            headers=(VARY, *PAGE_HEADERS),
        ),
    ),
    problems=(problem.NOT_FOUND,),
)  # fmt: skip
DOCS: Final = Operation(
    method="GET", path="/docs", id="docs", tag=TAG, access=PUBLIC,
    summary="A page to read this document and try its requests",
    answers=(
        Answer(status=200, kind=str, media_types=("text/html",), description="the page", headers=PAGE_HEADERS),
    ),
    conditional=True,
)  # fmt: skip
DOCS_FILE: Final = Operation(
    method="GET", path="/docs/{file:path}", id="docsFile", tag=TAG, access=PUBLIC, summary="A file of the page",
    parameters={"file": str}, answers=(Answer(status=200, kind=str, description="the file"),),
    problems=(problem.NOT_FOUND,), conditional=True, documented=False,
)  # fmt: skip

HEALTH: Final = (LIVEZ, READYZ, METRICS)
PAGES: Final = (OPENAPI, PROBLEMS, PROBLEM, DOCS, DOCS_FILE)
