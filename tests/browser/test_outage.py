"""An outage played through in the page, with the real console: payment is killed, orders are still accepted, its lag
grows while all statements hold, and after its return the lag drains."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.audit import assert_consistent, await_rest
from tests.console import RunningConsole
from tests.stack import Stack

PIECES = 10_000


@pytest.fixture(scope="module")
def shop(stack: Stack) -> Stack:
    stack.product("sku-seen", price=100, pieces=PIECES)
    stack.account("cust-seen", 10**6)
    stack.await_orderable("sku-seen")
    return stack


@pytest.fixture
def origin(shop: Stack) -> Iterator[str]:
    console = RunningConsole(shop)
    console.start()
    yield console.url
    console.http.close()
    console.stop()


def test_an_outage_is_seen_from_its_start_to_its_end(context: BrowserContext, shop: Stack) -> None:
    flow, proof, order = (context.new_page() for _ in range(3))
    flow.goto("/")
    behind = flow.locator("[data-arrow='payment/orders']")
    expect(behind).to_contain_text("no lag")
    expect(flow.locator("[data-box='payment']")).to_contain_text("✓ 1 of 1 ready")
    proof.goto("/#/proof")
    proved = proof.get_by_role("table", name="The six statements").get_by_text("proved", exact=True)
    expect(proved).to_have_count(6)

    shop["payment-1"].kill()
    expect(flow.locator("[data-box='payment']")).to_contain_text("✕ 0 of 1 ready")
    order.goto("/#/orders")
    order.get_by_label("Customer", exact=True).first.fill("cust-seen")
    order.get_by_label("Product 1").fill("sku-seen")
    order.get_by_role("button", name="Place the order").click()
    stages = order.get_by_role("table", name="Stages of the order")
    expect(stages.get_by_role("row", name="inventory.reserved")).to_be_visible()
    expect(order.get_by_text("not settled yet")).to_be_visible()
    expect(order.get_by_text("Payment has not decided yet.")).to_be_visible()
    expect(order.get_by_text("not yet read by payment")).to_be_visible()
    for _ in range(20):
        shop.place("cust-seen", ("sku-seen", 1))
    expect(behind).to_contain_text(re.compile(r"(2[1-9]|[3-9]\d|\d{3,}) · \d.* behind"))
    expect(proved).to_have_count(6)
    expect(flow.locator("[data-arrow='inventory/orders']")).to_contain_text("no lag")

    shop["payment-1"].launch()
    expect(order.get_by_text("confirmed, settled")).to_be_visible()
    expect(stages.get_by_role("row", name="payment.completed")).to_be_visible()
    expect(behind).to_contain_text("no lag")
    expect(flow.locator("[data-box='payment']")).to_contain_text("✓ 1 of 1 ready")
    expect(proved).to_have_count(6)
    order.get_by_role("button", name="Read them from the log").click()
    expect(order.get_by_label(re.compile(r"Record payments/\d+@\d+"))).to_contain_text("payment.completed")
    await_rest(shop, ())
    assert_consistent(shop)
