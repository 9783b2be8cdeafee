"""The pages of a service: what its problems mean, and its OpenAPI document to read and to try."""

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final, Protocol

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from common.http import problem
from common.http.caching import Handler
from common.http.contract.document import problem_document
from common.http.contract.files import HEADERS, Files
from common.http.contract.process import HTML, ProblemIndex, ProblemPage
from common.http.problem import ProblemError, ProblemType
from common.http.responses import json_response

FILES: Final = Files(Path(__file__).parent / "static")
_CODE: Final = re.compile("`([^`]+)`")
VARY: Final = {"vary": "Accept"}
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/page.css">
<body class="page">
<main>
{content}
</main>
</html>
"""


class HasProblems(Protocol):
    """A service that answers with these problems."""

    title: str

    @property
    def problems(self) -> dict[str, ProblemType]: ...


async def docs(_: Request) -> Response:
    return FILES.answer("docs.html")


async def docs_file(request: Request) -> Response:
    return FILES.answer(request.path_params["file"])


def problem_index(service: HasProblems) -> Handler:
    """`/problems` of a service."""

    async def respond(request: Request) -> Response:
        found = [_page(kind) for kind in service.problems.values()]
        if not _wants_html(request):
            return json_response(ProblemIndex(found), headers=VARY)
        rows = "\n".join(
            f'<tr><td>{page.status}<td><a href="{page.type}">{escape(page.title)}</a><td>{_sentence(page.when)}'
            for page in found
        )
        title = f"Problems of {service.title}"
        return _html(title, [f"<table><tr><th>status<th>problem<th>when\n{rows}\n</table>"])

    return respond


def problem_page(service: HasProblems) -> Handler:
    """`/problems/<code>` of a service. Raises `ProblemError` 404 for a code that it does not answer with."""

    async def respond(request: Request) -> Response:
        code = request.path_params["code"]
        if code not in service.problems:
            raise ProblemError(problem.not_found("problem type", code[:64]))
        page = _page(service.problems[code])
        if not _wants_html(request):
            return json_response(page, headers=VARY)
        example = orjson.dumps(page.example, default=msgspec.to_builtins, option=orjson.OPT_INDENT_2).decode()
        return _html(
            f"{page.status} {page.title}",
            [
                f"<h2>When it happens</h2><p>{_sentence(page.when)}</p>",
                f"<h2>What to do</h2><p>{_sentence(page.remedy)}</p>",
                f"<h2>Example</h2><pre>{escape(example)}</pre>",
                '<p><a href="/problems">All problems</a> · <a href="/docs">All operations</a></p>',
            ],
        )

    return respond


def _page(kind: ProblemType) -> ProblemPage:
    return ProblemPage(
        type=kind.uri,
        status=kind.status,
        title=kind.title,
        when=kind.when,
        remedy=kind.remedy,
        example=problem_document(kind),
    )


def _sentence(text: str) -> str:
    """The text in HTML, from a capital to a full stop."""
    return _CODE.sub(r"<code>\1</code>", escape(f"{text[0].upper()}{text[1:]}."))


def _wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _html(title: str, parts: Iterable[str]) -> Response:
    content = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    page = _PAGE.format(title=escape(title), content=content)
    return Response(page, headers={**HEADERS, **VARY, "content-type": HTML})
