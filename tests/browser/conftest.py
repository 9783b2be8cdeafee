"""A page of the console in a headless Chromium.

Without a browser these tests are left out, and the summary at the end says so.
"""

import shutil
import socket
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import pytest
import uvicorn
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    WebError,
    expect,
    sync_playwright,
)

from common.auth.authenticator import OPEN
from common.http.app import application
from common.http.contract.operation import Operation
from common.http.contract.service import Contract, Endpoint
from tests.browser.fake import Fake, serving
from tests.waiting import PATIENCE_S

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER: Final = (
    "NO BROWSER: the console's page is not tested; "
    f"none of {', '.join(BROWSERS)} is on PATH (Debian: apt install chromium)"
)
EXPECTED: Final = "Failed to load resource"
"""Chromium says this of every answer that is an error; the page shows those itself."""


def find_browser() -> str | None:
    """Where a Chromium is, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


# One for each module: its event loop must not be there while the tests of other folders run theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        pytest.skip(NO_BROWSER)
    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def origin(fake: Fake) -> Iterator[str]:
    with serving(fake) as origin:
        yield origin


@contextmanager
def served(contract: Contract, endpoints: Mapping[Operation, Endpoint]) -> Iterator[str]:
    """The address of a process that offers only this."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(contract.routes(endpoints), auth=OPEN), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def complaints() -> list[str]:
    """What the pages of a test do that no page of the console may: faults, and requests to another origin."""
    return []


@pytest.fixture
def context(browser: Browser, origin: str, complaints: list[str]) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=origin, viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_S * 1000)

    def on_request(request: Request) -> None:
        if not request.url.startswith(f"{origin}/"):
            complaints.append(f"a request to {request.url}")

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error" and EXPECTED not in message.text:
            complaints.append(message.text)

    def on_error(error: WebError) -> None:
        complaints.append(str(error.error))

    context.on("request", on_request)
    context.on("console", on_console)
    context.on("weberror", on_error)
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Without a browser, the summary has one line for all tests, as if each were left out from here."""
    report = yield
    if report.skipped:
        report.longrepr = (__file__, 0, f"Skipped: {NO_BROWSER}")
    return report
