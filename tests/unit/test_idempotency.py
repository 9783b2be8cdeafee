"""The rules of an idempotency key: one order, however often, wherever and whenever its request is sent again."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from common.events import OrderId
from common.http import problem
from common.http.problem import ProblemError
from common.http.requests import IDEMPOTENCY_KEY_CHARS_MAX
from order.api.place.keyed_requests import First
from tests.unit.order_api import JSON, PLACE, PRODUCTS, Answer, Api, FakeLog, FakeRequests, product

ORDER = {"customer_id": "cust-1", "product_id": "apple", "quantity": 2}
Stored = dict[tuple[str, str], First]


def post(api: Api, key: str = "key-1", order: Mapping[str, Any] = ORDER, body: bytes | None = None) -> Answer:
    answer = api.post(body or json.dumps(order).encode(), headers={**JSON, "idempotency-key": key})
    assert answer is not None
    return answer


def restarted(stored: Stored, log: FakeLog, **products: int) -> Api:
    """Another process on the same database and log, with these prices."""
    catalogue = {**PRODUCTS, **{name: product(name, unit_price) for name, unit_price in products.items()}}
    return Api(log, products=catalogue, requests=FakeRequests(stored))


def test_the_same_request_is_the_same_order_and_says_so() -> None:
    api = Api()
    first, again = post(api), post(api)
    assert (first.status, again.status) == (202, 202)
    assert first.body == again.body
    assert first.headers["location"] == again.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"


def test_the_stored_bytes_are_published_again_unchanged() -> None:
    stored: Stored = {}
    log = FakeLog()
    post(restarted(stored, log))
    post(restarted(stored, log, apple=999))
    assert log.values == [stored["cust-1", "key-1"].event] * 2


def test_a_repeated_request_keeps_its_price() -> None:
    stored: Stored = {}
    log = FakeLog()
    order = {**ORDER, "expected_amount": 300}
    assert post(restarted(stored, log), order=order).body["amount"] == 300
    again = post(restarted(stored, log, apple=999), order=order)
    assert (again.status, again.body["amount"]) == (202, 300)


def test_a_repeated_request_is_accepted_although_its_product_is_no_longer_sold() -> None:
    stored: Stored = {}
    log = FakeLog()
    first = post(restarted(stored, log))
    gone = Api(log, products={"pear": PRODUCTS["pear"]}, requests=FakeRequests(stored))
    assert post(gone).body == first.body


def test_another_body_is_refused() -> None:
    api = Api()
    post(api)
    for other in ({"quantity": 3}, {"product_id": "pear"}, {"expected_amount": 300}):
        answer = post(api, order={**ORDER, **other})
        assert (answer.status, answer.body["type"]) == (422, "/problems/idempotency-key-reused")
    assert len(api.log.placed) == 1


def test_another_body_that_is_also_invalid_is_refused_for_its_key() -> None:
    api = Api()
    post(api)
    assert post(api, order={**ORDER, "product_id": "none"}).body["type"] == "/problems/idempotency-key-reused"


@pytest.mark.parametrize(
    "body",
    [
        b'{ "quantity": 2,\n "product_id": "apple", "customer_id": "cust-1" }',
        rb'{"customer_id":"cust-1","product_id":"\u0061pple","quantity":2}',
        b'{"customer_id":"cust-1","items":[{"quantity":2,"product_id":"apple"}]}',
    ],
)
def test_the_formatting_of_a_request_does_not_matter(body: bytes) -> None:
    api = Api()
    assert post(api).body == post(api, body=body).body


def test_a_key_belongs_to_its_customer() -> None:
    api = Api()
    first, other = post(api), post(api, order={**ORDER, "customer_id": "cust-2"})
    assert first.body["order_id"] != other.body["order_id"]


def test_a_refusal_uses_up_no_key() -> None:
    api = Api()
    assert post(api, order={**ORDER, "product_id": "none"}).status == 422
    assert post(api, order={**ORDER, "expected_amount": 1}).status == 409
    assert post(api).status == 202


@pytest.mark.parametrize("key", ["", "a b", "\x7f", "\xe9", "k" * (IDEMPOTENCY_KEY_CHARS_MAX + 1)])
def test_an_invalid_key_is_refused(key: str) -> None:
    assert post(Api(), key).status == 400


@pytest.mark.parametrize("key", ["!", "~" * IDEMPOTENCY_KEY_CHARS_MAX, '"quoted"'])
def test_any_visible_ascii_is_a_key(key: str) -> None:
    assert post(Api(), key).status == 202


def test_without_the_database_only_keyed_orders_get_503() -> None:
    api = Api(requests=FakeRequests(away=True))
    answer = post(api)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    unkeyed = api.post(json.dumps(ORDER).encode())
    assert unkeyed is not None
    assert unkeyed.status == 202


def test_a_stored_order_whose_publishing_failed_is_published_by_the_next_request() -> None:
    stored: Stored = {}
    unknown = ProblemError(problem.unavailable("nobody knows", retry_after_s=10, order_id="the-order"))
    failed = post(restarted(stored, FakeLog(fails=unknown)))
    assert (failed.status, failed.body["order_id"], failed.headers["retry-after"]) == (503, "the-order", "1")
    assert "same key" in failed.body["detail"]
    log = FakeLog()
    answer = post(restarted(stored, log))
    assert answer.status == 202
    assert log.values == [stored["cust-1", "key-1"].event]


def test_an_order_known_to_be_in_the_log_is_not_published_again() -> None:
    api = Api()
    order_id = OrderId(post(api).body["order_id"])
    api.recent.remember(order_id, api.log.values[0], PLACE)
    assert post(api).status == 202
    key = ("cust-1", "key-1")
    stored = {key: api.requests.stored[key]._replace(in_log=True)}
    log = FakeLog()
    assert post(restarted(stored, log)).status == 202
    assert (len(api.log.values), log.values) == (1, [])
