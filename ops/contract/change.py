"""What differs between a published document and the code's, as a sentence, and whether it breaks somebody."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from ops.contract.schemas import Rooted, Schema, allowed_only_by

_WORDS: Final = frozenset(
    {"title", "summary", "description", "example", "examples", "tags", "deprecated", "externalDocs"}
)
"""Keywords that promise nothing."""


class Change(NamedTuple):
    """A difference: where, such as `POST /api/v1/orders`, and what. `breaks` says whom it breaks; empty for nobody."""

    where: str
    what: str
    breaks: str = ""

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{where}{self.what}" + (f"; this breaks {self.breaks}" if self.breaks else "")


def of_what_is_read(old: Rooted, new: Rooted, where: str, breaks: str) -> Iterator[Change]:
    """Changes of what the code takes in: it must take all that it took before."""
    for path, values in allowed_only_by(old, new):
        yield Change(_at(where, path), f"{values} is no longer allowed", breaks)
    for path, values in allowed_only_by(new, old):
        yield Change(_at(where, path), f"{values} is allowed now")


def of_what_is_written(old: Rooted, new: Rooted, where: str, breaks: str) -> Iterator[Change]:
    """Changes of what the code gives out: nothing may come that could not come before."""
    for path, values in allowed_only_by(new, old):
        yield Change(_at(where, path), f"{values} may come now", breaks)


def of_properties(old: Rooted, new: Rooted, where: str, breaks: str) -> Iterator[Change]:
    """Properties that are gone or mean something else when they are absent, which breaks, or new."""
    before, after = {"": old.schema, **dict(old.properties())}, {"": new.schema, **dict(new.properties())}
    for path, was in before.items():
        if path not in after:
            yield Change(_at(where, path), "is gone", breaks)
        elif was.get("default") != after[path].get("default"):
            yield Change(_at(where, path), f"absent, it is {_default(after[path])}, it was {_default(was)}", breaks)
    for path in after:
        if path not in before:
            yield Change(_at(where, path), "is new")


def of_the_rest(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str, compared: frozenset[str], breaks: str
) -> Iterator[Change]:
    """Keywords of a node that nobody compares: a difference cannot be judged, and counts as one."""
    for keyword in sorted((old.keys() | new.keys()) - compared - _WORDS):
        if _without_words(old.get(keyword)) != _without_words(new.get(keyword)):
            yield Change(where, f"has other {keyword!r}, which are not compared", breaks)


def _without_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_words(below) for name, below in value.items() if name not in _WORDS}
    return [_without_words(below) for below in value] if isinstance(value, list) else value


def _default(schema: Schema) -> str:
    return repr(schema["default"]) if "default" in schema else "nothing"


def _at(where: str, path: str) -> str:
    return f"{where}: {path}" if path else where
