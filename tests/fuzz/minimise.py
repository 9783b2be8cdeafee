"""Finds the fewest bytes that show a finding, by removing pieces as long as the finding stays the same."""

from collections.abc import Awaitable, Callable
from typing import Final

TRIES: Final = 150


async def least(sent: bytes, still: Callable[[bytes], Awaitable[bool]], tries: int = TRIES) -> bytes:
    """Remove ever smaller pieces while `still` is true, calling it at most `tries` times (after Zeller's ddmin)."""
    size = len(sent) // 2
    while size and tries:
        at = 0
        while at < len(sent) and tries:
            tries -= 1
            shorter = sent[:at] + sent[at + size :]
            if await still(shorter):
                sent = shorter
            else:
                at += size
        size //= 2
    return sent
