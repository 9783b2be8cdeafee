"""The published documents are the code's, and `just contract` finds what breaks a client, a reader or a replay."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from ops.contract import documents, events, http
from ops.contract.__main__ import compare, judge
from ops.contract.documents import ASYNCAPI, VERSION
from ops.contract.schemas import Rooted, allowed_only_by

ORDER: Final = "order.openapi.json"
NEXT: Final = f"v{int(VERSION[1:]) + 1}"


def test_the_published_documents_are_those_of_the_code() -> None:
    """If this fails, `just contract` says what has changed, and whether it breaks anybody."""
    assert [f"{name}: {change}" for name, change in compare(documents.published(), documents.made())] == []
    assert documents.published()[VERSION] == documents.made()


Document = Any
Plant = Callable[[dict[str, Document]], None]


def schema(document: Document, name: str) -> Document:
    return document["components"]["schemas"][name]


def new_required_field(made: dict[str, Document]) -> None:
    for form in schema(made[ORDER], "OrderRequest")["oneOf"]:
        form["properties"]["channel"] = {"type": "string"}
        form["required"].append("channel")


def narrowed_limit(made: dict[str, Document]) -> None:
    for described in made[ORDER]["components"]["schemas"].values():
        if "quantity" in described.get("properties", {}):
            described["properties"]["quantity"] = {"type": "integer", "minimum": 1, "maximum": 9}


def removed_operation(made: dict[str, Document]) -> None:
    del made[ORDER]["paths"]["/api/v1/orders/{order_id}/cancel"]


def removed_answer_field(made: dict[str, Document]) -> None:
    view = schema(made[ORDER], "OrderView")
    del view["properties"]["settled"]
    view["required"] = [name for name in view["required"] if name != "settled"]


def new_status(made: dict[str, Document]) -> None:
    schema(made[ORDER], "OrderView")["properties"]["status"]["enum"].append("shipped")


def problem_renamed(made: dict[str, Document]) -> None:
    made[ORDER] = json.loads(json.dumps(made[ORDER]).replace("/problems/price-changed", "/problems/another-price"))


def problem_moved(made: dict[str, Document]) -> None:
    responses = made[ORDER]["paths"]["/api/v1/orders/{order_id}/cancel"]["post"]["responses"]
    responses["410"] = responses.pop("409")


def header_not_promised(made: dict[str, Document]) -> None:
    del made[ORDER]["paths"]["/api/v1/orders"]["post"]["responses"]["202"]["headers"]["Location"]["required"]


def content_type_changed(made: dict[str, Document]) -> None:
    made[ASYNCAPI]["components"]["messages"]["order.placed"]["contentType"] = "application/avro"


def event_field_removed(made: dict[str, Document]) -> None:
    del schema(made[ASYNCAPI], "Item")["properties"]["unit_price"]
    schema(made[ASYNCAPI], "Item")["required"].remove("unit_price")


def event_field_required(made: dict[str, Document]) -> None:
    schema(made[ASYNCAPI], "OutcomeData")["required"].append("reason")


def new_reason(made: dict[str, Document]) -> None:
    schema(made[ASYNCAPI], "OutcomeData")["properties"]["reason"]["anyOf"][0]["enum"].append("fraud")


def reason_removed(made: dict[str, Document]) -> None:
    schema(made[ASYNCAPI], "OutcomeData")["properties"]["reason"]["anyOf"][0]["enum"].remove("inactive")


def default_changed(made: dict[str, Document]) -> None:
    schema(made[ASYNCAPI], "DeadlineData")["properties"]["deadline_ms"]["default"] = 1


def partitions_changed(made: dict[str, Document]) -> None:
    made[ASYNCAPI]["channels"]["orders"]["bindings"]["kafka"]["partitions"] = 12


def key_changed(made: dict[str, Document]) -> None:
    made[ASYNCAPI]["components"]["messages"]["order.placed"]["bindings"]["kafka"]["key"]["description"] = (
        "the order's id"
    )


def compacted(made: dict[str, Document]) -> None:
    made[ASYNCAPI]["channels"]["orders"]["bindings"]["kafka"]["topicConfiguration"]["cleanup.policy"] = ["compact"]


def products_expire(made: dict[str, Document]) -> None:
    made[ASYNCAPI]["channels"]["products"]["bindings"]["kafka"]["topicConfiguration"]["retention.ms"] = 1000


def moved_base(made: dict[str, Document]) -> None:
    made[ORDER]["servers"] = [{"url": "/v2"}]


def bytes_of_body(made: dict[str, Document], limit: int) -> None:
    made[ORDER]["paths"]["/api/v1/orders/batch"]["post"]["requestBody"]["x-bytes-max"] = limit


def fewer_bytes(made: dict[str, Document]) -> None:
    bytes_of_body(made, 65_536)


def more_bytes(made: dict[str, Document]) -> None:
    bytes_of_body(made, 8_388_608)


def link_removed(made: dict[str, Document]) -> None:
    del made[ORDER]["paths"]["/api/v1/orders"]["post"]["responses"]["202"]["links"]


def correlated_by_another_field(made: dict[str, Document]) -> None:
    made[ASYNCAPI]["components"]["messages"]["order.placed"]["correlationId"]["location"] = "$message.payload#/id"


def event_field_renamed(made: dict[str, Document]) -> None:
    properties = schema(made[ASYNCAPI], "DeadlineData")["properties"]
    properties["deadline"] = properties.pop("deadline_ms")


def event_removed(made: dict[str, Document]) -> None:
    del made[ASYNCAPI]["channels"]["orders"]["messages"]["order.cancelled"]
    del made[ASYNCAPI]["components"]["messages"]["order.cancelled"]


def event_not_sent(made: dict[str, Document]) -> None:
    del made[ASYNCAPI]["operations"]["order-saga-sends-to-outcomes"]["messages"][0]


def service_removed(made: dict[str, Document]) -> None:
    del made["payment.openapi.json"]


BREAKS: Final[dict[Plant, str]] = {
    new_required_field: "channel: an object without it is no longer allowed; this breaks clients",
    narrowed_limit: "quantity: a number over 9 is no longer allowed; this breaks clients",
    removed_operation: "POST /api/v1/orders/{order_id}/cancel: is gone; this breaks clients",
    removed_answer_field: "settled: is gone; this breaks clients",
    new_status: "status: the value 'shipped' may come now; this breaks clients",
    problem_renamed: "POST /api/v1/orders: /problems/price-changed no longer comes; this breaks clients",
    problem_moved: "/problems/not-cancellable comes with 410, it came with 409; this breaks clients",
    header_not_promised: "POST /api/v1/orders: 202 Location: may be absent now; this breaks clients",
    content_type_changed: "order.placed: the content type is application/avro, it was application/cloudevents+json",
    event_field_removed: "order.placed: data.items[].unit_price: is gone; this breaks readers of the older version",
    event_field_required: "order.confirmed: data.reason: an object without it is no longer read; this breaks the",
    new_reason: "order.rejected: data.reason: the value 'fraud' may come now; this breaks readers",
    reason_removed: "order.rejected: data.reason: the value 'inactive' is no longer read; this breaks the replay of",
    default_changed: "order.deadline_passed: data.deadline_ms: absent, it is 1, it was 0; this breaks readers",
    partitions_changed: "topic orders: the number of partitions is 12, it was 6; this breaks readers",
    key_changed: "order.placed: the key is",
    compacted: "topic orders: cleanup.policy is ['compact'], it was ['delete']; this breaks readers",
    products_expire: "topic products: retention.ms is 1000, it was None; this breaks readers",
    event_not_sent: "order-saga-sends-to-outcomes: no longer sends order.confirmed; this breaks readers",
    service_removed: "payment.openapi.json: is gone; this breaks everyone",
    moved_base: "order.openapi.json: /: has other 'servers', which are not compared; this breaks clients",
    fewer_bytes: "body application/x-ndjson: may have 65536 bytes, it was 4194304; this breaks clients",
    link_removed: "POST /api/v1/orders: 202 getOrder: no longer comes; this breaks clients",
    correlated_by_another_field: "order.placed: has other 'correlationId', which are not compared; this breaks readers",
    event_field_renamed: "data.deadline_ms: is gone; this breaks readers of the older version, and the replay of",
    event_removed: "topic orders: order.cancelled: is gone; this breaks readers of the older version, and the replay",
}


@pytest.mark.parametrize("plant", BREAKS, ids=lambda plant: plant.__name__)
def test_what_breaks_somebody_is_found(plant: Plant, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = documents.made()
    documents.publish(made, tmp_path)
    plant(made)
    assert judge(made, tmp_path, publish=True) == 1
    printed = capsys.readouterr().out
    assert BREAKS[plant] in printed
    assert documents.published(tmp_path)[VERSION] == documents.made(), "nothing was published"


def new_optional_field(made: dict[str, Document]) -> None:
    for form in schema(made[ORDER], "OrderRequest")["oneOf"]:
        form["properties"]["note"] = {"type": "string"}


def new_answer_field(made: dict[str, Document]) -> None:
    schema(made[ORDER], "OrderView")["properties"]["weight"] = {"type": "integer"}


def new_event_field(made: dict[str, Document]) -> None:
    schema(made[ASYNCAPI], "PlacedData")["properties"]["note"] = {"type": "string", "default": ""}


def new_topic(made: dict[str, Document]) -> None:
    made[ASYNCAPI]["channels"]["refunds"] = {**made[ASYNCAPI]["channels"]["payments"], "messages": {}}


def other_words(made: dict[str, Document]) -> None:
    made[ASYNCAPI]["info"]["description"] = "Events."


ADDS: Final[dict[Plant, str]] = {
    new_optional_field: "note: is new\n",
    new_answer_field: "weight: is new\n",
    new_event_field: "order.placed: data.note: is new\n",
    new_topic: "topic refunds: is new\n",
    more_bytes: "body application/jsonl: may have 8388608 bytes, it was 4194304\n",
    other_words: "descriptions or examples changed\n",
}


@pytest.mark.parametrize("plant", ADDS, ids=lambda plant: plant.__name__)
def test_what_only_adds_can_be_published(plant: Plant, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = documents.made()
    documents.publish(made, tmp_path)
    plant(made)
    assert judge(made, tmp_path, publish=False) == 0
    assert ADDS[plant] in capsys.readouterr().out
    assert documents.published(tmp_path)[VERSION] == documents.made()
    assert judge(made, tmp_path, publish=True) == 0
    assert documents.published(tmp_path)[VERSION] == made
    assert judge(made, tmp_path, publish=False) == 0
    assert "as published" in capsys.readouterr().out


def test_a_new_version_may_break_readers_but_not_the_replay_of_older_logs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = documents.made()
    documents.publish(made, tmp_path)
    monkeypatch.setattr(documents, "VERSION", NEXT)
    removed_answer_field(made)
    new_reason(made)
    assert judge(made, tmp_path, publish=True) == 0
    assert list(documents.published(tmp_path)) == [VERSION, NEXT]
    capsys.readouterr()
    reason_removed(made)
    assert judge(made, tmp_path, publish=True) == 1
    assert (
        f"{VERSION}/asyncapi.json: order.rejected: data.reason: the value 'inactive' is no longer read"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("plant", [event_field_renamed, default_changed], ids=lambda plant: plant.__name__)
def test_what_an_old_log_says_keeps_its_meaning_in_every_version(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = documents.made()
    documents.publish(made, tmp_path)
    monkeypatch.setattr(documents, "VERSION", NEXT)
    plant(made)
    assert judge(made, tmp_path, publish=True) == 1
    assert f"{VERSION}/asyncapi.json: order.deadline_passed: data.deadline_ms" in capsys.readouterr().out


SCHEMAS: Final[tuple[tuple[Document, Document, list[str]], ...]] = (
    ({"type": "integer"}, {"type": "number"}, []),
    ({"type": "number"}, {"type": "integer"}, ["a value of type number"]),
    ({"type": "string"}, {"type": "string", "maxLength": 3}, ["a text of length over 3"]),
    ({"type": "string", "maxLength": 2}, {"type": "string", "maxLength": 3}, []),
    ({"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1}, ["a number under 1"]),
    ({"type": "integer"}, {"type": "integer", "minimum": 1}, ["a number under 1"]),
    ({"enum": [3, 4]}, {"type": "integer", "maximum": 3}, ["the value 4"]),
    ({"enum": ["a", "b"]}, {"enum": ["b", "c"]}, ["the value 'a'"]),
    ({"enum": ["a"]}, {"type": "string"}, []),
    ({"enum": ["a"]}, {"type": "string", "minLength": 2}, ["the value 'a'"]),
    ({"type": "string"}, {"enum": ["a"]}, ["other values than 'a'"]),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string"}, ["a value of type null"]),
    ({"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, []),
    ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, []),
    ({"type": "string", "pattern": "^a$"}, {"type": "string", "pattern": "^b$"}, ["a text that does not match ^b$"]),
    (
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "null"}},
        ["a value of type string"],
    ),
    ({"type": "object"}, {"type": "object", "required": ["a"]}, ["an object without it"]),
    ({"type": "object"}, {"type": "object", "additionalProperties": False}, ["an object with further properties"]),
    (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
        {"type": "object", "additionalProperties": False},
        ["an object with it"],
    ),
    ({}, {"type": "string"}, ["any value"]),
    ({"type": "string"}, {}, []),
    (
        {"type": "string"},
        {"type": "string", "multipleOf": 3},
        ["something else by the keyword 'multipleOf', which is not compared"],
    ),
    ({"type": "string", "description": "a"}, {"type": "string", "title": "b"}, []),
    ({"type": "string"}, {"type": "string", "format": "uuid"}, ["what is not of the format 'uuid'"]),
    ({"type": "string", "format": "uuid"}, {"type": "string", "format": "date"}, ["what is not of the format 'date'"]),
    ({"type": "string", "format": "uuid"}, {"type": "string"}, []),
)


@pytest.mark.parametrize(("wide", "narrow", "refused"), SCHEMAS)
def test_schemas_are_compared(wide: Document, narrow: Document, refused: list[str]) -> None:
    assert [values for _, values in allowed_only_by(Rooted(wide, {}), Rooted(narrow, {}))] == refused


def test_a_schema_within_itself_is_compared() -> None:
    tree: Document = {"T": {"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#/T"}}}}}
    limited = copy.deepcopy(tree)
    limited["T"]["properties"]["below"]["maxItems"] = 2
    root = {"$ref": "#/T"}
    assert list(allowed_only_by(Rooted(root, tree), Rooted(root, limited))) == [("below", "a list of length over 2")]
    assert [path for path, _ in Rooted(root, tree).properties()] == ["below"]


def test_the_values_of_a_map_have_properties() -> None:
    stock = {"type": "object", "additionalProperties": {"type": "object", "properties": {"on_hand": {}}}}
    assert [path for path, _ in Rooted(stock, {}).properties()] == ["*.on_hand"]


def operation(**members: Document) -> Document:
    return {
        "paths": {"/a": {"post": {"responses": {"200": {"content": {"application/json": {"schema": {}}}}}, **members}}}
    }


QUERY: Final = {"name": "n", "in": "query"}
TEXT: Final[Document] = {"required": True, "content": {"text/plain": {}}}
HTTP: Final[tuple[tuple[Document, Document, list[str]], ...]] = (
    (
        operation(),
        operation(parameters=[{**QUERY, "required": True}]),
        ["POST /a: query parameter n: is new, and required; this breaks clients"],
    ),
    (
        operation(parameters=[QUERY]),
        operation(parameters=[{**QUERY, "required": True}]),
        ["POST /a: query parameter n: is required now; this breaks clients"],
    ),
    (operation(), operation(parameters=[QUERY]), ["POST /a: query parameter n: is new"]),
    (
        operation(parameters=[QUERY]),
        operation(),
        ["POST /a: query parameter n: is no longer taken; this breaks clients"],
    ),
    (
        operation(),
        operation(requestBody=TEXT),
        ["POST /a: body text/plain: is new, and required; this breaks clients"],
    ),
    (
        operation(requestBody=TEXT),
        operation(requestBody={"required": True, "content": {**TEXT["content"], "text/csv": {}}}),
        ["POST /a: body text/csv: is new"],
    ),
    (
        operation(responses={"200": {}}),
        operation(responses={"200": {}, "204": {}}),
        ["POST /a: 204: may come now; this breaks clients"],
    ),
    (operation(responses={"200": {}}), operation(responses={"200": {}, "418": {}}), ["POST /a: 418: may come now"]),
    (
        operation(),
        operation(responses={"200": {}}),
        ["POST /a: 200 application/json: no longer comes; this breaks clients"],
    ),
    (
        operation(responses={"200": {"headers": {"Location": {}}}}),
        operation(responses={"200": {}}),
        ["POST /a: 200 Location: no longer comes; this breaks clients"],
    ),
    (
        operation(),
        operation(security=[{"bearer": []}]),
        ["POST /a: takes callers with [{'bearer': []}], it took [{}]; this breaks clients"],
    ),
    (
        operation(security=[{"bearer": []}]),
        operation(),
        ["POST /a: takes callers with [{}], it took [{'bearer': []}]"],
    ),
    (
        operation(operationId="placeOrder"),
        operation(operationId="place"),
        ["POST /a: is named place, it was placeOrder; this breaks generated clients"],
    ),
    (
        operation(parameters=[{**QUERY, "schema": {"type": "integer", "default": 50}}]),
        operation(parameters=[{**QUERY, "schema": {"type": "integer", "default": 20}}]),
        ["POST /a: query parameter n: absent, it is 20, it was 50; this breaks clients"],
    ),
    (
        operation(parameters=[{**QUERY, "explode": True}]),
        operation(parameters=[{**QUERY, "explode": False, "description": "Numbers."}]),
        ["POST /a: query parameter n: has other 'explode', which are not compared; this breaks clients"],
    ),
    (
        operation(responses={"200": {"content": {"multipart/form-data": {"encoding": {"a": {}}}}}}),
        operation(responses={"200": {"content": {"multipart/form-data": {}}}}),
        ["POST /a: 200 multipart/form-data: has other 'encoding', which are not compared; this breaks clients"],
    ),
    (
        operation(),
        operation(servers=[{"url": "/v2"}]),
        ["POST /a: has other 'servers', which are not compared; this breaks clients"],
    ),
)


@pytest.mark.parametrize(("old", "new", "said"), HTTP)
def test_operations_are_compared(old: Document, new: Document, said: list[str]) -> None:
    assert [str(change) for change in http.changes(old, new)] == said


def test_a_new_event_on_a_topic_breaks_its_older_readers() -> None:
    old = documents.made()[ASYNCAPI]
    new = copy.deepcopy(old)
    new["channels"]["orders"]["messages"]["order.shipped"] = {"$ref": "#/components/messages/order.placed"}
    [change] = [change for change in events.changes(old, new) if change.breaks]
    assert str(change).startswith("topic orders: order.shipped: is new; a reader that does not know it parks it")
