"""The OpenAPI 3.1 description of the order api, made from the types that decode its requests and encode its answers."""

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import msgspec

from common.http.bodies import BODY_BYTES_MAX
from common.http.parameters import IDEMPOTENCY_KEY_CHARS_MAX
from order.api.place.keyed_requests import KEYS_KEPT_S
from order.api.place.many import BATCH_BYTES_MAX, LINES_MAX, NDJSON
from order.api.read.outcomes import WAIT_S_MAX
from order.api.requests import BatchLine, OrderRequest, PageRequest
from order.api.responses import Accepted, BatchResult, CancelRequested, OrderPage, OrderView, TimelineEntry

_TYPES = (OrderRequest, BatchLine, Accepted, BatchResult, OrderView, TimelineEntry, OrderPage, CancelRequested)
_PROBLEMS = {
    400: "the body is not JSON, or the idempotency key is not one",
    404: "there is no such order",
    409: "the price has changed, or the order cannot be cancelled any more",
    413: f"the body is over {BODY_BYTES_MAX} bytes (a batch: {BATCH_BYTES_MAX} bytes or {LINES_MAX} lines)",
    415: "the content type is not the one that is taken",
    422: "fields are at fault, each named with a pointer; or the idempotency key came before with another order",
    503: "not now; Retry-After says when. With an order_id the outcome is unknown: ask for that order, or send the "
    "request again with its idempotency key",
}
_RETRIES = (
    "A client that gets no answer, or a 5xx, cannot know whether its order was accepted. With an Idempotency-Key it "
    "sends the request again until it is answered otherwise, and orders once. Without one it cannot retry safely."
)
_ORDER_ID = {
    "name": "order_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "the same key and body are the same order, at the price of the first request; the answer to a "
    f"repeat says Idempotency-Replayed: true. The key is its customer's, and is kept {KEYS_KEPT_S // 86_400} days",
    "schema": {"type": "string", "pattern": f"^[!-~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}$"},
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": f"wait=N (RFC 7240): answer when the order is decided, within N seconds, at most {WAIT_S_MAX}; the "
    "answer says Preference-Applied",
    "schema": {"type": "string"},
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "the id of the last event that was received: the stream goes on after it",
    "schema": {"type": "string"},
}
_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}
_NDJSON = tuple(kind.decode() for kind in NDJSON)


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
                    {202: Accepted, 200: OrderView},
                    (400, 409, 413, 415, 422, 503),
                    description=f"{_RETRIES} 200 instead of 202 comes only with Prefer: wait.",
                    parameters=[_IDEMPOTENCY_KEY, _PREFER],
                    requestBody={"required": True, "content": _content(OrderRequest)},
                ),
                "get": _operation(
                    "List a customer's orders, newest first",
                    {200: OrderPage},
                    (422, 503),
                    parameters=_page_parameters(),
                ),
            },
            "/api/v1/orders/batch": {
                "post": _operation(
                    f"Place up to {LINES_MAX} orders, one a line, each accepted or refused for itself",
                    {},
                    (413, 415, 503),
                    {200: ("a result for each line that is not blank, in order", _content(BatchResult, _NDJSON[0]))},
                    description=f"{_RETRIES} That holds for each line, which can have an idempotency_key.",
                    requestBody={"required": True, "content": _contents(BatchLine, _NDJSON)},
                )
            },
            "/api/v1/orders/{order_id}": {
                "get": _operation("Look an order up", {200: OrderView}, (404, 503), parameters=[_ORDER_ID])
            },
            "/api/v1/orders/{order_id}/events": {
                "get": _operation(
                    "Server-sent events until the order is settled: its timeline's entries by name, then `settled`",
                    {},
                    (404, 503),
                    {
                        200: ("the data of an entry is a TimelineEntry, of `settled` an OrderView", _STREAM),
                        204: ("Last-Event-ID is the end: there is nothing to come back for", {}),
                    },
                    parameters=[_ORDER_ID, _LAST_EVENT_ID],
                )
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


def _contents(kind: type, media_types: Iterable[str]) -> dict[str, Any]:
    return {name: schema for media_type in media_types for name, schema in _content(kind, media_type).items()}


def _operation(
    summary: str,
    answers: dict[int, type],
    problems: tuple[int, ...],
    others: Mapping[int, tuple[str, dict[str, Any]]] = MappingProxyType({}),
    **more: Any,
) -> dict[str, Any]:
    """`answers` by status are JSON; `others` are a description and a content each."""
    responses: dict[str, Any] = {
        str(status): {"description": (kind.__doc__ or "").partition("\n")[0], "content": _content(kind)}
        for status, kind in answers.items()
    }
    for status, (description, other) in others.items():
        responses[str(status)] = {"description": description, **({"content": other} if other else {})}
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
