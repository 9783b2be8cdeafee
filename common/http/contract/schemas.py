"""JSON schemas (draft 2020-12) of msgspec types, as OpenAPI 3.1 wants them."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from common.http.validation import Combined

REFERENCE: Final = "#/components/schemas/{name}"


class Schemas:
    """The schemas of some types, and as components those that they refer to."""

    def __init__(self, types: Iterable[Any]) -> None:
        self._types = list(types)
        self._schemas, components = _portable(*msgspec.json.schema_components(self._types, ref_template=REFERENCE))
        for kind in self._types:
            if isinstance(kind, type) and issubclass(kind, Combined):
                components[kind.__name__] = _by_forms(components[kind.__name__], kind)
        self.components: dict[str, Any] = dict(sorted(components.items()))

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of one of the types."""
        position = next(number for number, each in enumerate(self._types) if each is kind)
        return dict(self._schemas[position])

    def fields(self, kind: type[msgspec.Struct]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
        """The fields of a query's type: the name, whether it is required, and the schema.

        A parameter of a query cannot be null: it is there or not.
        """
        schema = self.components[kind.__name__]
        for name, field in schema["properties"].items():
            yield name, name in schema.get("required", ()), _without_null(field)


def _portable(schemas: tuple[Any, ...], components: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`\\Z` is Python's end of text; in the regular expressions of JSON Schema (ECMA-262) that is `$`."""
    text = msgspec.json.encode([schemas, components]).replace(rb'\\Z"', b'$"')
    portable: tuple[list[Any], dict[str, Any]] = tuple(msgspec.json.decode(text))
    return portable


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    if len(options) == 1:
        return {**rest, **options[0]}
    if "enum" in rest:
        rest["enum"] = [value for value in rest["enum"] if value is not None]
    return {**rest, "anyOf": options} if options else rest


def _by_forms(schema: dict[str, Any], kind: type[Combined]) -> dict[str, Any]:
    """The schema of a type whose fields come in one of several forms: a union of those."""
    names = {name for form in kind.forms for name in form}
    described: dict[str, Any] = {name: schema[name] for name in ("title", "description") if name in schema}
    variants = []
    for form in kind.forms:
        properties = {name: field for name, field in schema["properties"].items() if name in form or name not in names}
        required = [name for name in properties if name in form or name in schema["required"]]
        variants.append(
            {
                "type": "object",
                "title": f"{kind.__name__} with {' and '.join(form)}",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            }
        )
    return {**described, "oneOf": variants}
