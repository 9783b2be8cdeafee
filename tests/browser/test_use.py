"""The page in use: forms, filters, acts, the keyboard, and long lists."""

import re
import threading

from playwright.sync_api import Page, Route, expect

from tests.browser import made_up
from tests.browser.fake import Fake
from tests.waiting import eventually

ACTS = "/api/dead-letters/acts"


def await_query(fake: Fake, path: str, query: dict[str, str]) -> None:
    """The page may show what it read before for as long as it reads."""
    condition = f"{path} is asked for {query}"
    eventually(lambda: fake.queried[-1] == (path, query), condition, last_words=lambda: fake.queried)


def test_an_order_is_placed_and_its_timeline_fills_in(page: Page, fake: Fake) -> None:
    fake.answers["/api/orders"] = (
        202,
        {"order_id": made_up.ORDER, "status": "pending", "amount": 3998, "currency": "EUR"},
    )
    page.goto("/#/orders")
    page.get_by_role("button", name="A customer without the money").click()
    page.get_by_label("Customer", exact=True).first.fill("cust-000007")
    page.get_by_role("button", name="Add a product").click()
    page.get_by_label("Product 2", exact=True).fill("sku-0002")
    page.get_by_label("Quantity 2").fill("3")
    page.get_by_role("button", name="Place the order").click()

    expect(page.get_by_text("Waiting for the services to read it")).to_be_visible()
    stages = page.get_by_role("table", name="Stages of the order").locator("tbody tr")
    for count in range(1, 5):
        fake.orders[made_up.ORDER] = made_up.story(count)
        expect(stages).to_have_count(count)
        expect(page.get_by_text("not yet read by payment")).to_have_count(1 if count < 3 else 0)
    expect(page.get_by_text("confirmed, settled")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_be_focused()

    [(path, body, key)] = fake.posted
    assert path == "/api/orders"
    assert body == {
        "customer_id": "cust-000007",
        "items": [{"product_id": "sku-0001", "quantity": 1}, {"product_id": "sku-0002", "quantity": 3}],
    }
    assert key
    assert key.startswith("console-")


def test_a_proof_that_does_not_go_on_is_not_shown_as_proved(page: Page, fake: Fake) -> None:
    """Its thread may wait for a database that is frozen, while the rest of the console goes on."""
    page.goto("/#/proof")
    link = page.get_by_role("link", name="Proof")
    expect(link).to_contain_text("proved")
    stopped = made_up.proof()
    stopped["at"] -= 5 * 60_000
    fake.tell("proof", stopped)
    expect(link).to_contain_text("unproven")
    table = page.get_by_role("table", name="The six statements")
    expect(table.get_by_text("unproven", exact=True)).to_have_count(1 + 6)
    expect(table.get_by_text("No round has ended for 5 min.")).to_have_count(6)
    fake.tell("proof", made_up.proof())
    expect(link).not_to_contain_text("unproven")


def test_an_order_is_sent_again_with_the_same_key_after_an_unclear_answer(page: Page, fake: Fake) -> None:
    fake.answers["/api/orders"] = (503, {"detail": "the log has not acknowledged the order"})
    page.goto("/#/orders")
    for count in (1, 2):
        page.get_by_role("button", name="Place the order").click()
        expect(page.get_by_role("alert")).to_have_text("the log has not acknowledged the order")
        expect(page.get_by_role("button", name="Place the order")).to_be_enabled()
        assert len(fake.posted) == count
    assert fake.posted[0] == fake.posted[1]


def test_a_refused_order_says_which_fields_are_wrong(page: Page, fake: Fake) -> None:
    error = {"pointer": "/items/0/product_id", "detail": "there is no product nope"}
    fake.answers["/api/orders"] = (422, {"detail": "nothing was placed", "errors": [error]})
    page.goto("/#/orders")
    page.get_by_role("button", name="Place the order").click()
    expect(page.get_by_role("alert")).to_contain_text("/items/0/product_id there is no product nope")


def test_filters_reach_the_server_and_stay(page: Page, fake: Fake) -> None:
    page.goto("/#/dead-letters")
    page.get_by_label("Service").select_option("payment")
    page.get_by_label("Error contains").fill("out of range")
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(page).to_have_url(page.url.split("#")[0] + "#/dead-letters?service=payment&error=out+of+range")
    await_query(fake, "/api/dead-letters", {"service": "payment", "error": "out of range", "limit": "200"})
    expect(page.get_by_text("Events: 12 match")).to_be_visible()

    page.get_by_role("link", name="Flow").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Flow")
    page.get_by_role("link", name="Dead letters").click()
    expect(page.get_by_label("Error contains")).to_have_value("out of range")
    page.reload()
    expect(page.get_by_label("Service")).to_have_value("payment")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_label("Error contains")).to_have_value("")
    expect(page).to_have_url(page.url.split("#")[0] + "#/dead-letters")


def test_a_choice_stays_when_the_list_arrives_after_it(page: Page) -> None:
    held: list[Route] = []
    page.route("**/api/dead-letters?*", lambda route: held.append(route))
    page.goto("/#/dead-letters")
    page.get_by_label("Service").select_option("payment")
    for route in held:
        route.continue_()
    page.unroute("**/api/dead-letters?*")
    expect(page.get_by_text(re.compile("Events: [0-9]+ match"))).to_be_visible()
    expect(page.get_by_label("Service")).to_have_value("payment")


def test_orders_are_found_by_customer_status_and_time(page: Page, fake: Fake) -> None:
    page.goto("/#/orders")
    find = page.get_by_role("form", name="Find orders")
    find.get_by_label("Customer").fill("cust-000001")
    find.get_by_label("Status").select_option("confirmed")
    find.get_by_label("Placed since").fill("2026-11-23T04:09")
    find.get_by_role("button", name="Find").click()
    expect(page).to_have_url(page.url.split("#")[0] + page.url[page.url.index("#") :])
    since = page.evaluate("new Date('2026-11-23T04:09').getTime()")
    wanted = {"customer_id": "cust-000001", "status": "confirmed", "since": str(since), "limit": "200"}
    await_query(fake, "/api/orders", wanted)
    expect(page.get_by_text("40 orders.")).to_be_visible()
    expect(find.get_by_label("Placed since")).to_have_value("2026-11-23T04:09")
    page.get_by_role("link", name=made_up.ORDER[:-6]).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(made_up.ORDER[:-6])


def test_what_somebody_types_stays_when_the_server_says_hello_again(page: Page, fake: Fake) -> None:
    page.goto("/#/orders?customer_id=cust-1")
    find = page.get_by_role("form", name="Find orders")
    typed = {"Order": "01a2", "Customer": "cust-000001", "Placed since": "2026-11-23T04:09"}
    for label, text in typed.items():
        find.get_by_label(label).fill(text)
    find.get_by_label("Status").select_option("rejected")
    hello = made_up.hello()
    fake.tell("hello", hello | {"statuses": [*hello["statuses"], "new"]})
    expect(find.get_by_label("Status").locator("option", has_text="new")).to_be_attached()
    for label, text in typed.items():
        expect(find.get_by_label(label)).to_have_value(text)
    expect(find.get_by_label("Status")).to_have_value("rejected")


def test_dead_letters_are_redriven_after_a_dry_run_and_with_a_reason(page: Page, fake: Fake) -> None:
    trial = {"act": "redrive", "results": made_up.results(3, 5), "would_change": 2, "refused": 0}
    fake.answers[ACTS] = (200, trial)
    page.goto("/#/dead-letters")
    for number in (3, 5):
        page.get_by_label(f"Choose payment orders/3@{number}", exact=True).check()
    page.get_by_role("button", name="Redrive the chosen").click()
    dialog = page.get_by_role("dialog", name="Redrive: 2 chosen")
    now = dialog.get_by_role("button", name="Redrive now")
    dialog.get_by_label("Why").fill("the price is right again")
    expect(now).to_be_disabled()
    dialog.get_by_role("button", name="Dry run").click()
    expect(dialog.get_by_text("2 events would be marked; 0 would be refused. Nothing has changed yet.")).to_be_visible()
    dialog.get_by_label("Why").fill(" ")
    expect(now).to_be_disabled()
    dialog.get_by_label("Why").fill("the price is right again")

    job = made_up.job("act", title="redrive 2 events", done=1, total=2)
    fake.answers[ACTS] = (202, job)
    fake.jobs["act-1"] = job | {"results": made_up.results(3)}
    now.click()
    results = dialog.get_by_role("table", name="Results")
    expect(results.get_by_role("row")).to_have_count(2)
    fake.jobs["act-1"] = job | {"state": "done", "done": 2, "results": made_up.results(3, 5)}
    fake.tell("job", job | {"state": "done", "done": 2})
    expect(results.get_by_role("row")).to_have_count(3)
    expect(results).to_contain_text("marked")

    events = [{"service": "payment", "record": f"orders/3@{number}"} for number in (3, 5)]
    dry, real = (body for _, body, _ in fake.posted)
    assert dry["dry_run"] is True
    assert real == {"act": "redrive", "events": events, "why": "the price is right again", "dry_run": False}
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("0 chosen")).to_be_visible()


def test_dead_letters_are_discarded_by_filter(page: Page, fake: Fake) -> None:
    fake.answers[ACTS] = (422, {"detail": "12,000 events match, more than 1,000; narrow the filter"})
    page.goto("/#/dead-letters?service=payment&root=true&since=1000&until=2000")
    page.get_by_role("button", name="Discard all that match").click()
    page.get_by_role("button", name="Dry run").click()
    expect(page.get_by_role("alert")).to_have_text("12,000 events match, more than 1,000; narrow the filter")
    expect(page.get_by_role("button", name="Discard now")).to_be_disabled()
    [(_, body, _)] = fake.posted
    chosen = {"service": "payment", "root": True, "since": 1000, "until": 2000}
    assert body == {"act": "discard", "filter": chosen, "why": "", "dry_run": True}

    # The act concerns what was shown: others may match the filter by then.
    fake.answers[ACTS] = (200, {"act": "discard", "results": made_up.results(4), "would_change": 1, "refused": 0})
    page.get_by_role("button", name="Dry run").click()
    page.get_by_label("Why").fill("sent by mistake")
    fake.answers[ACTS] = (202, made_up.job("act"))
    page.get_by_role("button", name="Discard now").click()
    expect(page.get_by_role("table", name="Results")).to_be_visible()
    shown = [{"service": "payment", "record": "orders/3@4"}]
    assert fake.posted[-1][1] == {"act": "discard", "events": shown, "why": "sent by mistake", "dry_run": False}


def test_an_answer_that_comes_late_does_not_take_the_results_back(page: Page, fake: Fake) -> None:
    ended: list[str] = []
    page.on("requestfinished", lambda request: ended.append(request.url))
    page.on("requestfailed", lambda request: ended.append(request.url))
    job = made_up.job("act", title="discard 2 events", done=1, total=2)
    trial = {"act": "discard", "results": made_up.results(3, 5), "would_change": 2, "refused": 0}
    fake.answers[ACTS] = (200, trial)
    fake.jobs["act-1"] = job | {"results": made_up.results(3)}
    fake.held["/api/jobs/act-1"] = first = threading.Event()
    page.goto("/#/dead-letters?service=payment")
    page.get_by_role("button", name="Discard all that match").click()
    page.get_by_role("button", name="Dry run").click()
    page.get_by_label("Why").fill("sent by mistake")
    fake.answers[ACTS] = (202, job)
    page.get_by_role("button", name="Discard now").click()
    eventually(lambda: not fake.held, "the results are asked for")

    fake.jobs["act-1"] = job | {"state": "done", "done": 2, "results": made_up.results(3, 5)}
    fake.tell("job", job | {"state": "done", "done": 2})
    rows = page.get_by_role("table", name="Results").get_by_role("row")
    expect(rows).to_have_count(3)
    first.set()

    def both() -> bool:
        page.wait_for_timeout(0)
        return sum(url.endswith("/api/jobs/act-1") for url in ended) == 2

    eventually(both, "both requests have ended")
    page.evaluate("new Promise((done) => setTimeout(done))")
    expect(rows).to_have_count(3)


def test_a_part_is_killed_scaled_and_put_under_load(page: Page, fake: Fake) -> None:
    fake.answers["/api/break"] = (202, made_up.job("drill", title="kill payment"))
    fake.answers["/api/load"] = (202, made_up.job("load", title="the load shape"))
    page.goto("/#/break-it")
    page.get_by_role("button", name="kill payment").click()
    expect(page.get_by_text("kill payment").last).to_be_visible()
    page.get_by_label("Instances of payment").fill("3")
    page.get_by_role("button", name="scale payment").click()
    page.get_by_role("button", name="Run the load shape").click()
    expect(page.get_by_role("button", name="Run the spike shape")).to_be_disabled()
    fake.answers["/api/break"] = (409, {"detail": "another drill runs: kill payment"})
    page.get_by_role("button", name="stop kafka").click()
    expect(page.get_by_role("alert")).to_have_text("another drill runs: kill payment")
    assert [(path, body) for path, body, _ in fake.posted] == [
        ("/api/break", {"act": "kill", "target": "payment"}),
        ("/api/break", {"act": "scale", "target": "payment", "count": 3}),
        ("/api/load", {"shape": "load"}),
        ("/api/break", {"act": "stop", "target": "kafka"}),
    ]


def test_a_hundred_thousand_events_do_not_fill_the_page(page: Page, fake: Fake) -> None:
    fake.letters = made_up.dead_letters(100_000)
    page.goto("/#/dead-letters")
    expect(page.get_by_text("Events: 100,000 match")).to_be_visible()
    table = page.get_by_role("region", name="Dead letters")
    assert page.locator("*").count() < 3_000
    table.focus()
    page.keyboard.press("End")
    expect(page.get_by_role("link", name="orders/3@99999", exact=True)).to_be_visible()
    assert page.locator("*").count() < 3_000
    assert page.get_by_role("table", name="Dead letters").get_attribute("aria-rowcount") == "100001"
    page.get_by_role("button", name="Choose all loaded").click()
    expect(page.get_by_text("100,000 chosen")).to_be_visible()


def test_a_search_that_finds_little_goes_on_when_it_is_told_to(page: Page, fake: Fake) -> None:
    fake.order_page = made_up.orders(3) | {"next": "cursor-2"}
    page.goto("/#/orders?customer_id=cust-000001")
    expect(page.get_by_text("3 orders so far. Searched back to")).to_be_visible()
    fake.order_page = made_up.orders(0)
    page.get_by_role("button", name="Search further back").click()
    expect(page.get_by_text("3 orders.")).to_be_visible()
    first, second = (query for path, query in fake.queried if path == "/api/orders")
    assert "after" not in first
    assert second["after"] == "cursor-2"


def test_further_pages_are_read_when_their_rows_come_near(page: Page, fake: Fake) -> None:
    fake.order_page = made_up.orders(200) | {"next": "cursor-2"}
    page.goto("/#/orders")
    expect(page.get_by_text("200 orders so far.")).to_be_visible()
    fake.order_page = made_up.orders(50, first=200)
    page.get_by_role("region", name="Orders", exact=True).focus()

    def end() -> bool:
        """A key that comes while the table is drawn again scrolls nothing, and is pressed again."""
        page.keyboard.press("End")
        return page.get_by_text("250 orders.").is_visible()

    eventually(end, "the next page is read", last_words=page.get_by_role("main").get_by_role("status").all_inner_texts)
    await_query(fake, "/api/orders", {"after": "cursor-2", "limit": "200"})


def test_a_page_that_is_asked_for_twice_is_read_once(page: Page, fake: Fake) -> None:
    # The page learns only at its next paint that it is reading. Here none comes before the second click.
    page.add_init_script("window.requestAnimationFrame = () => 0")
    fake.order_page = made_up.orders(3) | {"next": "cursor-2"}
    page.goto("/#/orders")
    expect(page.get_by_text("3 orders so far.")).to_be_visible()
    fake.order_page = made_up.orders(3, first=3)
    page.get_by_role("button", name="Search further back").evaluate("""async (button) => {
        button.click();
        await new Promise((done) => setTimeout(done));
        button.click();
    }""")
    expect(page.get_by_text("6 orders.")).to_be_visible()
    pages = [query.get("after") for path, query in fake.queried if path == "/api/orders"]
    assert pages == [None, "cursor-2"]


def test_the_keyboard_reaches_the_content_the_views_and_a_dialog(page: Page, fake: Fake) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Flow")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.get_by_role("link", name="Skip to the content").focus()
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Dead letters")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()

    page.get_by_label("Choose payment orders/3@3", exact=True).focus()
    page.keyboard.press("Space")
    opener = page.get_by_role("button", name="Discard the chosen")
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
