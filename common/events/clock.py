"""Points in time, as events and tables have them."""

import time
from datetime import UTC, datetime

from common.events.fields import Milliseconds

_second: tuple[int, str] = (-1, "")


def rfc3339(at: Milliseconds) -> str:
    """`1700000000123` as `2023-11-14T22:13:20.123Z`. The text up to the second is cached: a batch shares it."""
    global _second
    second, milli = divmod(at, 1000)
    cached, prefix = _second
    if cached != second:
        prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        _second = (second, prefix)
    return f"{prefix}{milli:03d}Z"


def now() -> Milliseconds:
    """The wall clock."""
    return Milliseconds(time.time_ns() // 1_000_000)
