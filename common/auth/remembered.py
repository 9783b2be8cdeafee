"""The principals that a process remembers, by their credentials: at most so many, at random.

When there is no room, a newcomer takes the place of one that has expired, if there is one among a few that are drawn.
Else it takes a random place, and only one newcomer in `ADMITTED_OF` does. So if more principals take turns than there
is room for, a part of them stays: when half as many again come in turn, 55 % of requests find theirs. If the oldest
made room, each would be gone just before it comes again, and none would.
"""

from collections.abc import Callable
from random import randrange
from typing import Final

from common.auth.principal import Principal

ENTRY_BYTES: Final = 870
"""Measured with a token of Ed25519 (327 bytes); one of RS256 is 250 bytes longer."""
ADMITTED_OF: Final = 4
DRAWN: Final = 8


class Remembered:
    """What `principals` has is found by a look-up on the bytes of the header."""

    def __init__(self, most: int, random: Callable[[int], int] = randrange) -> None:
        """`random` returns a number from 0 up to, and without, the one it is given."""
        self.principals: dict[bytes | None, Principal] = {}
        self._most = most
        self._random = random
        self._keys: list[bytes] = []

    def add(self, key: bytes, principal: Principal, now: float) -> None:
        """Remember a principal, in the place of another if there is no room, or not at all."""
        if key not in self.principals:
            if len(self._keys) < self._most:
                self._keys.append(key)
            elif (place := self._place(now)) is None:
                return
            else:
                del self.principals[self._keys[place]]
                self._keys[place] = key
        self.principals[key] = principal

    def _place(self, now: float) -> int | None:
        """Whose place a newcomer takes; None if it takes none."""
        drawn = [self._random(self._most) for _ in range(DRAWN)]
        for place in drawn:
            if self.principals[self._keys[place]].expires_at <= now:
                return place
        return None if self._random(ADMITTED_OF) else drawn[0]

    def forget_all(self) -> None:
        self.principals.clear()
        self._keys.clear()
