import json
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from common.events import ITEMS_MAX, QUANTITY_MAX, UNIT_PRICE_MAX, OrderId, PlacedData, ProductData
from common.http import problem
from common.http.problem import Problem, ProblemError
from common.http.requests import BODY_BYTES_MAX
from order.api.place.desk import price
from order.api.requests import OrderLine, OrderRequest
from tests.unit.order_api import JSON, PRODUCTS, Answer, Api, FakeLog, product

ORDER_ID = OrderId("01997c00-0000-7000-8000-000000000001")
HEADERS = JSON


def order(*lines: tuple[str, int], expected: int | None = None) -> OrderRequest:
    items = tuple(OrderLine(product_id, quantity) for product_id, quantity in lines)
    return OrderRequest(customer_id="cust-1", items=items, expected_amount=UNSET if expected is None else expected)


def refusal(request: OrderRequest) -> Problem:
    with pytest.raises(ProblemError) as caught:
        price(request, PRODUCTS, ORDER_ID)
    return caught.value.problem


def test_an_order_costs_what_its_lines_cost_now() -> None:
    placed = price(order(("apple", 2), ("pear", 3), ("apple", 1)), PRODUCTS, ORDER_ID)
    assert (placed.amount, placed.currency, placed.customer_id) == (3 * 150 + 3 * 250, "EUR", "cust-1")
    assert [(i.product_id, i.quantity, i.unit_price) for i in placed.items] == [
        ("apple", 2, 150),
        ("pear", 3, 250),
        ("apple", 1, 150),
    ]


@given(
    st.lists(st.tuples(st.integers(0, UNIT_PRICE_MAX), st.integers(1, QUANTITY_MAX)), min_size=1, max_size=ITEMS_MAX)
)
def test_every_order_that_is_priced_is_an_event_that_consumers_accept(lines: list[tuple[int, int]]) -> None:
    products = {f"p{n}": product(f"p{n}", unit_price) for n, (unit_price, _) in enumerate(lines)}
    placed = price(order(*((f"p{n}", quantity) for n, (_, quantity) in enumerate(lines))), products, ORDER_ID)
    assert placed.amount == sum(unit_price * quantity for unit_price, quantity in lines)
    assert msgspec.json.decode(msgspec.json.encode(placed), type=PlacedData) == placed


def test_every_line_that_cannot_be_ordered_is_named() -> None:
    problem = refusal(order(("none", 1), ("apple", 1), ("old", 1)))
    assert problem.status == 422
    assert {fault.pointer: fault.detail for fault in problem.errors} == {
        "#/items/0/product_id": "there is no product 'none'",
        "#/items/2/product_id": "'old' is not for sale now",
    }


def test_the_product_of_the_short_form_is_pointed_at_where_it_stands() -> None:
    problem = refusal(OrderRequest(customer_id="cust-1", product_id="none", quantity=1))
    assert [fault.pointer for fault in problem.errors] == ["#/product_id"]


def test_an_order_has_one_currency() -> None:
    problem = refusal(order(("apple", 1), ("dollar", 1), ("pear", 1)))
    assert [(fault.pointer, fault.detail) for fault in problem.errors] == [
        ("#/items/1/product_id", "costs USD, must be EUR like the first line")
    ]


def test_an_unexpected_price_is_refused_with_both_figures() -> None:
    problem = refusal(order(("apple", 2), expected=299))
    assert (problem.status, problem.code) == (409, "price-changed")
    assert "300" in problem.detail
    assert "299" in problem.detail
    assert price(order(("apple", 2), expected=300), PRODUCTS, ORDER_ID).amount == 300


def post(
    *chunks: bytes,
    log: FakeLog | None = None,
    products: Mapping[str, ProductData] = PRODUCTS,
    headers: Mapping[str, str] = HEADERS,
) -> tuple[Answer, FakeLog]:
    api = Api(log, products=products)
    answer = api.post(*chunks, headers=headers)
    assert answer is not None
    assert answer.headers["x-request-id"]
    return answer, api.log


ORDER = b'{"customer_id":"cust-1","product_id":"apple","quantity":2}'


def test_an_accepted_order_is_in_the_log_and_answered_with_its_location() -> None:
    answer, log = post(ORDER, headers={**HEADERS, "x-request-id": "mine"})
    [event] = log.placed
    assert answer.status == 202
    assert answer.body == {"order_id": event.subject, "status": "pending", "amount": 300, "currency": "EUR"}
    assert answer.headers["location"] == f"/api/v1/orders/{event.subject}"
    assert answer.headers["x-request-id"] == "mine"
    assert (event.partitionkey, event.data.customer_id, event.data.order_id) == ("cust-1", "cust-1", event.subject)
    digits = event.subject.replace("-", "")
    assert event.traceparent == f"00-{digits}-{digits[16:]}-00"


def test_the_trace_of_the_request_is_the_trace_of_the_order() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    _, log = post(ORDER, headers={**HEADERS, "traceparent": trace})
    assert log.placed[0].traceparent == trace


def test_a_body_in_pieces_is_one_body() -> None:
    answer, log = post(ORDER[:10], ORDER[10:20], ORDER[20:])
    assert answer.status == 202
    assert len(log.placed) == 1


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", HEADERS, 400),
        (b"{}", HEADERS, 422),
        (b" " * (BODY_BYTES_MAX + 1), HEADERS, 413),
        (ORDER, {"content-type": "text/plain"}, 415),
    ],
)
def test_a_body_that_is_not_an_order_is_refused_and_not_sent(
    body: bytes, headers: Mapping[str, str], status: int
) -> None:
    answer, log = post(body, headers=headers)
    assert answer.status == answer.body["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["request_id"] == answer.headers["x-request-id"]
    assert log.placed == []


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_content_type_may_say_more(kind: str) -> None:
    assert post(ORDER, headers={"content-type": kind})[0].status == 202


def test_a_body_that_never_ends_is_refused_at_the_limit() -> None:
    answer = Api().post(*[b" " * 1_024] * (BODY_BYTES_MAX // 1_024 + 1), gone=True)
    assert answer is not None
    assert answer.status == 413


def test_no_answer_is_sent_when_the_client_has_gone() -> None:
    api = Api()
    assert api.post(ORDER[:5], gone=True) is None
    assert api.log.placed == []


def test_before_the_catalogue_is_read_orders_get_503() -> None:
    answer, _ = post(ORDER, products={})
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"


def test_a_refusal_does_not_wait_for_the_body() -> None:
    answer, _ = post(log=FakeLog(refused=problem.unavailable("full")))
    assert (answer.status, answer.body["detail"]) == (503, "full")


def test_an_unknown_outcome_names_the_order_to_ask_for() -> None:
    unknown = ProblemError(problem.unavailable("nobody knows", retry_after_s=10, order_id=ORDER_ID))
    answer, _ = post(ORDER, log=FakeLog(fails=unknown))
    assert (answer.status, answer.headers["retry-after"], answer.body["order_id"]) == (503, "10", ORDER_ID)


def test_an_unexpected_error_is_a_problem_document_too() -> None:
    answer, _ = post(ORDER, log=FakeLog(fails=RuntimeError("bug")))
    assert answer.status == 500
    assert "bug" not in json.dumps(answer.body)


@pytest.mark.parametrize("key", [None, "basket-17"])
def test_a_customer_orders_in_their_own_name_only(key: str | None) -> None:
    api = Api()
    headers = JSON if key is None else {**JSON, "idempotency-key": key}
    refused = api.post(ORDER, headers=headers, customer="cust-2")
    assert refused is not None
    assert (refused.status, refused.body["type"]) == (403, "/problems/forbidden")
    assert refused.body["detail"].endswith("customer_id must be 'cust-2'")
    assert (api.log.placed, api.requests.stored) == ([], {})
    accepted = api.post(ORDER, headers=headers, customer="cust-1")
    assert accepted is not None
    assert accepted.status == 202
