"""The least bytes that show a finding: taken apart for as long as it stays the same."""

from collections.abc import Awaitable, Callable
from typing import Final

TRIES: Final = 150


async def least(sent: bytes, still: Callable[[bytes], Awaitable[bool]], tries: int = TRIES) -> bytes:
    """Take out ever smaller pieces while `still` says yes; at most `tries` questions (after Zeller's ddmin)."""
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
