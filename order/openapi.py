"""The OpenAPI 3.1 description of the order api, made from the types that decode its requests and encode its answers."""

from functools import cache
from typing import Any

import msgspec

from common.server import BODY_BYTES_MAX
from order.requests import OrderRequest, PageRequest
from order.responses import Accepted, CancelRequested, OrderPage, OrderView

_TYPES = (OrderRequest, Accepted, OrderView, OrderPage, CancelRequested)
_PROBLEMS = {
    400: "the body is not JSON",
    404: "there is no such order",
    409: "the price has changed, or the order cannot be cancelled any more",
    413: f"the body is over {BODY_BYTES_MAX} bytes",
    415: "the content type is not application/json",
    422: "fields are at fault, each named with a pointer",
    503: "not now; Retry-After says when. With an order_id the outcome is unknown: ask for that order",
}
_ORDER_ID = {
    "name": "order_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}


@cache
def document() -> dict[str, Any]:
    """The document, as JSON's own types."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tandem orders", "version": "1"},
        "paths": {
            "/api/v1/orders": {
                "post": _operation(
                    "Place an order; it is accepted when the log has it",
                    {202: Accepted},
                    (400, 409, 413, 415, 422, 503),
                    requestBody={"required": True, "content": _content(OrderRequest)},
                ),
                "get": _operation(
                    "List a customer's orders, newest first",
                    {200: OrderPage},
                    (422, 503),
                    parameters=_page_parameters(),
                ),
            },
            "/api/v1/orders/{order_id}": {
                "get": _operation("Look an order up", {200: OrderView}, (404, 503), parameters=[_ORDER_ID])
            },
            "/api/v1/orders/{order_id}/cancel": {
                "post": _operation(
                    "Ask for an order to be cancelled; a rejection under way wins",
                    {202: CancelRequested},
                    (404, 409, 503),
                    parameters=[_ORDER_ID],
                )
            },
        },
        "components": {"schemas": {**_schemas(*_TYPES), "Problem": _PROBLEM}},
    }


_PROBLEM = {
    "description": "RFC 9457",
    "type": "object",
    "required": ["type", "title", "status", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
        "order_id": {"type": "string", "format": "uuid"},
        "request_id": {"type": "string"},
    },
}


def _schemas(*kinds: type) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    # `\\Z` is Python's end of text; in the regular expressions of JSON Schema (ECMA-262) that is `$`.
    text = msgspec.json.encode(components).replace(rb'\\Z"', b'$"')
    schemas: dict[str, Any] = msgspec.json.decode(text)
    return schemas


def _content(kind: type, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _operation(summary: str, answers: dict[int, type], problems: tuple[int, ...], **more: Any) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": (kind.__doc__ or "").partition("\n")[0], "content": _content(kind)}
        for status, kind in answers.items()
    }
    for status in problems:
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        responses[str(status)] = {"description": _PROBLEMS[status], "content": content}
    return {"summary": summary, "responses": responses, **more}


def _page_parameters() -> list[dict[str, Any]]:
    schema = _schemas(PageRequest)["PageRequest"]
    return [
        {"name": name, "in": "query", "required": name in schema["required"], "schema": of}
        for name, of in schema["properties"].items()
    ]
