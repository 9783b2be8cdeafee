"""The page of the AsyncAPI document shows every topic, every service and every event, and asks nobody else."""

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from common.asyncapi import page as asyncapi
from common.asyncapi.document import document
from common.http.app import application
from common.http.contract.service import Contract


@pytest.fixture
def origin() -> Iterator[str]:
    """A process that has only this page."""
    listener = socket.create_server(("127.0.0.1", 0))
    contract = Contract("Events", "Events.", asyncapi.OPERATIONS)
    server = uvicorn.Server(uvicorn.Config(application(contract.routes(asyncapi.endpoints())), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_the_page_shows_the_whole_document(page: Page) -> None:
    page.goto("/asyncapi")
    described = document()
    expect(page.get_by_text(described["info"]["title"], exact=True).first).to_be_visible()
    viewer = page.locator("asyncapi-viewer")
    for name in (*described["channels"], *described["components"]["messages"]):
        expect(viewer.get_by_text(name, exact=True).first).to_be_attached()
    for operation in described["operations"].values():
        expect(viewer.get_by_text(operation["summary"], exact=True).first).to_be_attached()
