"""The document at /asyncapi.json, and a page that shows it at /asyncapi. Nothing of it comes from elsewhere."""

from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from common.asyncapi.document import document
from common.auth.access import PUBLIC
from common.http.contract.files import Files
from common.http.contract.operation import Answer, Operation
from common.http.contract.process import PAGE_HEADERS, TAG
from common.http.contract.service import Endpoint

PATH: Final = "/asyncapi"
_FILES: Final = Files(Path(__file__).parent)
_VIEWER: Final = "asyncapi-viewer.iife.js"


DOCUMENT: Final = Operation(
    method="GET", path=f"{PATH}.json", id="asyncapi", tag=TAG, access=PUBLIC,
    summary="The events in the topics, as AsyncAPI",
    answers=(Answer(status=200, kind=dict[str, Any], description="an AsyncAPI 3.0 document"),), conditional=True,
)  # fmt: skip
PAGE: Final = Operation(
    method="GET", path=PATH, id="asyncapiPage", tag=TAG, access=PUBLIC,
    summary="A page to read that document", conditional=True,
    answers=(
        Answer(status=200, kind=str, media_types=("text/html",), description="the page", headers=PAGE_HEADERS),
    ),
)  # fmt: skip
VIEWER: Final = Operation(
    method="GET", path=f"{PATH}/{_VIEWER}", id="asyncapiViewer", tag=TAG, access=PUBLIC, summary="The page's script",
    answers=(Answer(status=200, kind=str, description="the script"),), conditional=True, documented=False,
)  # fmt: skip
OPERATIONS: Final = (DOCUMENT, PAGE, VIEWER)


def endpoints() -> dict[Operation, Endpoint]:
    """The endpoint of each operation."""

    async def json(_: Request) -> Response:
        return Response(_document(), media_type="application/json")

    async def page(_: Request) -> Response:
        return _FILES.answer("page.html")

    async def viewer(_: Request) -> Response:
        return _FILES.answer(f"vendor/{_VIEWER}")

    return {DOCUMENT: json, PAGE: page, VIEWER: viewer}


@cache
def _document() -> bytes:
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2)
