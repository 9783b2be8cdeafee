"""Input from outside is decoded and validated in one step, and a refusal names every field at fault.

msgspec stops at the first fault. Only when it has refused a document is that walked once more along the same types, to
collect every fault. A document that msgspec accepts costs nothing extra.

References: RFC 6901 (JSON pointers, here in their URI fragment form), RFC 9457 §3.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct, inspect
from starlette.datastructures import QueryParams

from common.codec import UNDECODABLE
from common.http import problem
from common.http.problem import FieldError, Problem, ProblemError

FAULTS_MAX: Final = 1_000
"""Faults reported for one request: 100 order lines have at most 200; 64 KiB of unknown fields would have 10,000."""
NAME_CHARS_MAX: Final = 64

T = TypeVar("T")
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,20}")
_FLAGS: Final = {"true": True, "false": False}
_AT: Final = re.compile(r" - at `\$(?P<path>.*)`$")


class Combined(Struct, frozen=True):
    """Fields that depend on one another's presence. `__post_init__` enforces it, `combination_faults` explains it, and
    the OpenAPI document shows the `forms`."""

    forms: ClassVar[tuple[tuple[str, ...], ...]]
    """The names that must stand together, for each form. Of all these names only those of one form may be there."""

    @classmethod
    def combination_faults(cls, names: frozenset[str]) -> Iterator[tuple[str, str]]:
        """For each fault its field ("" for the whole) and what is wrong, given the names of the fields present."""
        raise NotImplementedError


EMPTY: Final = Problem(problem.MALFORMED_JSON, "the body is empty")


def decode_body(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode and validate in one step. Raises `ProblemError` 400 if it is not JSON, 422 if it is not a `T`.

    Of two members of the same name, msgspec takes the last and other parsers the first: they are refused (RFC 8259 §4).
    A `T` that can tell how many `names` it had at least saves the search for them.
    """
    try:
        document = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ProblemError(_refusal(body, decoder.type, str(error))) from None
    except UNDECODABLE as error:
        raise ProblemError(_malformed(error, body) if body else EMPTY) from None
    if body.count(b":") != getattr(document, "names", None):
        json.loads(body, object_pairs_hook=_without_repetition)
    return document


def _without_repetition(members: list[tuple[str, object]]) -> None:
    """Raises `ProblemError` 422 when an object has two members of the same name."""
    for name, count in Counter(name for name, _ in members).items():
        if count > 1:
            raise ProblemError(
                problem.validation(FieldError("#", f"the name {name[:NAME_CHARS_MAX]!r} is given twice"))
            )


def decode_query(query: Mapping[str, str], kind: type[T]) -> T:
    """The query's parameters as a `kind`. Raises `ProblemError` 422, with pointers such as `?limit`."""
    if isinstance(query, QueryParams) and len(query.multi_items()) > len(query):
        repeated = [name for name in query if len(query.getlist(name)) > 1]
        detail = "is there more than once"
        raise ProblemError(problem.validation(*(FieldError(f"?{_escaped(name)}", detail) for name in repeated)))
    document = _with_values(query, kind)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        errors = _all_faults(document, kind, str(error))
        in_query = (FieldError("?" + fault.pointer.removeprefix("#/"), fault.detail) for fault in errors)
        raise ProblemError(problem.validation(*in_query)) from None


def _with_values(query: Mapping[str, str], kind: Any) -> dict[str, object]:
    """The query, with texts converted where its type has a whole number or a flag."""
    document: dict[str, object] = dict(query)
    for field in msgspec.structs.fields(kind):
        name, types = field.encode_name, set(_scalars(inspect.type_info(field.type)))
        if name not in query:
            continue
        if inspect.IntType in types and _WHOLE_NUMBER.fullmatch(query[name]):
            document[name] = int(query[name])
        elif inspect.BoolType in types:
            document[name] = _FLAGS.get(query[name], query[name])
    return document


def _scalars(kind: inspect.Type) -> Iterator[type[inspect.Type]]:
    """The types of which a value may be."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    for member in kind.types if isinstance(kind, inspect.UnionType) else ():
        yield from _scalars(member)
    yield type(kind)


def _refusal(body: bytes, kind: Any, first: str) -> Problem:
    """Why a body was refused, given msgspec's first complaint: all its faults, or that it is not JSON after all."""
    try:
        document = msgspec.json.decode(body)
    except msgspec.ValidationError:  # a number beyond any range: there is no document to walk
        return problem.validation(_first_fault(first))
    except UNDECODABLE as error:
        return _malformed(error, body)
    return problem.validation(*_all_faults(document, kind, first))


def _malformed(error: Exception, body: bytes) -> Problem:
    if body.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Problem(problem.MALFORMED_JSON, "it begins with a byte order mark; send UTF-8 without")
    detail = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Problem(problem.MALFORMED_JSON, detail)


def _all_faults(document: object, kind: Any, first: str) -> list[FieldError]:
    return list(islice(faults(document, inspect.type_info(kind)), FAULTS_MAX)) or [_first_fault(first)]


def _first_fault(message: str) -> FieldError:
    """msgspec's own message, with its path (`$.items[0].quantity`) as a pointer."""
    where = _AT.search(message)
    pointer = re.sub(r"\[(\d+)\]|\[\.\.\.\]|\.", lambda m: f"/{m[1] or ''}", where["path"]) if where else ""
    return FieldError("#" + pointer, _AT.sub("", message))


def faults(value: object, kind: inspect.Type, pointer: str = "#") -> Iterator[FieldError]:
    """Every fault of a decoded JSON value against the type it should have."""
    description = None
    while isinstance(kind, inspect.Metadata):
        description = (kind.extra_json_schema or {}).get("description", description)
        kind = kind.type
    match kind:
        case inspect.StructType():
            yield from _struct_faults(value, kind, pointer)
        case inspect.VarTupleType() | inspect.ListType():
            yield from _list_faults(value, kind, pointer)
        case inspect.UnionType():
            yield from _union_faults(value, kind, pointer)
        case _:
            expected = _scalar_fault(value, kind, description)
            if expected is not None:
                yield FieldError(pointer, expected)


def _struct_faults(value: object, kind: inspect.StructType, pointer: str) -> Iterator[FieldError]:
    if not isinstance(value, dict):
        yield FieldError(pointer, "must be an object")
        return
    for field in kind.fields:
        at = f"{pointer}/{field.encode_name}"
        if field.encode_name in value:
            yield from faults(value[field.encode_name], field.type, at)
        elif field.required:
            yield FieldError(at, "is required")
    names = {field.encode_name for field in kind.fields}
    if kind.forbid_unknown_fields:
        for name in value:
            if name not in names:
                yield FieldError(f"{pointer}/{_escaped(name)}", "is not a known field")
    if issubclass(kind.cls, Combined):
        for name, detail in kind.cls.combination_faults(frozenset(value) & names):
            yield FieldError(f"{pointer}/{name}" if name else pointer, detail)


def _list_faults(value: object, kind: inspect.VarTupleType | inspect.ListType, pointer: str) -> Iterator[FieldError]:
    if not isinstance(value, list):
        yield FieldError(pointer, "must be a list")
        return
    if not _within(len(value), kind.min_length, kind.max_length):
        yield FieldError(pointer, f"must have {_bounds(kind.min_length, kind.max_length)} entries")
    for number, entry in enumerate(value):
        yield from faults(entry, kind.item_type, f"{pointer}/{number}")


def _union_faults(value: object, kind: inspect.UnionType, pointer: str) -> Iterator[FieldError]:
    """A union such as `str | None`: no fault if one of its types fits, else the faults of the first."""
    tried = [list(faults(value, option, pointer)) for option in kind.types]
    if all(tried):
        yield from tried[0]


def _scalar_fault(value: object, kind: inspect.Type, description: str | None) -> str | None:
    """What a string, number or flag must be, or None if it fits."""
    match kind:
        case inspect.IntType():
            expected = f"must be {_bounds(kind.ge, kind.le)}" if (kind.ge, kind.le) != (None, None) else ""
            if not isinstance(value, int) or isinstance(value, bool):
                return expected.replace("must be", "must be a whole number", 1) or "must be a whole number"
            return None if _within(value, kind.ge, kind.le) else expected
        case inspect.StrType():
            if not isinstance(value, str):
                return f"must be a string: {description}" if description else "must be a string"
            if kind.pattern is not None and re.search(kind.pattern, value) is None:
                return f"must be {description or 'a string that matches ' + kind.pattern}"
            if not _within(len(value), kind.min_length, kind.max_length):
                return f"must have {_bounds(kind.min_length, kind.max_length)} characters"
            return None
        case inspect.BoolType():
            return None if isinstance(value, bool) else "must be true or false"
        case inspect.LiteralType():
            fits = any(value == option and type(value) is type(option) for option in kind.values)
            return None if fits else "must be one of " + ", ".join(map(str, kind.values))
        case inspect.NoneType():
            return None if value is None else "must be null"
    return None


def _within(value: int, least: int | None, most: int | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _bounds(least: int | None, most: int | None) -> str:
    if most is None:
        return f"at least {least}"
    if least is None:
        return f"at most {most}"
    return f"from {least} to {most}"


def _escaped(name: str) -> str:
    return quote(name[:NAME_CHARS_MAX].replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@")
