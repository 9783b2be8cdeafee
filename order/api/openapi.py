"""The OpenAPI 3.1 description of the order api, made from the types that decode its requests and encode its answers."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import msgspec

from common.http.problem import CONTENT_TYPE, ProblemDocument
from common.http.requests import BODY_BYTES_MAX, IDEMPOTENCY_KEY_CHARS_MAX
from order.api.place.keyed_requests import KEYS_KEPT_S
from order.api.place.many import BYTES_MAX, LINES_MAX, NDJSON
from order.api.place.single import ORDERS_PATH
from order.api.read.outcomes import WAIT_S_MAX
from order.api.requests import LineRequest, OrderRequest, PageRequest
from order.api.responses import Accepted, CancelRequested, LineResult, OrderPage, OrderView, TimelineEntry

_TYPES: Final = (
    OrderRequest, LineRequest, Accepted, LineResult, OrderView, TimelineEntry, OrderPage, CancelRequested,
    ProblemDocument,
)  # fmt: skip
_PROBLEMS: Final = {
    400: "the request is malformed, its body is not JSON, or the idempotency key is not valid",
    403: "the request comes from a page of another host",
    404: "there is no such order",
    409: "the price has changed, or the order can no longer be cancelled",
    413: f"the body is over {BODY_BYTES_MAX} bytes (many orders: {BYTES_MAX} bytes or {LINES_MAX} lines)",
    415: "the content type, its charset or the content coding is not supported",
    417: "an expectation other than 100-continue",
    421: "the process does not answer for this host",
    422: "fields are at fault, each named by a pointer; or the idempotency key came before with another order",
    503: "not now; Retry-After says when. With an order_id the outcome is unknown: ask for that order, or send the "
    "request again with its idempotency key",
}
_OF_ANY_REQUEST: Final = (400, 403, 415, 417, 421)
"""See `common.http.heads`."""
_RETRIES: Final = (
    "A client that gets no answer, or a 5xx, cannot know whether its order was accepted. With an Idempotency-Key it "
    "sends the request again until it is answered otherwise, and orders once. Without one it cannot retry safely."
)
_ORDER_ID: Final = {"name": "order_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


def _header(name: str, description: str, **schema: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


def _key(description: str) -> dict[str, Any]:
    kept = f"The answer to a repeat says Idempotency-Replayed: true. A key is kept {KEYS_KEPT_S // 86_400} days"
    pattern = f"^[!-~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}$"
    return _header("Idempotency-Key", f"{description}. {kept}", pattern=pattern)


_IDEMPOTENCY_KEY: Final = _key(
    "the same key and body are the same order, at the price of the first request. A key belongs to its customer"
)
_MANY_KEY: Final = _key(
    "the same key and lines are the same orders, and other lines are refused with 422. Lines without a key of their "
    "own get theirs from it"
)
_CANCEL_KEY: Final = _key("a repeat gets the first answer, also once the order is cancelled")
_PREFER: Final = _header(
    "Prefer",
    f"wait=N (RFC 7240): answer when the order is decided, within N seconds, at most {WAIT_S_MAX}; the answer says "
    "Preference-Applied",
)
_LAST_EVENT_ID: Final = _header(
    "Last-Event-ID", "the id of the last event that was received: the stream goes on after it"
)
_NDJSON: Final = tuple(kind.decode() for kind in NDJSON)


@cache
def document() -> dict[str, Any]:
    """The document, as JSON's own types."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tandem orders", "version": "1"},
        "paths": {
            ORDERS_PATH: {
                "post": _operation(
                    "Place an order; it is accepted when the log has it",
                    {202: _json(Accepted), 200: _json(OrderView)},
                    (409, 413, 422, 503),
                    description=f"{_RETRIES} 200 instead of 202 comes only with Prefer: wait.",
                    parameters=[_IDEMPOTENCY_KEY, _PREFER],
                    requestBody={"required": True, "content": _content(OrderRequest)},
                ),
                "get": _operation(
                    "List a customer's orders, newest first",
                    {200: _json(OrderPage)},
                    (422, 503),
                    parameters=_page_parameters(),
                ),
            },
            f"{ORDERS_PATH}/batch": {
                "post": _operation(
                    f"Place up to {LINES_MAX} orders, one a line, each accepted or refused by itself",
                    {
                        200: _lines(
                            "at least one order was accepted, or there is no line: a result for each line that is not "
                            "blank"
                        ),
                        422: _lines("no order was accepted, and every line is at fault: a result for each"),
                        503: _lines(
                            "no order was accepted, but some lines may be sent again after Retry-After: a result for "
                            "each; or a problem document, if no line was processed",
                            ProblemDocument,
                        ),
                    },
                    (413,),
                    description=f"{_RETRIES} That holds for each line, which can have an idempotency_key.",
                    parameters=[_MANY_KEY],
                    requestBody={"required": True, "content": _content(LineRequest, _NDJSON)},
                )
            },
            f"{ORDERS_PATH}/{{order_id}}": {
                "get": _operation("Look an order up", {200: _json(OrderView)}, (404, 503), parameters=[_ORDER_ID])
            },
            f"{ORDERS_PATH}/{{order_id}}/events": {
                "get": _operation(
                    "Server-sent events until the order is settled: its timeline's entries by name, then `settled`",
                    {
                        200: {
                            "description": "the data of an entry is a TimelineEntry, of `settled` an OrderView",
                            "content": {"text/event-stream": {"schema": {"type": "string"}}},
                        },
                        204: {"description": "Last-Event-ID is the last event: do not reconnect"},
                    },
                    (404, 503),
                    parameters=[_ORDER_ID, _LAST_EVENT_ID],
                )
            },
            f"{ORDERS_PATH}/{{order_id}}/cancel": {
                "post": _operation(
                    "Ask for an order to be cancelled; a rejection under way wins",
                    {202: _json(CancelRequested)},
                    (404, 409, 503),
                    parameters=[_ORDER_ID, _CANCEL_KEY],
                )
            },
        },
        "components": {"schemas": _schemas(*_TYPES)},
    }


def _schemas(*kinds: type) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    # `\\Z` is Python's end of text; in the regular expressions of JSON Schema (ECMA-262) that is `$`.
    text = msgspec.json.encode(components).replace(rb'\\Z"', b'$"')
    schemas: dict[str, Any] = msgspec.json.decode(text)
    return schemas


def _content(kind: type, media_types: Iterable[str] = ("application/json",)) -> dict[str, Any]:
    return {name: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}} for name in media_types}


def _json(kind: type) -> dict[str, Any]:
    """A response that is described by its type's docstring."""
    return {"description": (kind.__doc__ or "").partition("\n")[0], "content": _content(kind)}


def _lines(description: str, *problem: type) -> dict[str, Any]:
    """A response of a result a line, or of a problem document instead."""
    content = _content(LineResult, _NDJSON[:1])
    for kind in problem:
        content |= _content(kind, (CONTENT_TYPE.decode(),))
    return {"description": description, "content": content}


def _operation(summary: str, responses: dict[int, Any], problems: tuple[int, ...], **members: Any) -> dict[str, Any]:
    for status in sorted({*problems, *_OF_ANY_REQUEST}):
        content = _content(ProblemDocument, (CONTENT_TYPE.decode(),))
        responses[status] = {"description": _PROBLEMS[status], "content": content}
    return {"summary": summary, "responses": {str(status): answer for status, answer in responses.items()}, **members}


def _page_parameters() -> list[dict[str, Any]]:
    schema = _schemas(PageRequest)["PageRequest"]
    return [
        {"name": name, "in": "query", "required": name in schema["required"], "schema": kind}
        for name, kind in schema["properties"].items()
    ]
