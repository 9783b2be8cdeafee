"""Compares two OpenAPI documents of a service, for the sake of the clients of the older one."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from common.http.contract.document import BYTES_MAX
from ops.contract.change import Change, of_properties, of_the_rest, of_what_is_read, of_what_is_written
from ops.contract.schemas import Document, Rooted, pointed_at

CLIENTS: Final = "clients"
_METHODS: Final = ("get", "head", "post", "put", "patch", "delete", "options")
# What is compared of each kind of node.
_DOCUMENT: Final = frozenset({"openapi", "info", "paths", "components", "security"})
_OPERATION: Final = frozenset({"operationId", "parameters", "requestBody", "responses", "security"})
_INPUT: Final = frozenset({"name", "in", "required", "schema", BYTES_MAX})
_PARTS: Final = ("content", "headers", "links")

Node = Mapping[str, Any]


def changes(old: Document, new: Document) -> Iterator[Change]:
    """What the newer document changes, operation by operation."""
    yield from of_the_rest(old, new, "/", _DOCUMENT, CLIENTS)
    before, after = dict(_operations(old)), dict(_operations(new))
    for where, operation in before.items():
        if where not in after:
            yield Change(where, "is gone", CLIENTS)
            continue
        yield from of_the_rest(operation, after[where], where, _OPERATION, CLIENTS)
        yield from _of_callers(where, operation, after[where], old, new)
        of_request = (_request(operation, old), _request(after[where], new))
        yield from _of_inputs(where, *of_request, old, new)
        yield from _of_responses(where, operation, after[where], old, new)
        yield from _of_problems(where, _problems(operation, old), _problems(after[where], new))
    for where in after.keys() - before.keys():
        yield Change(where, "is new")


def _operations(document: Document) -> Iterator[tuple[str, Node]]:
    for path, item in document.get("paths", {}).items():
        shared = item.get("parameters", [])
        inherited = {name: value for name, value in item.items() if name not in _METHODS}
        for method in _METHODS:
            if method in item:
                operation = item[method]
                yield (
                    f"{method.upper()} {path}",
                    {**inherited, **operation, "parameters": [*shared, *operation.get("parameters", [])]},
                )


def _node(node: Node, document: Document) -> Node:
    """The parameter, body, answer or header that stands here, or elsewhere in the document."""
    while "$ref" in node:
        node = pointed_at(document, node["$ref"])
    return node


def _request(operation: Node, document: Document) -> dict[str, Node]:
    """Everything that a request has, by name: parameters, and a body of each media type."""
    parameters = [_node(parameter, document) for parameter in operation["parameters"]]
    inputs = {f"{parameter['in']} parameter {parameter['name']}": parameter for parameter in parameters}
    body = _node(operation.get("requestBody", {}), document)
    for media_type, content in body.get("content", {}).items():
        limits = {name: body[name] for name in ("required", BYTES_MAX) if name in body}
        inputs[f"body {media_type}"] = {**content, **limits}
    return inputs


def _of_callers(where: str, was: Node, now: Node, old: Document, new: Document) -> Iterator[Change]:
    """How generated clients name the operation, and which credentials it asks for."""
    if was.get("operationId", now.get("operationId")) != now.get("operationId"):
        yield Change(where, f"is named {now.get('operationId')}, it was {was['operationId']}", "generated clients")
    before, after = _ways_in(was, old), _ways_in(now, new)
    if after != before:
        shut = [way for way in before if way not in after and {} not in after]
        yield Change(where, f"takes callers with {after}, it took {before}", CLIENTS if shut else "")


def _ways_in(operation: Node, document: Document) -> list[Node]:
    """The credentials of which a caller must show one; `{}` asks for none."""
    return list(operation.get("security", document.get("security", []))) or [{}]


def _of_inputs(
    where: str, before: Mapping[str, Node], after: Mapping[str, Node], old: Document, new: Document
) -> Iterator[Change]:
    for name, was in before.items():
        at = f"{where}: {name}"
        if name not in after:
            yield Change(at, "is no longer taken", CLIENTS)
            continue
        if after[name].get("required") and not was.get("required"):
            yield Change(at, "is required now", CLIENTS)
        yield from _of_bytes(was.get(BYTES_MAX), after[name].get(BYTES_MAX), at)
        yield from of_the_rest(was, after[name], at, _INPUT, CLIENTS)
        schemas = Rooted(was.get("schema", {}), old), Rooted(after[name].get("schema", {}), new)
        yield from of_what_is_read(*schemas, at, CLIENTS)
        yield from of_properties(*schemas, at, CLIENTS)
    had_body = any(name.startswith("body ") for name in before)
    for name in after.keys() - before.keys():
        another_body = had_body and name.startswith("body ")
        required = after[name].get("required") and not another_body
        yield Change(f"{where}: {name}", "is new, and required" if required else "is new", CLIENTS if required else "")


def _of_bytes(before: int | None, after: int | None, at: str) -> Iterator[Change]:
    """The bytes that a body may have. A document that does not say them promises none."""
    if before != after:
        narrower = before is not None and (after is None or after < before)
        yield Change(at, f"may have {after} bytes, it was {before}", CLIENTS if narrower else "")


def _of_responses(where: str, was: Node, now: Node, old: Document, new: Document) -> Iterator[Change]:
    before, after = was.get("responses", {}), now.get("responses", {})
    for status in before.keys() - after.keys():
        yield Change(f"{where}: {status}", "no longer comes")
    for status in after.keys() - before.keys():
        # A client must be ready for any refusal, but not for another kind of success.
        yield Change(f"{where}: {status}", "may come now", "" if status[0] in "45" else CLIENTS)
    for status in before.keys() & after.keys():
        answers = _node(before[status], old), _node(after[status], new)
        yield from of_the_rest(*answers, f"{where}: {status}", frozenset(_PARTS), CLIENTS)
        for part in _PARTS:
            contents = answers[0].get(part, {}), answers[1].get(part, {})
            for name in contents[0].keys() | contents[1].keys():
                at = f"{where}: {status} {name}"
                if name not in contents[1]:
                    yield Change(at, "no longer comes", CLIENTS)
                elif name not in contents[0]:
                    yield Change(at, "is new")
                else:
                    nodes = _node(contents[0][name], old), _node(contents[1][name], new)
                    if nodes[0].get("required") and not nodes[1].get("required"):
                        yield Change(at, "may be absent now", CLIENTS)
                    yield from of_the_rest(*nodes, at, _INPUT, CLIENTS)
                    schemas = Rooted(nodes[0].get("schema", {}), old), Rooted(nodes[1].get("schema", {}), new)
                    yield from of_what_is_written(*schemas, at, CLIENTS)
                    yield from of_properties(*schemas, at, CLIENTS)


def _problems(operation: Node, document: Document) -> dict[str, str]:
    """The types of problems that an operation answers with, and their statuses."""
    return {
        uri: status
        for status, answer in operation.get("responses", {}).items()
        for content in _node(answer, document).get("content", {}).values()
        for uri in content.get("schema", {}).get("properties", {}).get("type", {}).get("enum", ())
    }


def _of_problems(where: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    """A client acts on the type of a problem or on its status. A new one is read by its status."""
    new = after.keys() - before.keys()
    for uri, status in before.items():
        if uri not in after:
            yield Change(where, f"{uri} no longer comes", CLIENTS if new else "")
        elif after[uri] != status:
            yield Change(where, f"{uri} comes with {after[uri]}, it came with {status}", CLIENTS)
    for uri in sorted(new):
        yield Change(where, f"{uri} may come now")
