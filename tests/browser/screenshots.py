"""`just screenshots`: draws the pictures in docs/images. Those of the console come from a stack of its own with load on
it, and bench-report.png from the last report of `just bench`, if there is one."""

import itertools
import re
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
from confluent_kafka import Producer
from playwright.sync_api import Browser, Page, expect, sync_playwright

from bench.command import out_directory
from common.auth.api_keys import new_key, write_key_file
from common.kafka.clients import producer_config
from dev.settings import ROOT
from tests.browser.conftest import find_browser
from tests.console import RunningConsole
from tests.stack import Stack
from tests.tokens import ISSUER, Issuer
from tests.waiting import PATIENCE_S

IMAGES: Final = ROOT / "docs/images"
REPORT_WIDTH: Final = 1_100
REPORT_HEIGHT: Final = 1_890
"""The first part of it: the main figures, a stack just started, and what an order costs by rate."""
PERSON: Final = "ana"
CUSTOMERS: Final = 500
PRODUCTS: Final = 9
EVERY_S: Final = 0.1
POISONED: Final = 7


def load(stack: Stack, ended: threading.Event, per_s: int = 100) -> None:
    """Place so many orders a second."""
    url = stack.url("order-api", "/orders")
    numbers = itertools.count()
    due_s = time.monotonic()
    with httpx.Client(timeout=30) as client:
        while not ended.wait(max(0.0, due_s - time.monotonic())):
            due_s += EVERY_S
            for n in itertools.islice(numbers, round(per_s * EVERY_S)):
                order = {
                    "customer_id": f"cust-{n % CUSTOMERS:06}",
                    "product_id": f"sku-{n % PRODUCTS:04}",
                    "quantity": 1,
                }
                client.post(url, json=order)


def furnish(stack: Stack) -> None:
    """Products, customers, and events that cannot be decoded."""
    for n in range(PRODUCTS):
        stack.product(f"sku-{n:04}", price=1999, pieces=10**6)
    stack.product("sku-scarce", price=1500, pieces=10)
    for n in range(CUSTOMERS):
        stack.account(f"cust-{n:06}", 10**7)
    stack.await_orderable("sku-scarce")
    producer = Producer(producer_config(stack.brokers, "screenshots", linger_ms=0))
    for n in range(POISONED):
        producer.produce(
            "orders", b'{"specversion":"1.0","type":"order.placed","id":"\xff\xfe","data":', f"cust-odd-{n}"
        )
    producer.flush(10)


def draw(page: Page, name: str) -> None:
    path = IMAGES / f"{name}.png"
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.screenshot(path=path)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB", flush=True)


def draw_report(browser: Browser, report: Path) -> None:
    """Draw the last report of the bench. Without one, the picture stays as it is."""
    if not report.exists():
        print(f"bench-report.png stays as it is: no {report} ('just bench --full' makes one)", flush=True)
        return
    page = browser.new_page(viewport={"width": REPORT_WIDTH, "height": REPORT_HEIGHT})
    page.goto(report.resolve().as_uri())
    expect(page.locator("svg").first).to_be_visible()
    draw(page, "bench-report")
    page.close()


def let_in(console: RunningConsole) -> str:
    """Make the console ask who uses it. Returns the API key of a person who may do everything."""
    key, stored = new_key(PERSON, ("operator", "merchant"), datetime.now(UTC))
    keys, jwks = console.directory.with_name("keys.json"), console.directory.with_name("jwks.json")
    keys.write_bytes(write_key_file([stored]))
    jwks.write_bytes(Issuer().jwks())
    console.variables |= {"AUTH": "on", "AUTH_JWKS": str(jwks), "AUTH_ISSUER": ISSUER, "AUTH_KEYS_FILE": str(keys)}
    return key


def take_pictures(stack: Stack, page: Page, key: str) -> None:
    behind = page.locator("[data-arrow='payment/orders']")
    page.goto("/#/flow")
    page.get_by_label("Token or API key").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_text(f"you act as {PERSON}")).to_be_visible()
    settled = page.get_by_role("table", name="Latency of the last 15 minutes").get_by_role("row", name="Settled")
    expect(settled).to_contain_text(
        re.compile(r"([5-9]|\d\d),\d\d\d$")
    )  # a minute's load: the charts have a line by then
    draw(page, "console-flow")

    stack["payment-1"].kill()
    expect(behind).to_have_class("arrow bad")
    expect(page.locator("[data-box='payment']")).to_contain_text("0 of 1 ready")
    draw(page, "console-outage")
    page.goto("/#/break-it")
    expect(page.get_by_role("button", name="kill payment")).to_be_visible()
    expect(behind).to_have_class("arrow bad")
    draw(page, "console-break-it")
    stack["payment-1"].launch()
    expect(behind).to_have_class("arrow good")

    page.goto("/#/orders")
    page.get_by_role("button", name="More than is in stock").click()
    page.get_by_role("button", name="Place the order").click()
    expect(page.get_by_text("rejected out_of_stock, settled")).to_be_visible()
    draw(page, "console-order")

    page.goto("/#/dead-letters")
    expect(page.get_by_text(re.compile(f"^Events: {3 * POISONED} match"))).to_be_visible()
    page.get_by_role("checkbox").first.check()
    draw(page, "console-dead-letters")


def main() -> int:
    executable = find_browser()
    if executable is None:
        print("screenshots: no Chromium is on PATH (Debian: apt install chromium)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="tandem-") as directory:
        stack = Stack(Path(directory))
        ended = threading.Event()
        loading = threading.Thread(target=load, args=(stack, ended))
        try:
            stack.start_infrastructure()
            stack.launch_all()
            furnish(stack)
            loading.start()
            console = RunningConsole(stack)
            console.variables["CONSOLE_STACK"] = "native"
            key = let_in(console)
            console.start()
            try:
                with sync_playwright() as playwright:
                    browser = playwright.chromium.launch(executable_path=executable)
                    page = browser.new_page(base_url=console.url, viewport={"width": 1280, "height": 960})
                    page.set_default_timeout(PATIENCE_S * 1000)
                    expect.set_options(timeout=PATIENCE_S * 1000)
                    take_pictures(stack, page, key)
                    draw_report(browser, out_directory() / "report.html")
                    browser.close()
            finally:
                console.stop()
        finally:
            ended.set()
            if loading.is_alive():
                loading.join()
            stack.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
