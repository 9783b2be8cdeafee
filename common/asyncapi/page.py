"""The document at /asyncapi.json, and a page that shows it at /asyncapi. Nothing of it comes from elsewhere."""

from functools import cache
from pathlib import Path
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.asyncapi.document import document

PATH: Final = "/asyncapi"
_HERE: Final = Path(__file__).parent
_VIEWER: Final = "asyncapi-viewer.iife.js"
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Nothing from elsewhere, nothing inline, no eval."""


def routes() -> list[Route]:
    """The routes of the document and its page."""

    async def json(_: Request) -> Response:
        return Response(_document(), media_type="application/json")

    async def page(_: Request) -> Response:
        return Response(_file("page.html"), headers=_HEADERS, media_type="text/html")

    async def viewer(_: Request) -> Response:
        return Response(_file(f"vendor/{_VIEWER}"), headers=_HEADERS, media_type="text/javascript")

    return [Route(f"{PATH}.json", json), Route(PATH, page), Route(f"{PATH}/{_VIEWER}", viewer)]


@cache
def _document() -> bytes:
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2)


@cache
def _file(name: str) -> bytes:
    return (_HERE / name).read_bytes()
