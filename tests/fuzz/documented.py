"""Hooks of schemathesis: data that exists, the formats of its own that it does not know, and checks that it lacks.

It finds undocumented statuses, media types and violated schemas by itself. Added here: no header and no field is
undocumented, each problem document says what its head says, and whatever the document forbids is refused with the
status for that. (Its own check of the last is content with any refusal, and passes over a number that is out of bounds
if it stands in a query beside a valid parameter.)
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import schemathesis
from jsonschema_rs import Draft202012Validator
from schemathesis import Case, CheckContext, HookContext, Response

from common.currencies import ActiveCurrency
from common.events import Identifier
from common.http.problem import (
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_KEY_REUSED,
    MALFORMED_JSON,
    NOT_FOUND,
    UNSUPPORTED_MEDIA_TYPE,
    VALIDATION,
)
from ops.contract.schemas import pointed_at
from order.api.place.cancel import NOT_CANCELLABLE
from order.api.place.desk import PRICE_CHANGED

CUSTOMER: Final = "cust-000001"
PRODUCT: Final = "sku-0001"
KNOWN: Final = {"customer_id": CUSTOMER, "product_id": PRODUCT, "currency": "EUR"}
"""What the examples of the documents name, and what every generated name becomes, so that most of it is found."""
NDJSON: Final = ("application/x-ndjson", "application/jsonl")
NOT_OF_OPENAPI: Final = frozenset({"connection", "content-length", "content-type", "date", "transfer-encoding"})
"""Headers of the connection and of the content: OpenAPI describes the latter by its media types."""


def with_known_names(value: Any) -> Any:
    """The same, with names that exist in the place of others. What is no name stays what it is, but for 2.0: by its
    schema that is a whole number, and the services want it written as one."""
    if isinstance(value, list):
        return [with_known_names(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, Mapping):
        return value
    return {
        name: KNOWN[name] if name in KNOWN and is_name(name, each) else with_known_names(each)
        for name, each in value.items()
    }


def is_name(field: str, value: Any) -> bool:
    with suppress(msgspec.ValidationError):
        return bool(msgspec.convert(value, ActiveCurrency if field == "currency" else Identifier))
    return False


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
def what_is_allowed_is_accepted(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Or refused for what it meets, which no schema can say."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code < 400:
        return
    types = {kind.uri for kind in MET}
    for problem in problems_of(response):
        assert problem["type"] in types, f"the document allows it, and it was refused: {problem}"


def problems_of(response: Response) -> Iterator[Mapping[str, Any]]:
    """The problem that a request was answered with; of a request of many orders, those of its lines."""
    for line in response.content.splitlines():
        document = msgspec.json.decode(line)
        yield document if "type" in document else document["problem"]


MET: Final = (NOT_FOUND, IDEMPOTENCY_KEY_REUSED, PRICE_CHANGED, NOT_CANCELLABLE)
"""Problems of requests that the document allows."""


@schemathesis.check
def what_is_forbidden_is_refused(_: CheckContext, response: Response, case: Case[Any]) -> None:
    faults = list(faults_of_request(response, case))
    statuses = {fault.status for fault in faults} | ({NOT_FOUND.status} if case.path_parameters else set())
    assert not faults or response.status_code in statuses, (
        f"answered with {response.status_code}, not with {statuses}, although the document forbids it: {faults}"
    )


class Fault(NamedTuple):
    """What the document forbids, and the status with which it is to be refused."""

    what: str
    status: int


REFUSED_WITH: Final = {"query": VALIDATION.status, "path": NOT_FOUND.status, "header": IDEMPOTENCY_KEY.status}


def faults_of_request(response: Response, case: Case[Any]) -> Iterator[Fault]:
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
            yield Fault(f"{name} is there {len(values)} times", REFUSED_WITH[parameter["in"]])
        for value in values:
            if not validator(schema, document).is_valid(typed(value, schema)):
                yield Fault(f"{name} is {value!r}", REFUSED_WITH[parameter["in"]])
    content, body = operation.get("requestBody", {}).get("content", {}).get("application/json"), sent_body(response)
    if content is None:
        return
    what = f"the body is {body[:200]!r}"
    if "content-type" not in {name.lower() for name in response.request.headers}:
        yield Fault(what, UNSUPPORTED_MEDIA_TYPE.status)
    try:
        sent_value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        yield Fault(what, MALFORMED_JSON.status)
    else:
        if not validator(content["schema"], document).is_valid(sent_value):
            yield Fault(what, VALIDATION.status)


def typed(text: str, schema: Mapping[str, Any]) -> Any:
    """The value that a text stands for, if it can be of the type that the schema has."""
    match schema.get("type"):
        case "integer" if re.fullmatch("-?[0-9]+", text):
            return int(text)
        case "boolean":
            return {"true": True, "false": False}.get(text, text)
    return text


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
