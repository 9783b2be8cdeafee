"""Each view with made-up data: it shows what the server says, is accessible in light and dark, and fits a phone."""

from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import pytest
from playwright.sync_api import BrowserContext, Page, ViewportSize, expect

from tests.browser import made_up
from tests.browser.fake import Fake

AXE: Final = (Path(__file__).parent / "vendor/axe.min.js").read_text()
RULES: Final = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "dark": ["color-contrast", "target-size", "scrollable-region-focusable"],  # what colours and a narrow page change
}
PHONE: Final[ViewportSize] = {"width": 360, "height": 740}
LETTER: Final = "dead-letters/payment/orders%2F3%4017"
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
ORDER: Final = f"orders/{made_up.ORDER}"
VIEWS: Final = {
    "flow": ("Flow", "payment-1"),
    "proof": ("Proof", "5,000"),
    "orders": ("Orders", "40 orders."),
    ORDER: (f"Order {made_up.ORDER}", "confirmed, settled"),
    "dead-letters": ("Dead letters", "Events: 12 match"),
    LETTER: ("Dead letter orders/3@17 of payment", "the cause is removed"),
    "break-it": ("Break it", "Run the spike shape"),
}
"""The heading of each view, and a text that shows that its data is there."""


@pytest.fixture(autouse=True)
def busy(fake: Fake) -> None:
    """An order, a violation, a backlog, and a job of each kind, so that every colour and sign is in sight."""
    fake.orders[made_up.ORDER] = made_up.story()
    fake.newest["proof"] = made_up.proof(violations=2) | {"full": made_up.full_proof()}
    fake.newest["flow"] = made_up.flow(payment_lag=3000, payment_lag_s=41.2, payment="down")
    for kind, state in (("verify", "done"), ("act", "failed"), ("drill", "done"), ("load", "running")):
        fake.tell("job", made_up.job(kind, state, output=["a line", "another"]))


def open_view(page: Page, view: str) -> None:
    page.goto(f"/#/{view}")
    expect(page.get_by_role("heading", level=1)).to_have_text(VIEWS[view][0])
    expect(page.get_by_text("live", exact=True)).to_be_visible()


def unfit(page: Page) -> list[str]:
    """What axe finds wrong with the page: in light in a window, in dark on a phone, on which it stays."""
    page.evaluate(AXE)
    found: list[str] = []
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        if scheme == "dark":
            page.set_viewport_size(PHONE)
        found += page.evaluate(
            "rules => axe.run({runOnly: rules}).then(found => found.violations.map("
            "rule => `${rule.id}: ${rule.nodes.map(node => node.html + ' ' + node.failureSummary).join('\\n')}`))",
            RULES[scheme],
        )
    return found


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_accessible_and_fits_a_phone(page: Page, view: str) -> None:
    open_view(page, view)
    expect(page.get_by_role("main")).to_contain_text(VIEWS[view][1])
    assert unfit(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    ends = page.locator(".waterfall > div").evaluate_all("all => all.map(each => each.getBoundingClientRect().right)")
    assert max(ends, default=0) <= PHONE["width"], "the bars of an order are in sight"


def test_the_dialog_of_an_act_is_accessible(page: Page, fake: Fake) -> None:
    fake.answers["/api/dead-letters/acts"] = (200, {"results": made_up.results(3), "would_change": 1, "refused": 0})
    open_view(page, LETTER)
    page.get_by_role("button", name="Redrive …").click()
    page.get_by_role("button", name="Dry run").click()
    expect(page.get_by_role("table", name="What would change")).to_contain_text("orders/3@3")
    assert unfit(page) == []


def test_the_flow_shows_rates_lag_and_who_is_down(page: Page, fake: Fake) -> None:
    open_view(page, "flow")
    behind = page.locator("[data-arrow='payment/orders']")
    expect(behind).to_contain_text("3,000 · 41 s behind")
    expect(behind).to_have_class("arrow bad")
    expect(page.locator("[data-arrow='inventory/orders']")).to_contain_text("241/s")
    expect(page.locator("[data-arrow='inventory/orders']")).to_contain_text("no lag")
    expect(page.locator("[data-box='payment']")).to_contain_text("✕ 0 of 1 ready")
    expect(page.get_by_role("table", name="Instances").get_by_role("row", name="payment-1")).to_contain_text(
        "connection refused"
    )
    expect(page.get_by_role("table", name="Latency of the last 15 minutes")).to_contain_text("31.5 ms")
    expect(page.get_by_role("img", name="Time until an order is settled")).to_have_accessible_name(
        "Time until an order is settled, over the last 15 minutes; now p50 35 ms, p95 63 ms, p99 102 ms"
    )
    expect(page.locator(".bars")).to_contain_text("rejected: out_of_stock")

    fake.tell("flow", made_up.flow())
    expect(behind).to_contain_text("no lag")
    expect(page.locator("[data-box='payment']")).to_contain_text("✓ 1 of 1 ready")


def test_a_chart_of_few_records_counts_whole_ones(page: Page, fake: Fake) -> None:
    points = [made_up.point(number) | {"lag_records": number % 2, "lag_s": 1000.0} for number in range(90)]
    fake.newest["history"] = fake.newest["history"] | {"points": points}
    page.add_init_script(
        "window.drawn = []; const draw = CanvasRenderingContext2D.prototype.fillText;"
        "CanvasRenderingContext2D.prototype.fillText = function (text, ...at) {"
        " window.drawn.push(text); return draw.call(this, text, ...at); };"
    )
    open_view(page, "break-it")
    page.wait_for_function("window.drawn.includes('1')")
    drawn = page.evaluate("window.drawn")
    assert not [text for text, following in pairwise(drawn) if text == following], drawn


def test_what_goes_wrong_is_said_on_every_view(page: Page, fake: Fake) -> None:
    open_view(page, "orders")
    news = page.get_by_role("banner").get_by_role("status").last
    expect(news).to_have_text("payment: 0 of 1 ready; payment is far behind in orders; the proof is violated")
    fake.tell("flow", made_up.flow() | {"problems": {"kafka": "no answer"}, "stopped": {"order": "too many"}})
    fake.tell("proof", made_up.proof())
    expect(news).to_have_text("kafka cannot be read; order has stopped")
    fake.tell("flow", made_up.flow())
    expect(news).to_have_text("Everything works.")


def test_the_proof_shows_six_statements_and_what_breaks_them(page: Page, fake: Fake) -> None:
    open_view(page, "proof")
    rows = page.get_by_role("table", name="The six statements").get_by_role("row")
    expect(rows).to_have_count(7)
    expect(rows.nth(4)).to_contain_text("violated")
    expect(rows.nth(1)).to_contain_text("1,234 orders")
    expect(rows.nth(2)).to_contain_text(
        "Checked every 30\u00a0s. The newest orders. The full proof also checks all others."
    )
    expect(page.get_by_role("table", name="Violations")).to_contain_text(made_up.EVIL)
    expect(page.get_by_role("table", name="The last full proof")).to_contain_text("5,000")
    assert page.title() == "Proof · Tandem console"


def test_the_full_proof_runs_with_progress(page: Page, fake: Fake) -> None:
    running = made_up.job("verify", id="verify-2", title="full proof", note="reading orders/3")
    running["started_at"] += 1_000
    fake.answers["/api/verify"] = (202, running)
    open_view(page, "proof")
    page.get_by_role("button", name="Prove everything now").click()
    expect(page.get_by_role("progressbar", name="progress of full proof")).to_be_visible()
    expect(page.get_by_text("reading orders/3")).to_be_visible()
    expect(page.get_by_role("button", name="A full proof is running")).to_be_disabled()
    fake.tell("job", running | {"state": "done"})
    expect(page.get_by_role("button", name="Prove everything now")).to_be_enabled()
    expect(page.get_by_role("main").get_by_role("status").filter(has_text="full proof: done")).to_have_count(1)
    assert fake.posted == [("/api/verify", {}, None)]


def test_an_order_shows_its_stages_and_what_each_service_did(page: Page) -> None:
    open_view(page, ORDER)
    stages = page.get_by_role("table", name="Stages of the order")
    expect(stages.get_by_role("row", name="payment.completed")).to_contain_text("payments/5@9")
    expect(stages.get_by_role("row", name="order.confirmed")).to_contain_text("outcomes/5")
    begins = stages.locator("[data-stage='order.confirmed'] .waterfall span").evaluate("bar => bar.style.marginLeft")
    assert float(begins.rstrip("%")) == pytest.approx(100 * 34 / 36, rel=1e-3)
    begins = stages.locator("[data-stage='payment.completed'] .waterfall span").evaluate("bar => bar.style.marginLeft")
    assert begins == "0%"
    expect(stages.get_by_role("row", name="order.confirmed").get_by_role("cell").nth(1)).to_have_text("2 ms")
    expect(page.get_by_role("table", name="Ledger entries of the order")).to_contain_text("-€39.98")
    expect(page.get_by_text("€9,960.02")).to_be_visible()
    page.get_by_role("button", name="Read them from the log").click()
    expect(page.get_by_label("Record orders/5@0")).to_contain_text('"specversion": "1.0"')
    expect(stages.get_by_role("row", name="order.confirmed")).to_contain_text("outcomes/5@1")
    expect(page.get_by_text("movement 77: reserve 2")).to_be_visible()
    expect(page.get_by_text("basket-17")).to_be_visible()


def test_a_dead_letter_shows_its_bytes_as_they_are(page: Page) -> None:
    open_view(page, LETTER)
    expect(page.get_by_label("Bytes of the record")).to_have_text(f"{made_up.EVIL}\\xff\\x00")
    expect(page.get_by_role("table", name="Acts")).to_contain_text("the cause is removed")
    expect(page).to_have_title("payment orders/3@17 · Dead letters · Tandem console")


def test_break_it_is_only_there_where_the_server_allows_it(page: Page, fake: Fake) -> None:
    fake.newest["hello"] = made_up.hello(can_break=False)
    open_view(page, "flow")
    expect(page.get_by_role("link", name="Proof")).to_be_visible()
    expect(page.get_by_role("link", name="Break it")).to_have_count(0)
    open_view(page, "break-it")
    expect(page.get_by_text("This is the compose stack.")).to_be_visible()
    expect(page.get_by_role("button", name="kill payment")).to_have_count(0)


def test_a_view_that_is_not_there_says_so(page: Page) -> None:
    page.goto("/#/%E0%A4%A")
    expect(page.get_by_role("heading", level=1)).to_have_text("Nothing here")


def test_tabs_of_a_browser_share_one_stream(context: BrowserContext, fake: Fake) -> None:
    tabs = [context.new_page() for _ in range(7)]  # a browser opens six connections to a server
    for tab in tabs:
        open_view(tab, "flow")
    assert len(fake.streams) == 1
    fake.tell("flow", made_up.flow(payment_lag=77, payment_lag_s=3.0))
    for tab in tabs:
        expect(tab.locator("[data-arrow='payment/orders']")).to_contain_text("77 · 3 s behind")


def test_a_browser_without_shared_workers_has_a_stream_for_each_tab(page: Page, fake: Fake) -> None:
    page.add_init_script("delete globalThis.SharedWorker")
    open_view(page, "flow")
    fake.tell("flow", made_up.flow(payment_lag=77, payment_lag_s=3.0))
    expect(page.locator("[data-arrow='payment/orders']")).to_contain_text("77 · 3 s behind")


@pytest.mark.parametrize("shared", [True, False])
def test_a_lost_stream_is_reported_and_opens_again(page: Page, fake: Fake, shared: bool) -> None:
    if not shared:
        page.add_init_script("delete globalThis.SharedWorker")
    open_view(page, "flow")
    fake.cut()
    expect(page.get_by_text("no connection: what you see is old")).to_be_visible()
    fake.refuses_streams = False
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    fake.tell("flow", made_up.flow(payment_lag=77, payment_lag_s=3.0))
    expect(page.locator("[data-arrow='payment/orders']")).to_contain_text("77 · 3 s behind")
