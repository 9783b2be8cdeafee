"""The files of a page, with headers by which it takes nothing from elsewhere and runs nothing inline."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

from starlette.responses import Response

from common.http import problem
from common.http.caching import tag_of
from common.http.contract.process import HTML
from common.http.problem import ProblemError

HEADERS: Final = {
    # Nothing from elsewhere, nothing inline, no eval. The pictures of Swagger UI are in its style sheet.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
TYPES: Final = {
    ".html": HTML,
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


class Files:
    """The files below a folder that have one of `TYPES`. They are read when the first is asked for: most processes show
    none."""

    def __init__(self, folder: Path, headers: Mapping[str, str] = HEADERS) -> None:
        self._folder = folder
        self._headers = headers

    @cached_property
    def _files(self) -> dict[str, tuple[bytes, str, str]]:
        paths = [path for path in self._folder.rglob("*") if path.suffix in TYPES]
        contents = {path: path.read_bytes() for path in paths}
        return {
            path.relative_to(self._folder).as_posix(): (content, tag_of(content), TYPES[path.suffix])
            for path, content in contents.items()
        }

    def answer(self, path: str) -> Response:
        """The file of this path within the folder, with its ETag. Raises `ProblemError` 404."""
        if path not in self._files:
            raise ProblemError(problem.not_found("file", path[:64]))
        content, tag, media_type = self._files[path]
        return Response(content, headers={**self._headers, "etag": tag, "content-type": media_type})
