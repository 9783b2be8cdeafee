"""Logging in and out of the console, and what an auditor sees."""

from typing import Final

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser import made_up
from tests.browser.fake import Fake
from tests.browser.test_views import ORDER, unfit

TOKEN: Final = "eyJ.a-token.of-ana"
ANA: Final = made_up.session("ana", "token")
AUDRA: Final = made_up.session("audra", "key", ())


@pytest.fixture(autouse=True)
def closed(fake: Fake) -> None:
    fake.session = None
    fake.tokens[TOKEN] = ANA
    fake.orders[made_up.ORDER] = made_up.story()


def test_a_person_logs_in_with_a_token_by_keyboard_and_out_again(page: Page, fake: Fake) -> None:
    page.goto("/#/dead-letters")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    expect(page.get_by_label("Token or API key")).to_be_focused()
    assert unfit(page) == []
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("the token has expired")
    assert fake.queried == [], "nothing is read without a session"
    page.get_by_label("Token or API key").fill(f" {TOKEN} ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Dead letters")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    expect(page.get_by_text("you act as ana")).to_be_visible()
    assert unfit(page) == []
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    page.get_by_label("Token or API key").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_text("live", exact=True)).to_be_visible()


def test_a_link_with_a_token_logs_in_and_the_address_forgets_it(page: Page) -> None:
    page.goto(f"/#token={TOKEN}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Flow")
    assert page.url.endswith("/#/flow")
    page.goto("/#/orders")
    page.go_back()
    assert TOKEN not in page.url


def test_a_link_changes_no_session(page: Page, fake: Fake) -> None:
    """Else a page of somebody else could make a person act under another name."""
    fake.session = AUDRA
    page.goto(f"/#token={TOKEN}")
    expect(page.get_by_text("you read as audra")).to_be_visible()
    assert page.url.endswith("/#/flow")
    assert fake.session == AUDRA


def test_a_link_with_a_token_that_is_not_good_says_so(page: Page) -> None:
    page.goto("/#token=wrong")
    expect(page.get_by_role("alert")).to_have_text("the token has expired")
    assert "wrong" not in page.url


def test_a_session_that_ends_takes_every_tab_to_the_login_and_one_login_is_enough(
    context: BrowserContext, fake: Fake
) -> None:
    fake.session = ANA
    tabs = [context.new_page() for _ in range(2)]
    for tab in tabs:
        tab.goto("/")
        expect(tab.get_by_text("live", exact=True)).to_be_visible()
    fake.end_session()
    for tab in tabs:
        expect(tab.get_by_text("Your session has ended.")).to_be_visible()
    tabs[0].get_by_label("Token or API key").fill(TOKEN)
    tabs[0].keyboard.press("Enter")
    tabs[1].reload()
    for tab in tabs:
        expect(tab.get_by_text("live", exact=True)).to_be_visible()


@pytest.mark.parametrize(
    "view", ["proof", "orders", "dead-letters", "dead-letters/payment/orders%2F3%4017", "break-it"]
)
def test_an_auditor_is_offered_nothing_that_changes_anything(page: Page, fake: Fake, view: str) -> None:
    fake.session = AUDRA
    fake.tell("job", made_up.job("verify", "running") | {"can_stop": True})
    page.goto(f"/#/{view}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    expect(page.get_by_text("you read as audra")).to_be_visible()
    names = page.get_by_role("button").all_inner_texts()
    assert set(names) <= {"Log out", "Filter", "Find", "Clear", "Refresh"}
    expect(page.get_by_role("checkbox")).to_have_count(0)
    expect(page.get_by_role("link", name="Break it")).to_have_count(0)
    assert unfit(page) == []


def test_an_auditor_reads_an_order(page: Page, fake: Fake) -> None:
    fake.session = AUDRA
    page.goto(f"/#/{ORDER}")
    expect(page.get_by_text("confirmed, settled")).to_be_visible()
