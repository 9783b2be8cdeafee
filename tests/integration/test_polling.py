"""Polling and paging on the real stack: conditional requests, what no cache may keep, and the links between pages."""

import httpx
import pytest

from dev.settings import HOST
from tests.integration.conftest import draw
from tests.stack import Stack, frozen


def test_a_client_that_polls_gets_an_order_again_only_when_it_has_changed(
    stack: Stack, product: str, customer: str
) -> None:
    with frozen(stack["payment-1"]):
        url = stack.url("order-api", f"/orders/{stack.place(customer, (product, 1))}")
        pending = stack.http.get(url)
        assert (pending.json()["settled"], pending.headers["cache-control"]) == (False, "no-store")
    stack.await_settled(pending.json()["order_id"])
    settled = stack.http.get(url, headers={"if-none-match": pending.headers["etag"]})
    assert (settled.status_code, settled.headers["cache-control"]) == (200, "private, no-cache")
    again = stack.http.get(url, headers={"if-none-match": settled.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert stack.http.head(url).headers["etag"] == settled.headers["etag"]


def test_an_account_and_a_product_are_sent_again_only_when_they_have_changed(
    stack: Stack, product: str, customer: str
) -> None:
    for service, path, change, body in (
        ("payment", f"/accounts/{customer}", "deposits", {"amount": 1, "currency": "EUR"}),
        ("inventory", f"/products/{product}", "restocks", {"quantity": 1}),
    ):
        url = stack.url(service, path)
        seen = {"if-none-match": stack.http.get(url).headers["etag"]}
        assert stack.http.get(url, headers=seen).status_code == 304
        assert stack.http.post(f"{url}/{change}", json=body).status_code == 201
        assert stack.http.get(url, headers=seen).status_code == 200


def pages(stack: Stack, service: str, path: str) -> list[httpx.Response]:
    """All pages, by their links alone."""
    found = [stack.http.get(stack.url(service, path))]
    while link := found[-1].links.get("next"):
        found.append(stack.http.get(f"http://{HOST}:{stack.ports[service]}{link['url']}"))
    return found


@pytest.mark.parametrize("service", ["order-api", "payment", "inventory"])
def test_the_links_lead_through_all_pages(stack: Stack, product: str, customer: str, service: str) -> None:
    if service == "inventory":
        prefix = draw("page")
        for number in range(3):
            stack.product(f"{prefix}-{number}")
        # The names before these are other tests'.
        ids = [
            p["product_id"]
            for page in pages(stack, service, f"/products?limit=2&cursor={prefix}")
            for p in page.json()["products"]
        ]
        assert ids[:3] == [f"{prefix}-{number}" for number in range(3)]
        return
    orders = [stack.place(customer, (product, 1)) for _ in range(3)]
    for order_id in orders:
        stack.await_settled(order_id)
    if service == "order-api":
        found = pages(stack, service, f"/orders?customer_id={customer}&limit=2")
        assert [[o["order_id"] for o in page.json()["orders"]] for page in found] == [orders[:0:-1], orders[:1]]
    else:
        found = pages(stack, service, f"/accounts/{customer}/ledger?limit=2")
        kinds = [[entry["kind"] for entry in page.json()["entries"]] for page in found]
        assert kinds == [["capture", "capture"], ["capture", "deposit"]]
    assert all((page.json()["next_cursor"] is None) is ("link" not in page.headers) for page in found)
