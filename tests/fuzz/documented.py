"""Hooks of schemathesis: data that exists, the formats of its own that it does not know, and checks that it lacks.

It finds undocumented statuses, media types and violated schemas by itself. Added here: no header and no field is
undocumented, each problem document says what its head says, and whatever is accepted is allowed by the document. (Its
own check of the last passes over a number that is out of bounds if it stands in a query beside a valid parameter.)
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import schemathesis
from jsonschema_rs import Draft202012Validator
from schemathesis import Case, CheckContext, HookContext, Response

from common.events import IDENTIFIER_PATTERN
from ops.contract.schemas import pointed_at

CUSTOMER: Final = "cust-000001"
PRODUCT: Final = "sku-0001"
KNOWN: Final = {"customer_id": CUSTOMER, "product_id": PRODUCT}
"""What the examples of the documents name, and what every generated name becomes, so that most of it is found."""
NDJSON: Final = ("application/x-ndjson", "application/jsonl")
NOT_OF_OPENAPI: Final = frozenset({"connection", "content-length", "content-type", "date", "transfer-encoding"})
"""Headers of the connection and of the content: OpenAPI describes the latter by its media types."""
_IDENTIFIER: Final = re.compile(IDENTIFIER_PATTERN)


def with_known_names(value: Any) -> Any:
    """The same, with names that exist in the place of others. What is no name stays what it is."""
    if isinstance(value, list):
        return [with_known_names(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    return {
        name: KNOWN[name]
        if name in KNOWN and isinstance(each, str) and _IDENTIFIER.match(each)
        else with_known_names(each)
        for name, each in value.items()
    }


@schemathesis.hook
def map_body(_: HookContext, body: Any) -> Any:
    return with_known_names(body)


@schemathesis.hook
def map_path_parameters(_: HookContext, path_parameters: Any) -> Any:
    return with_known_names(path_parameters)


@schemathesis.hook
def map_query(_: HookContext, query: Any) -> Any:
    return with_known_names(query)


@schemathesis.serializer(*NDJSON)
def serialize_lines(_: Any, value: Any) -> Any:
    """A line of JSON, or what is sent instead of one."""
    return value if isinstance(value, bytes) else msgspec.json.encode(value)


@schemathesis.check
def headers_are_documented(_: CheckContext, response: Response, case: Case[Any]) -> None:
    described = resolved(documented_response(case, response), document_of(case))
    documented = {name.lower() for name in described.get("headers", {})}
    undocumented = {name.lower() for name in response.headers} - documented - NOT_OF_OPENAPI
    assert not undocumented, f"undocumented headers of a {response.status_code}: {sorted(undocumented)}"


@schemathesis.check
def fields_are_documented(_: CheckContext, response: Response, case: Case[Any]) -> None:
    media_type = (response.headers.get("content-type") or [""])[0].partition(";")[0]
    content = resolved(documented_response(case, response), document_of(case)).get("content", {})
    if media_type not in content or not response.content:
        return
    schema, document = content[media_type]["schema"], document_of(case)
    if media_type in NDJSON:
        lines = [msgspec.json.decode(line) for line in response.content.splitlines()]
    elif media_type.endswith("json"):
        lines = [msgspec.json.decode(response.content)]
    else:
        return
    undocumented = sorted({name for line in lines for name in undocumented_fields(line, schema, document)})
    assert not undocumented, f"undocumented fields of a {response.status_code}: {undocumented}"


@schemathesis.check
def a_problem_says_what_its_head_says(_: CheckContext, response: Response, __: Case[Any]) -> None:
    if response.headers.get("content-type") != ["application/problem+json"] or not response.content:
        return
    problem = msgspec.json.decode(response.content)
    assert problem["status"] == response.status_code
    assert [problem["request_id"]] == response.headers["x-request-id"]
    assert problem["type"] != "/problems/validation" or problem["errors"]


@schemathesis.check
def what_is_accepted_is_allowed(_: CheckContext, response: Response, case: Case[Any]) -> None:
    if response.status_code < 400:
        faults = list(faults_of_request(response, case))
        assert not faults, f"accepted with {response.status_code}, although the document forbids it: {faults}"


def faults_of_request(response: Response, case: Case[Any]) -> Iterator[str]:
    """What the document forbids of the request as it was sent, as far as its schemas say."""
    document, sent = document_of(case), urlsplit(str(response.request.url))
    operation = document["paths"][case.operation.path].get(case.method.lower())
    if operation is None:
        return
    template = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(case.operation.path))
    in_path = re.fullmatch(template, sent.path)
    query = parse_qs(sent.query, keep_blank_values=True)
    for parameter in operation.get("parameters", ()):
        name, schema = parameter["name"], parameter["schema"]
        match parameter["in"]:
            case "query":
                values = query.get(name, [])
            case "path":
                values = [unquote(in_path[name])] if in_path else []
            case _:
                header = response.request.headers.get(name)
                values = [] if header is None else [header.decode("latin-1") if isinstance(header, bytes) else header]
        if len(values) > 1 or (parameter.get("required") and not values):
            yield f"{name} is there {len(values)} times"
        for value in values:
            number = schema.get("type") == "integer" and re.fullmatch("-?[0-9]+", value)
            if not validator(schema, document).is_valid(int(value) if number else value):
                yield f"{name} is {value!r}"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None and not validator(body["schema"], document).is_valid(msgspec.json.decode(sent_body(response))):
        yield f"the body is {sent_body(response)[:200]!r}"


def sent_body(response: Response) -> bytes:
    """The body as it was sent."""
    body = response.request.body
    return body.encode() if isinstance(body, str) else bytes(body or b"")  # type: ignore[arg-type]  # no stream is sent


_validators: Final[dict[bytes, Draft202012Validator]] = {}


def validator(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Draft202012Validator:
    """Made once for each schema: one document is looked at in a run."""
    key = msgspec.json.encode(schema)
    if key not in _validators:
        _validators[key] = Draft202012Validator({**schema, "components": document["components"]})
    return _validators[key]


def document_of(case: Case[Any]) -> Mapping[str, Any]:
    raw: Mapping[str, Any] = case.operation.schema.raw_schema
    return raw


def documented_response(case: Case[Any], response: Response) -> Mapping[str, Any]:
    """How the document describes this answer; `status_code_conformance` complains of one that it does not describe.

    What answers a method that a path does not take is no operation's.
    """
    methods = document_of(case)["paths"][case.operation.path]
    if case.method.lower() not in methods:
        return {"headers": {"x-request-id": {}, "cache-control": {}, "allow": {}}}
    described: Mapping[str, Any] = methods[case.method.lower()]["responses"].get(str(response.status_code), {})
    return described


def resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference stands for, together with what is written beside it."""
    if "$ref" not in schema:
        return schema
    target = pointed_at(document, schema["$ref"])
    return {**resolved(target, document), **{name: value for name, value in schema.items() if name != "$ref"}}


def undocumented_fields(value: Any, schema: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    """The names of fields that the schema does not have. One without properties may have any."""
    if isinstance(value, list):
        for each in value:
            for option in options(schema, document):
                if "items" in option:
                    yield from undocumented_fields(each, option["items"], document)
    if isinstance(value, Mapping):
        described = [option["properties"] for option in options(schema, document) if "properties" in option]
        for name, each in value.items():
            fields = [properties[name] for properties in described if name in properties]
            if described and not fields:
                yield name
            for field in fields[:1]:
                yield from undocumented_fields(each, field, document)


def options(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema, and each of those that it is a union of."""
    if "$ref" in schema:
        beside = {name: value for name, value in schema.items() if name != "$ref"}
        yield from options(resolved({"$ref": schema["$ref"]}, document), document)
        schema = beside
    yield schema
    for kind in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(kind, ()):
            yield from options(option, document)
