import json
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from common.http.problem import FieldError, ProblemError
from common.http.validation import decode_body, decode_query
from inventory.app import _product_decoder
from inventory.operations import ProductsQuery
from order.api.requests import (
    OrderLine,
    PageRequest,
    cursor_after,
    line_decoder,
    order_before,
    order_id_in,
    order_request_decoder,
)
from payment.app import _deposit_decoder
from payment.operations import LedgerQuery

ORDER_ID = "01997c00-5a5a-7000-8000-00000000beef"
SINGLE = {"customer_id": "cust-1", "product_id": "sku-1", "quantity": 2}
LISTED = {"customer_id": "cust-1", "items": [{"product_id": "sku-1", "quantity": 2}]}


def faults(body: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ProblemError) as caught:
        decode_body(json.dumps(body).encode(), order_request_decoder)
    assert caught.value.problem.status == 422
    return {fault.pointer: fault.detail for fault in caught.value.problem.errors}


def test_both_forms_give_the_same_lines() -> None:
    for body in (SINGLE, LISTED):
        request = decode_body(json.dumps(body).encode(), order_request_decoder)
        assert request.lines == (OrderLine("sku-1", 2),)


def test_two_lines_of_a_product_stay_two() -> None:
    request = decode_body(json.dumps({**LISTED, "items": LISTED["items"] * 2}).encode(), order_request_decoder)  # type: ignore[operator]
    assert request.lines == (OrderLine("sku-1", 2), OrderLine("sku-1", 2))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"customer_id": "c"}, {"#": "must have either product_id and quantity, or items"}),
        (
            {**LISTED, **SINGLE},
            {"#/product_id": "must not stand beside items", "#/quantity": "must not stand beside items"},
        ),
        ({**LISTED, "quantity": 1}, {"#/quantity": "must not stand beside items"}),
        ({"customer_id": "c", "product_id": "p"}, {"#/quantity": "is required unless there are items"}),
        ({"customer_id": "c", "quantity": 1}, {"#/product_id": "is required unless there are items"}),
        ({**SINGLE, "price": 1}, {"#/price": "is not a known field"}),
        ({**SINGLE, "quantity": 0}, {"#/quantity": "must be from 1 to 10000"}),
        ({**SINGLE, "quantity": 10_001}, {"#/quantity": "must be from 1 to 10000"}),
        ({**SINGLE, "quantity": 1.0}, {"#/quantity": "must be a whole number from 1 to 10000"}),
        ({**SINGLE, "expected_amount": -1}, {"#/expected_amount": "must be from 0 to 1000000000000000"}),
        ({**SINGLE, "customer_id": ""}, {"#/customer_id": "must be 1 to 64 of A-Z a-z 0-9 . _ : -"}),
        ({**SINGLE, "customer_id": "a\n"}, {"#/customer_id": "must be 1 to 64 of A-Z a-z 0-9 . _ : -"}),
        ({**SINGLE, "customer_id": "a\0"}, {"#/customer_id": "must be 1 to 64 of A-Z a-z 0-9 . _ : -"}),
        ({**SINGLE, "customer_id": "é"}, {"#/customer_id": "must be 1 to 64 of A-Z a-z 0-9 . _ : -"}),
        ({**LISTED, "items": []}, {"#/items": "must have from 1 to 100 entries"}),
        ({**LISTED, "items": LISTED["items"] * 101}, {"#/items": "must have from 1 to 100 entries"}),  # type: ignore[operator]
    ],
)
def test_every_fault_is_named(body: dict[str, Any], expected: dict[str, str]) -> None:
    assert faults(body) == expected


def test_a_fault_of_the_form_does_not_hide_those_of_the_fields() -> None:
    assert set(faults({"customer_id": 5, "items": [{"quantity": 0}], "quantity": "x"})) == {
        "#/customer_id",
        "#/items/0/product_id",
        "#/items/0/quantity",
        "#/quantity",
    }


@given(st.uuids())
def test_a_cursor_leads_back_to_its_order(order_id: uuid.UUID) -> None:
    cursor = cursor_after(str(order_id))
    assert order_before(cursor) == str(order_id)
    assert decode_query({"customer_id": "c", "cursor": cursor}, PageRequest).cursor == cursor


@given(st.from_regex(r"\A[A-Za-z0-9_-]{22}\Z"))
def test_every_accepted_cursor_stands_for_an_id(cursor: str) -> None:
    assert order_id_in(order_before(cursor)) == order_before(cursor)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"customer_id": "a b"},
        {"customer_id": "c", "status": "awaiting_placed"},
        {"customer_id": "c", "limit": "101"},
        {"customer_id": "c", "cursor": "short"},
        {"customer_id": "c", "page": "2"},
        {"customer_id": "c", "limit": "5.0"},
        {"customer_id": "c", "limit": "0"},
        {"customer_id": "c", "cursor": "null"},
    ],
)
def test_a_wrong_query_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(ProblemError):
        decode_query(query, PageRequest)


@pytest.mark.parametrize("kind", [PageRequest, LedgerQuery, ProductsQuery])
def test_an_unknown_parameter_is_refused_everywhere(kind: type[msgspec.Struct]) -> None:
    with pytest.raises(ProblemError) as caught:
        decode_query({"customer_id": "c", "limits": "5"} if kind is PageRequest else {"limits": "5"}, kind)
    assert caught.value.problem.status == 422
    assert caught.value.problem.errors == (FieldError("?limits", "is not a known field"),)


@pytest.mark.parametrize("value", ["", "x", "0" * 36, f"{ORDER_ID}\n", "\0" * 36, f"{{{ORDER_ID}}}", "\u212a" * 36])
def test_invalid_order_ids(value: str) -> None:
    assert order_id_in(value) is None


def test_an_order_id_in_upper_case_is_the_same_order() -> None:
    assert order_id_in(ORDER_ID.upper()) == order_id_in(ORDER_ID) == ORDER_ID


def test_a_parameter_that_is_there_twice_is_refused_and_named() -> None:
    with pytest.raises(ProblemError) as caught:
        decode_query(QueryParams("customer_id=a&limit=5&limit=500&customer_id=b"), PageRequest)
    assert [error.pointer for error in caught.value.problem.errors] == ["?customer_id", "?limit"]


@pytest.mark.parametrize(
    ("decoder", "body"),
    [
        (_deposit_decoder, {"amount": 1}),
        (_product_decoder, {"name": "a", "unit_price": 1, "active": True}),
    ],
)
def test_only_money_that_there_is_can_be_named(decoder: "msgspec.json.Decoder[Any]", body: dict[str, object]) -> None:
    for code in ("EUR", "JPY", "XOF", "ZWG", "XCG"):
        decode_body(msgspec.json.encode({**body, "currency": code}), decoder)
    for code in (
        "EUP",
        "XXX",
        "XTS",
        "XAU",
        "XDR",
        "CLF",
        "DEM",
        "HRK",
        "BGN",
        "ZWL",
        "ANG",
        "eur",
        "EUR\n",
        "",
        "EURO",
    ):
        with pytest.raises(ProblemError) as caught:
            decode_body(msgspec.json.encode({**body, "currency": code}), decoder)
        (error,) = caught.value.problem.errors
        assert (error.pointer, "ISO 4217 (List One, 2026-01-01)" in error.detail) == ("#/currency", True)


ONE = '"customer_id":"c:1","product_id":"apple","quantity":1'
TWO = '"customer_id":"c","items":[{"product_id":"a","quantity":1},{"product_id":"b","quantity":2}]'


@pytest.mark.parametrize("rest", ["", ',"expected_amount":5', ',"idempotency_key":"k:1"'])
@pytest.mark.parametrize("body", [ONE, TWO])
def test_a_request_knows_how_many_names_it_has(body: str, rest: str) -> None:
    text = f"{{{body}{rest}}}"
    request = decode_body(text.encode(), line_decoder)
    assert request.names == text.count('":')


REPEATED = (
    ONE + ',"quantity":1000',
    ONE + ', "quantity" : 1',
    ONE + ',"quantit\\u0079":1000',
    '"customer_id":"other",' + TWO,
    TWO.replace("2}", '2,"quantity":9999}'),
)


@pytest.mark.parametrize("body", REPEATED)
def test_a_name_that_is_given_twice_is_refused(body: str) -> None:
    """Which of the two counts, every parser decides for itself."""
    with pytest.raises(ProblemError) as caught:
        decode_body(f"{{{body}}}".encode(), order_request_decoder)
    assert caught.value.problem.status == 422
    assert "is given twice" in caught.value.problem.errors[0].detail
