"""The page of the AsyncAPI document shows every topic, every service and every event, and asks nobody else."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from common.asyncapi import page as asyncapi
from common.asyncapi.document import document
from common.http.contract.service import Contract
from tests.browser.conftest import served


@pytest.fixture
def origin() -> Iterator[str]:
    with served(Contract("Events", "Events.", asyncapi.OPERATIONS), asyncapi.endpoints()) as origin:
        yield origin


def test_the_page_shows_the_whole_document(page: Page) -> None:
    page.goto("/asyncapi")
    described = document()
    expect(page.get_by_text(described["info"]["title"], exact=True).first).to_be_visible()
    viewer = page.locator("asyncapi-viewer")
    for name in (*described["channels"], *described["components"]["messages"]):
        expect(viewer.get_by_text(name, exact=True).first).to_be_attached()
    for operation in described["operations"].values():
        expect(viewer.get_by_text(operation["summary"], exact=True).first).to_be_attached()
