"""Points in time, as events and tables have them."""

import time
from datetime import UTC, datetime
from functools import lru_cache

from common.events.fields import Milliseconds


@lru_cache(2)
def _up_to_the_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")


@lru_cache(1_024)
def rfc3339(at: Milliseconds) -> str:
    """`1700000000123` as `2023-11-14T22:13:20.123Z`. Texts are cached: the records of a batch share them."""
    second, milli = divmod(at, 1000)
    return f"{_up_to_the_second(second)}{milli:03d}Z"


def now() -> Milliseconds:
    """The wall clock."""
    return Milliseconds(time.time_ns() // 1_000_000)
