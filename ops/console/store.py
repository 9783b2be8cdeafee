"""All SQL of the console (`store.sql`), but for the story of an order, which `ops.trace` reads."""

from typing import Final

from ops.tool import statements

_PARTS: Final = ("columns", "filter", "parked_columns", "parked_filter")
"""Parts that several statements share."""


def _completed() -> dict[str, str]:
    texts = statements(__file__)
    parts = {name: texts.pop(name) for name in _PARTS}
    for name, text in texts.items():
        if any(f"{{{part}}}" in text for part in parts):
            texts[name] = text.format(**parts)
    return texts


SQL: Final = _completed()
