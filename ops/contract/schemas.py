"""What one JSON schema allows and another does not, as sentences.

It knows the keywords that msgspec writes. A difference in any other keyword cannot be judged, and counts as one.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

Schema = Mapping[str, Any]
Document = Mapping[str, Any]

_ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "$comment", "discriminator"}
)
_UNIONS: Final = ("anyOf", "oneOf")
_LIMITS: Final[tuple[tuple[str, str, str], ...]] = (
    ("minimum", "maximum", "a number"),
    ("exclusiveMinimum", "exclusiveMaximum", "a number"),
    ("minLength", "maxLength", "a text of length"),
    ("minItems", "maxItems", "a list of length"),
    ("minProperties", "maxProperties", "an object of size"),
)
"""The lower and the upper limit, and what has that size."""
_JUDGED: Final = frozenset(
    {"type", "enum", "const", "pattern", "properties", "required", "items", "additionalProperties", "format", *_UNIONS}
    | {name for lower, upper, _ in _LIMITS for name in (lower, upper)}
)
_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


class Rooted(NamedTuple):
    """A schema, and the document in which its references lead somewhere."""

    schema: Schema
    document: Document

    def resolved(self) -> "Rooted":
        """The schema that a reference leads to. Raises `KeyError` for one that leads nowhere."""
        schema = self.schema
        while "$ref" in schema:
            schema = pointed_at(self.document, schema["$ref"])
        return Rooted(schema, self.document)

    def members(self) -> list["Rooted"]:
        """The schemas of which a value must match one: those of a union, the types of a list of types, or itself."""
        schema = self.resolved().schema
        for union in _UNIONS:
            if union in schema:
                rest = {name: value for name, value in schema.items() if name != union}
                return [
                    deep for m in schema[union] for deep in Rooted({**rest, **self._plain(m)}, self.document).members()
                ]
        if isinstance(schema.get("type"), list):
            return [Rooted({**schema, "type": kind}, self.document) for kind in schema["type"]]
        return [Rooted(schema, self.document)]

    def _plain(self, schema: Schema) -> Schema:
        return Rooted(schema, self.document).resolved().schema

    def properties(self, path: str = "", within: frozenset[str] = frozenset()) -> Iterator[tuple[str, Schema]]:
        """Every property with its path, such as `items[].quantity`, or `*.quantity` in a map. A schema within itself
        is left out."""
        reference = self.schema.get("$ref")
        if reference in within:
            return
        deeper = within | {reference} if reference else within
        for schema, _ in self.members():
            for name, below in schema.get("properties", {}).items():
                inner = _join(path, name)
                yield inner, below
                yield from Rooted(below, self.document).properties(inner, deeper)
            if "items" in schema:
                yield from Rooted(schema["items"], self.document).properties(f"{path}[]", deeper)
            if isinstance(values := schema.get("additionalProperties"), Mapping):
                yield from Rooted(values, self.document).properties(_join(path, "*"), deeper)


_Pair = tuple[str | None, str | None]
"""Two references that are being compared: schemas may contain themselves."""


def pointed_at(document: Document, reference: str) -> Any:
    """What a reference within the document leads to. Raises `KeyError`."""
    target: Any = document
    for step in reference.removeprefix("#/").split("/"):
        target = target[step.replace("~1", "/").replace("~0", "~")]
    return target


def allowed_only_by(
    wide: Rooted, narrow: Rooted, path: str = "", within: frozenset[_Pair] = frozenset()
) -> Iterator[tuple[str, str]]:
    """Each thing that `wide` allows and `narrow` does not: the path, and the values, such as `a number over 9`.

    A property that only one of the two describes says nothing here: a reader that does not know it ignores it.
    """
    here = (wide.schema.get("$ref"), narrow.schema.get("$ref"))
    if here in within:
        return
    if all(here):
        within |= {here}
    accepting = narrow.members()
    for member in wide.members():
        refusals = [list(_of_member(member, other, path, within)) for other in accepting]
        if all(refusals):
            # The member of the same type says best what is not allowed.
            nearest = [r for r, other in zip(refusals, accepting, strict=True) if _same_type(member, other)]
            yield from min(nearest, key=len) if nearest else [(path, _named(member.schema))]


def _same_type(one: Rooted, other: Rooted) -> bool:
    return _kind(one.schema) == _kind(other.schema)


def _kind(schema: Schema) -> object:
    if "type" in schema:
        return schema["type"]
    values = _values(schema)
    return next((kind for kind, is_of in _TYPES.items() if values and is_of(values[0])), None)


def _named(schema: Schema) -> str:
    values = _values(schema)
    if values is not None:
        return " or ".join(map(repr, values))
    return f"a value of type {schema['type']}" if "type" in schema else "any value"


def _values(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _of_member(wide: Rooted, narrow: Rooted, path: str, within: frozenset[_Pair]) -> Iterator[tuple[str, str]]:
    w, n = wide.schema, narrow.schema
    values, allowed = _values(w), _values(n)
    if values is not None:
        for value in values:
            if not (value in allowed if allowed is not None else _allows(n, value)):
                yield path, f"the value {value!r}"
        return
    if allowed is not None:
        yield path, f"other values than {', '.join(map(repr, allowed))}"
        return
    if "type" in n and w.get("type") != n["type"] and (w.get("type"), n["type"]) != ("integer", "number"):
        yield path, _named(w)
        return
    for lower, upper, sized in _LIMITS:
        if lower in n and w.get(lower, n[lower] - 1) < n[lower]:
            yield path, f"{sized} under {n[lower]}"
        if upper in n and w.get(upper, n[upper] + 1) > n[upper]:
            yield path, f"{sized} over {n[upper]}"
    if "pattern" in n and w.get("pattern") != n["pattern"]:
        yield path, f"a text that does not match {n['pattern']}"
    if "format" in n and w.get("format") != n["format"]:
        yield path, f"what is not of the format {n['format']!r}"
    for name in n.get("required", ()):
        if name not in w.get("required", ()):
            yield _join(path, name), "an object without it"
    for name, below in w.get("properties", {}).items():
        if name in n.get("properties", {}):
            others = Rooted(n["properties"][name], narrow.document)
            yield from allowed_only_by(Rooted(below, wide.document), others, _join(path, name), within)
        elif n.get("additionalProperties") is False:
            yield _join(path, name), "an object with it"
    further, allowed_further = w.get("additionalProperties", True), n.get("additionalProperties", True)
    if allowed_further is False and further is not False:
        yield path, "an object with further properties"
    elif isinstance(allowed_further, Mapping) and further is not False:
        values_of = Rooted(further if isinstance(further, Mapping) else {}, wide.document)
        yield from allowed_only_by(values_of, Rooted(allowed_further, narrow.document), _join(path, "*"), within)
    if "items" in n:
        others = Rooted(n["items"], narrow.document)
        yield from allowed_only_by(Rooted(w.get("items", {}), wide.document), others, f"{path}[]", within)
    for keyword in sorted((w.keys() | n.keys()) - _JUDGED - _ANNOTATIONS):
        if w.get(keyword) != n.get(keyword):
            yield path, f"something else by the keyword {keyword!r}, which is not compared"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _allows(schema: Schema, value: Any) -> bool:
    """Whether a schema without references allows a value that is no object and no list."""
    kind = schema.get("type")
    if kind is not None and not _TYPES.get(kind, lambda _: False)(value):
        return False
    size = len(value) if isinstance(value, str) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if size is not None and not schema.get("minLength", size) <= size <= schema.get("maxLength", size):
        return False
    return "pattern" not in schema or re.search(schema["pattern"], value) is not None
