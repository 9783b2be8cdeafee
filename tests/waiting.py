"""Waits until something is true, however slow the machine. Tests wait in no other way."""

import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

PATIENCE_S: Final = float(os.environ.get("TANDEM_TEST_PATIENCE_S", "180"))
"""How long a test waits for what must happen. Only a failure may take this long, so it is far beyond a slow machine."""

T = TypeVar("T")


def eventually(
    ask: Callable[[], T | None],
    condition: str,
    within_s: float = PATIENCE_S,
    every_s: float = 0.05,
    *,
    ended: Callable[[], str | None] = lambda: None,
    last_words: Callable[[], object] = lambda: None,
) -> T:
    """The first answer of `ask` that is not None, False or an empty list.

    Fails with `condition` after `within_s` seconds, or at once when `ended` says why there can be none any more. The
    message ends with `last_words`, the state instead.
    """
    until = time.monotonic() + within_s
    while True:
        answer = ask()
        if answer is not None and answer is not False and answer != []:
            return answer
        why = ended()
        if why is None and time.monotonic() > until:
            why = f"not within {within_s:.0f} s"
        if why is not None:
            state = last_words()
            raise AssertionError(f"{why}: {condition}" + ("" if state is None else f"\n{state}"))
        time.sleep(every_s)
