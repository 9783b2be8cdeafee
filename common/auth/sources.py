"""Where keys come from: a file that is read again when it changes, or a URL that is fetched now and then.

What was good last stays in use while a newer one cannot be read: an issuer that is away locks nobody out.
"""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Final, Generic, TypeVar

from loguru import logger

from common.errors import Fatal
from common.files import Watched

FILE_CHECK_EVERY_S: Final = 0.5
FILE_BYTES_MAX: Final = 8 * 1024 * 1024
URL_BYTES_MAX: Final = 256 * 1024
URL_FETCH_EVERY_S: Final = 300.0
URL_RETRY_S: Final = 10.0
"""After a fetch that failed, and the least time between two that tokens with an unknown key cause."""
URL_TIMEOUT_S: Final = 5.0

T = TypeVar("T")


class KeysFile(Generic[T]):
    """A file of keys. Replace it as a whole (write another one and rename it), never in place."""

    def __init__(self, setting: str, path: Path, read: Callable[[bytes], T]) -> None:
        """Raises `Fatal` when it cannot be read. `read` raises `ValueError`."""
        self._setting = setting
        try:
            self._file = Watched((path,), lambda: read(_content(path)), self._report)
        except (OSError, ValueError) as error:
            raise Fatal(f"{setting}={str(path)!r}: {error}") from None

    @property
    def value(self) -> T:
        return self._file.value

    def refresh(self) -> bool:
        """Read it if it has changed. Returns whether there are other keys now."""
        changed = self._file.refresh()
        if changed:
            logger.info("keys read", setting=self._setting)
        return changed

    def degraded(self) -> list[str]:
        problem = self._file.problem
        return [f"{self._setting}: {problem}; the last good keys are in use"] if problem else []

    def _report(self, problem: str) -> None:
        logger.error("keys not read, the last good ones stay in use: {}", problem, setting=self._setting)


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"it is over {FILE_BYTES_MAX} bytes")
    return content


class KeysUrl(Generic[T]):
    """A URL of keys. Callers that want it fetched at the same time share one fetch."""

    def __init__(self, setting: str, url: str, read: Callable[[bytes], T], fetch: Callable[[str], bytes]) -> None:
        """`read` raises `ValueError`, `fetch` raises `OSError` or `ValueError`; it runs in a thread."""
        self._setting = setting
        self._url = url
        self._read = read
        self._fetch = fetch
        self._problem = "not fetched yet"
        self._fetching: asyncio.Task[bool] | None = None
        self._fetched_at: float | None = None
        """When the last fetch began (loop time)."""
        self.value: T | None = None

    def pause_s(self) -> float:
        """How long to wait before the next fetch that nothing else causes."""
        return URL_RETRY_S if self._problem else URL_FETCH_EVERY_S

    async def refresh(self) -> bool:
        """Fetch, or wait for the fetch that is under way. Returns whether there are other keys now."""
        if self._fetching is None:
            self._fetched_at = asyncio.get_running_loop().time()
            self._fetching = asyncio.create_task(self._fetch_once())
        return await asyncio.shield(self._fetching)

    async def refresh_soon(self) -> bool:
        """The same, unless one began less than `URL_RETRY_S` ago and has ended."""
        now = asyncio.get_running_loop().time()
        if self._fetching is None and self._fetched_at is not None and now < self._fetched_at + URL_RETRY_S:
            return False
        return await self.refresh()

    async def _fetch_once(self) -> bool:
        before = self.value
        try:
            self.value = self._read(await asyncio.to_thread(self._fetch, self._url))
        except (OSError, ValueError, HTTPException) as error:
            if str(error) != self._problem:
                self._problem = str(error)
                logger.error("keys not read, the last good ones stay in use: {}", error, setting=self._setting)
            return False
        finally:
            self._fetching = None
        self._problem = ""
        changed = self.value != before
        if changed:
            logger.info("keys read", setting=self._setting)
        return changed

    def missing(self) -> list[str]:
        return [f"{self._setting}: {self._problem}"] if self.value is None else []

    def degraded(self) -> list[str]:
        if self.value is None or not self._problem:
            return []
        return [f"{self._setting}: {self._problem}; the last good keys are in use"]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to a host that nobody has named, or away from TLS."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener: Final = urllib.request.build_opener(_NoRedirects())


def fetch(url: str) -> bytes:
    """The document at a URL. Raises `OSError` or `ValueError`."""
    request = urllib.request.Request(url, headers={"accept": "application/json"})  # noqa: S310  # `auth` checks it
    with _opener.open(request, timeout=URL_TIMEOUT_S) as answer:
        content: bytes = answer.read(URL_BYTES_MAX + 1)
    if len(content) > URL_BYTES_MAX:
        raise ValueError(f"it is over {URL_BYTES_MAX} bytes")
    return content
