"""The OpenAPI documents: valid, whole, and true to the types that decode requests and encode answers."""

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest
from jsonschema_rs import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from common.codec import encode
from common.events import Milliseconds, rfc3339
from common.http import problem
from common.http.contract.operation import Operation
from common.http.contract.service import Contract
from common.http.problem import ProblemError
from common.http.validation import decode_body
from ops.contract.documents import CONTRACTS
from order.api.read.queries import _stored
from order.api.requests import OrderRequest, order_request_decoder
from order.api.responses import OrderView
from tests.unit.orders import order_id

OPERATIONS: Final = [
    pytest.param(operation, id=f"{service} {operation.id}")
    for service, contract in CONTRACTS.items()
    for operation in contract.operations
]
AT = Milliseconds(int(datetime(2026, 11, 23, tzinfo=UTC).timestamp() * 1000))


@pytest.fixture(params=CONTRACTS)
def contract(request: pytest.FixtureRequest) -> Contract:
    return CONTRACTS[request.param]


def described(contract: Contract) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The path, the method and the description of each operation."""
    for path, methods in contract.document()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_the_document_is_valid(contract: Contract) -> None:
    errors = list(OpenAPIV31SpecValidator(contract.document()).iter_errors())
    assert [f"{'/'.join(map(str, error.path))}: {error.message}" for error in errors] == []


def test_every_operation_is_described_with_all_that_any_request_may_be_answered(contract: Contract) -> None:
    everywhere = {str(kind.status) for kind in problem.OF_ANY_REQUEST}
    operations = {(method, path): operation for path, method, operation in described(contract)}
    declared = [operation for operation in contract.operations if operation.documented]
    assert set(operations) == {(o.method.lower(), re.sub(r":\w+\}", "}", o.path)) for o in declared}
    assert len({operation["operationId"] for operation in operations.values()}) == len(declared)
    for operation in operations.values():
        assert set(operation["responses"]) >= everywhere
        for response in operation["responses"].values():
            assert "$ref" in response or "X-Request-Id" in response["headers"]


def test_a_link_leads_to_an_operation_of_the_document(contract: Contract) -> None:
    ids = {operation["operationId"] for _, _, operation in described(contract)}
    links = [
        link["operationId"]
        for _, _, operation in described(contract)
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert set(links) <= ids
    assert ("getOrder" in links) is (contract is CONTRACTS["order"])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_examples_are_of_their_types(operation: Operation) -> None:
    bodies = () if operation.body is None else operation.body.examples.values()
    for example in bodies:
        assert operation.body is not None
        assert decode_body(encode(example), msgspec.json.Decoder(operation.body.kind)) == example
    for answer in operation.all_answers():
        if answer.example is not None:
            assert msgspec.json.decode(encode(answer.example), type=answer.kind) == answer.example


def test_documented_examples_fit_their_schemas(contract: Contract) -> None:
    document = contract.document()
    for _, _, operation in described(contract):
        for content in operation.get("requestBody", {"content": {}})["content"].values():
            for example in content["examples"].values():
                validator(content["schema"], document).validate(example["value"])
        for response in operation["responses"].values():
            for content in response.get("content", {}).values():
                if "example" in content:
                    validator(content["schema"], document).validate(content["example"])


def validator(schema: dict[str, Any], document: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def fits(value: object, schema: dict[str, Any], document: dict[str, Any]) -> bool:
    return validator(schema, document).is_valid(value)


VALUES: Final = {
    "product_id": "sku-1",
    "quantity": 1,
    "items": [{"product_id": "sku-1", "quantity": 1}],
    "expected_amount": 5,
    "surprise": 1,
}


@pytest.mark.parametrize("names", [n for size in range(6) for n in itertools.combinations(VALUES, size)])
def test_the_document_takes_exactly_the_combinations_of_fields_that_the_service_takes(names: tuple[str, ...]) -> None:
    document = CONTRACTS["order"].document()
    order = {"customer_id": "cust-1", **{name: VALUES[name] for name in names}}
    try:
        decode_body(encode(order), order_request_decoder)
        taken = True
    except ProblemError:
        taken = False
    assert fits(order, {"$ref": "#/components/schemas/OrderRequest"}, document) is taken


@pytest.mark.parametrize(
    ("fields", "valid"),
    [
        ({"quantity": 10_000}, True),
        ({"quantity": 10_001}, False),
        ({"quantity": 0}, False),
        ({"quantity": "1"}, False),
        ({"customer_id": "x" * 64}, True),
        ({"customer_id": "x" * 65}, False),
        ({"customer_id": "a b"}, False),
        ({"expected_amount": -1}, False),
    ],
)
def test_limits_are_keywords_of_the_schemas(fields: dict[str, Any], valid: bool) -> None:
    order = {"customer_id": "cust-1", "product_id": "sku-1", "quantity": 1, **fields}
    assert fits(order, {"$ref": "#/components/schemas/OrderRequest"}, CONTRACTS["order"].document()) is valid
    if valid:
        assert isinstance(decode_body(encode(order), order_request_decoder), OrderRequest)
    else:
        with pytest.raises(ProblemError):
            decode_body(encode(order), order_request_decoder)


def types_of(schema: dict[str, Any]) -> set[str]:
    return {member["type"] for member in schema.get("anyOf", [schema])}


def test_an_order_discarded_unread_has_no_amount() -> None:
    row = (
        order_id(1),
        "cust-1",
        "rejected",
        "discarded",
        None,
        None,
        "[]",
        "declined",
        "rejected",
        AT,
        AT,
        AT,
        "[]",
        3,
        "",
    )
    view = _stored(row).view
    assert (view.amount, view.currency, view.placed_at) == (None, None, rfc3339(AT))
    assert msgspec.json.decode(encode(view), type=OrderView) == view
    properties = CONTRACTS["order"].document()["components"]["schemas"]["OrderView"]["properties"]
    assert types_of(properties["amount"]) == {"integer", "null"}
    assert types_of(properties["currency"]) == {"string", "null"}
