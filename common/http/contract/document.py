"""The OpenAPI 3.1 document of a service, made from its operations.

References: OpenAPI 3.1.1 (https://spec.openapis.org/oas/v3.1.1.html).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from common.http import problem
from common.http.contract.operation import CACHE_CONTROL, REQUEST_ID, Answer, Header, Operation
from common.http.contract.schemas import Schemas
from common.http.problem import CONTENT_TYPE, FieldError, ProblemDocument, ProblemType

PROBLEM_JSON: Final = CONTENT_TYPE.decode()
BYTES_MAX: Final = "x-bytes-max"
"""Our extension of a requestBody, since OpenAPI has no keyword for its limit: the bytes that it has at most."""
EXAMPLE_ID: Final = "4f1d2c9be0a67b35"
BEARER: Final = "bearer"
_CREDENTIALS: Final = "A token (JWT) or an API key. Its scopes are customer, merchant, operator and auditor."
_CONVERTER: Final = re.compile(r":\w+(?=\})")
_OF_EVERY_ANSWER: Final = (REQUEST_ID, CACHE_CONTROL)


def make_document(title: str, version: str, description: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """The document."""
    documented = [operation for operation in operations if operation.documented]
    schemas = Schemas(_types(documented))
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for operation in documented:
        path = _CONVERTER.sub("", operation.path)
        paths[path][operation.method.lower()] = _Description(operation, schemas).whole()
    types = {each.code: each for each in problem_types(documented)}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "tags": [{"name": name} for name in dict.fromkeys(operation.tag for operation in documented)],
        "paths": dict(paths),
        "components": {
            "securitySchemes": {BEARER: {"type": "http", "scheme": "bearer", "description": _CREDENTIALS}},
            "schemas": schemas.components,
            "responses": dict(_common_responses(schemas)),
            "headers": {header.name: _header(header, schemas) for header in _OF_EVERY_ANSWER},
            "examples": {code: _example(types[code]) for code in sorted(types)},
        },
    }


def problem_types(operations: Iterable[Operation]) -> list[ProblemType]:
    """All types of problems that a service with these operations may answer with, each once."""
    own = (each for operation in operations for each in operation.all_problems())
    everywhere = (problem.NOT_FOUND, problem.METHOD_NOT_ALLOWED, *problem.OF_ANY_REQUEST)
    return list({each.code: each for each in (*own, *everywhere)}.values())


def problem_document(kind: ProblemType) -> ProblemDocument:
    """An example of such a problem."""
    errors = (FieldError("#/quantity", "must be from 1 to 10000"),) if kind is problem.VALIDATION else ()
    return ProblemDocument(
        type=kind.uri, title=kind.title, status=kind.status, detail=kind.example, errors=errors, request_id=EXAMPLE_ID
    )


def _types(operations: Iterable[Operation]) -> Iterator[Any]:
    yield ProblemDocument
    yield str
    for operation in operations:
        yield from operation.parameters.values()
        if operation.query is not None:
            yield operation.query
        if operation.body is not None:
            yield operation.body.kind
        for answer in operation.all_answers():
            if answer.kind is not None:
                yield answer.kind
            yield from (header.kind for header in answer.headers)
        yield from (header.kind for header in operation.all_headers())


class _Description:
    """How an operation is described."""

    def __init__(self, operation: Operation, schemas: Schemas) -> None:
        self._operation = operation
        self._schemas = schemas

    def whole(self) -> dict[str, Any]:
        operation = self._operation
        described: dict[str, Any] = {
            "operationId": operation.id,
            "summary": operation.summary,
            "tags": [operation.tag],
        }
        rule = operation.access.sentence()
        described["description"] = f"{operation.description}\n\n{rule}" if operation.description else rule
        described["security"] = [] if operation.access.public else [{BEARER: list(operation.access.accepted)}]
        if operation.deprecation is not None:
            described["deprecated"] = True
        if parameters := list(self._parameters()):
            described["parameters"] = parameters
        if operation.body is not None:
            described["requestBody"] = self._body()
        described["responses"] = self._responses()
        return described

    def _parameters(self) -> Iterator[dict[str, Any]]:
        operation = self._operation
        for name, kind in operation.parameters.items():
            yield {"name": name, "in": "path", "required": True, "schema": self._schemas.of(kind)}
        if operation.query is not None:
            for name, required, schema in self._schemas.fields(operation.query):
                yield {"name": name, "in": "query", "required": required, "schema": schema}
        for header in operation.all_headers():
            yield {"name": header.name, "in": "header", **_header(header, self._schemas)}

    def _body(self) -> dict[str, Any]:
        body = self._operation.body
        assert body is not None
        content: dict[str, Any] = {"schema": self._schemas.of(body.kind)}
        if body.examples:
            content["examples"] = {
                re.sub(r"\W+", "-", summary): {"summary": summary, "value": msgspec.to_builtins(value)}
                for summary, value in body.examples.items()
            }
        return {
            "description": f"at most {body.bytes_max} bytes",
            BYTES_MAX: body.bytes_max,
            "required": True,
            "content": dict.fromkeys(body.media_types, content),
        }

    def _responses(self) -> dict[str, Any]:
        operation = self._operation
        answers: dict[int, list[Answer]] = defaultdict(list)
        for answer in operation.all_answers():
            answers[answer.status].append(answer)
        own: dict[int, list[ProblemType]] = defaultdict(list)
        for kind in dict.fromkeys(operation.all_problems()):
            own[kind.status].append(kind)
        general = {kind.status for kind in problem.OF_ANY_REQUEST}
        responses: dict[str, Any] = {}
        for status in sorted({*answers, *own, *general}):
            if status in answers or status in own:
                kinds = dict.fromkeys((*own[status], *_of_any_request(status)))
                responses[str(status)] = _response(self._schemas, answers[status], list(kinds))
            else:
                responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
        return responses


def _of_any_request(status: int) -> list[ProblemType]:
    return [kind for kind in problem.OF_ANY_REQUEST if kind.status == status]


def _common_responses(schemas: Schemas) -> Iterator[tuple[str, dict[str, Any]]]:
    """What any request may be answered, by status."""
    for status in sorted({kind.status for kind in problem.OF_ANY_REQUEST}):
        yield str(status), _response(schemas, (), _of_any_request(status))


def _response(schemas: Schemas, answers: Sequence[Answer], kinds: Sequence[ProblemType]) -> dict[str, Any]:
    """Everything that comes with one status: these answers, and problems of these types."""
    content: dict[str, Any] = {}
    for answer in answers:
        if answer.kind is not None:
            described = {"schema": schemas.of(answer.kind)}
            if answer.example is not None:
                described["example"] = msgspec.to_builtins(answer.example)
            content |= dict.fromkeys(answer.media_types, described)
    if kinds:
        content[PROBLEM_JSON] = _problem_content(kinds)
    texts = [answer.description or (answer.kind.__doc__ or "").partition("\n")[0] for answer in answers]
    texts += [f"[{kind.title}]({kind.uri}): {kind.when}" for kind in kinds]
    links = {
        link.name: {
            "operationId": link.operation_id,
            "parameters": dict(link.parameters),
            "description": link.description,
        }
        for answer in answers
        for link in answer.links
    }
    response: dict[str, Any] = {"description": "; or ".join(texts), "headers": _headers(schemas, answers, kinds)}
    return response | ({"content": content} if content else {}) | ({"links": links} if links else {})


def _headers(schemas: Schemas, answers: Sequence[Answer], kinds: Sequence[ProblemType]) -> dict[str, Any]:
    """The headers of one status. A header is required if each of its answers always has it."""
    sources = [{header.name: header for header in answer.headers} for answer in answers]
    sources += [
        {name: Header(name=name, description=says, required=always) for name, says, always in kind.headers}
        for kind in kinds
    ]
    headers = {header.name: {"$ref": f"#/components/headers/{header.name}"} for header in _OF_EVERY_ANSWER}
    for name, header in {name: header for source in sources for name, header in source.items()}.items():
        always = all(name in source and source[name].required for source in sources)
        headers[name] = _header(replace(header, required=always), schemas)
    return headers


def _header(header: Header, schemas: Schemas) -> dict[str, Any]:
    described = {"description": header.description, "schema": {**schemas.of(header.kind), **header.schema}}
    return {**described, "required": True} if header.required else described


def _problem_content(kinds: Sequence[ProblemType]) -> dict[str, Any]:
    named = {"type": {"enum": [kind.uri for kind in kinds]}, "status": {"const": kinds[0].status}}
    return {
        "schema": {"$ref": "#/components/schemas/ProblemDocument", "properties": named},
        "examples": {kind.code: {"$ref": f"#/components/examples/{kind.code}"} for kind in kinds},
    }


def _example(kind: ProblemType) -> dict[str, Any]:
    return {"summary": kind.title, "value": msgspec.to_builtins(problem_document(kind))}
