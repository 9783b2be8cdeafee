"""The page of each service that shows its OpenAPI document: all operations, and a request that is tried. Nothing comes
from another origin, and nothing is evaluated (the fixture `context`)."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect
from starlette.requests import Request
from starlette.responses import Response

from common.codec import encode
from common.http.contract.operation import Operation
from ops.contract.documents import CONTRACTS
from tests.browser.conftest import served
from tests.browser.test_views import unfit

received: Final[list[Any]] = []


def first_answer(operation: Operation) -> Any:
    """An endpoint that answers with the example of the operation's first answer."""

    async def respond(request: Request) -> Response:
        received.append(json.loads(await request.body()) if operation.body else None)
        answer = operation.answers[0]
        body = b"" if answer.example is None else encode(answer.example)
        return Response(body, answer.status, media_type=answer.media_types[0])

    return respond


@pytest.fixture(params=CONTRACTS)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def origin(service: str) -> Iterator[str]:
    received.clear()
    contract = CONTRACTS[service]
    with served(contract, {operation: first_answer(operation) for operation in contract.own}) as origin:
        yield origin


def test_the_page_shows_every_operation(page: Page, service: str) -> None:
    page.goto("/docs")
    operations = [operation for operation in CONTRACTS[service].operations if operation.documented]
    expect(page.locator(".opblock")).to_have_count(len(operations))
    for operation in operations:
        expect(page.locator(f"[id='operations-{operation.tag.replace(' ', '_')}-{operation.id}']")).to_be_visible()
    expect(page).to_have_title(CONTRACTS[service].title)
    expect(page.locator(".errors-wrapper")).to_have_count(0)


@pytest.mark.parametrize("service", ["order"], indirect=True)
def test_a_request_can_be_tried(page: Page, service: str) -> None:
    page.goto("/docs")
    block = page.locator("#operations-orders-placeOrder")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table")
    expect(answer.locator(".response-col_status").last).to_contain_text("202")
    expect(answer).to_contain_text('"pending"')
    assert received == [{"customer_id": "cust-000001", "product_id": "sku-0001", "quantity": 2}]


@pytest.mark.parametrize("service", ["payment"], indirect=True)
def test_a_problem_leads_to_its_page(page: Page, service: str) -> None:
    page.goto("/docs")
    page.locator("#operations-accounts-deposit .opblock-summary-control").click()
    page.locator("#operations-accounts-deposit a", has_text="The request is not valid").first.click()
    page.goto("/problems")
    page.get_by_role("link", name="The request is not valid").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("422 The request is not valid")
    assert unfit(page) == []
