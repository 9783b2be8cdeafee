"""Ids drawn on the hot path: UUIDv7 order ids and W3C trace contexts, cheap because randomness is drawn in bulk.

`uuid.uuid4` asks the system for 16 bytes at a time, which was a tenth of the api's CPU; here 1,024 draws share a call.

References: RFC 9562 §5.7 and §6.2 method 1 (a counter in rand_a keeps ids rising within a process),
W3C Trace Context level 1 §3.2.
"""

import os
import random
import re
from typing import Final

from common.events import Milliseconds, OrderId

DRAWS_AT_ONCE: Final = 1_024
COUNTER_MAX: Final = 0xFFF
# A new millisecond starts the counter in its lower half, so that it does not run over within one.
COUNTER_SEED_BITS: Final = 11
VARIANT: Final = "89ab"

_TRACEPARENT: Final = re.compile(
    rb"(?:00-(?=.{52}\Z)|(?!00|ff)[0-9a-f]{2}-)"
    rb"(?P<context>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?:-.*)?"
)


class OrderIds:
    """UUIDv7s that rise within this process, even when its clock does not."""

    def __init__(self) -> None:
        self._at = Milliseconds(-1)
        self._counter = 0
        self._prefix = ""
        self._tails: list[str] = []

    def draw(self, at: Milliseconds) -> OrderId:
        """The next id. It carries the time `at`, or the last id's if that is later."""
        if at > self._at:
            self._begin(at)
        elif self._counter < COUNTER_MAX:
            self._counter += 1
        else:
            self._begin(Milliseconds(self._at + 1))
        if not self._tails:
            self._tails = _random_tails()
        return OrderId(f"{self._prefix}{self._counter:03x}-{self._tails.pop()}")

    def _begin(self, at: Milliseconds) -> None:
        self._at = at
        self._counter = random.getrandbits(COUNTER_SEED_BITS)
        digits = f"{at:012x}"
        self._prefix = f"{digits[:8]}-{digits[8:]}-7"


def _random_tails() -> list[str]:
    """The last 64 bits of many ids: the variant and 62 random bits, as text."""
    drawn = os.urandom(8 * DRAWS_AT_ONCE)
    digits = drawn.hex()
    return [
        f"{VARIANT[drawn[at] & 3]}{digits[2 * at + 1 : 2 * at + 4]}-{digits[2 * at + 4 : 2 * at + 16]}"
        for at in range(0, len(drawn), 8)
    ]


class TraceContexts:
    """`traceparent` values: the caller's own where it is valid, else new ones."""

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def adopt(self, header: bytes | None) -> str:
        """The trace an order belongs to, given its request's `traceparent` header."""
        if header is not None:
            match = _TRACEPARENT.fullmatch(header)
            if match is not None:
                return f"00-{match['context'].decode()}"
        if not self._drawn:
            digits = os.urandom(24 * DRAWS_AT_ONCE).hex()
            self._drawn = [
                f"00-{digits[at : at + 32]}-{digits[at + 32 : at + 48]}-01" for at in range(0, len(digits), 48)
            ]
        return self._drawn.pop()
