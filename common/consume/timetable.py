"""When a consumer begins its batches.

A batch costs nearly the same whatever its size. So time is divided into slots, and a consumer begins one batch in each:
a record that comes after an idle slot is processed at once, and the more come, the larger the batches are. The slots of
all consumers begin at the same moments by the clock, so that the saga, a phase later, finds the results of both sides.
Where clocks differ, orders settle later, by a slot at most.

A busy consumer takes slots of twice the length: larger batches cost less, and its orders settle later. Its slots begin
with every second short one. See decisions 22 and 43.
"""

from math import exp, inf
from typing import Final

SLOT_S: Final = 0.045
LONG_SLOT_S: Final = 2 * SLOT_S
LONG_FROM: Final = 0.33
"""A consumer that works on batches for this share of the time takes long slots."""
LONG_UNTIL: Final = 0.15
"""Below this share it takes short ones again. It is less than half of the other: the share may fall by half when slots
become long, and must not make them short."""
MEMORY_S: Final = 1.0
"""The share is an average over the time before, whose weight falls to 1/e in this time."""


class Timetable:
    """The slots of one consumer, whose batches begin `phase`, a share of a slot, after each slot has begun."""

    def __init__(self, phase: float) -> None:
        self.slot_s = SLOT_S
        self._phase = phase
        self._busy = 0.0
        """The share of the time that went to batches."""
        self._began_s = self._ended_s = -inf

    def until_next_slot_s(self, at_s: float) -> float:
        """Seconds until the next slot begins, at `at_s` by the clock."""
        return self.slot_s - (at_s - self._phase * self.slot_s) % self.slot_s

    def began(self, at_s: float) -> None:
        """A batch begins, at `at_s` by a clock that is never set. This may change the length of the slots."""
        period_s = at_s - self._began_s
        share = (self._ended_s - self._began_s) / period_s if 0 < period_s < inf else 0.0
        self._busy += (1 - exp(-period_s / MEMORY_S)) * (share - self._busy)
        if self._busy >= LONG_FROM:
            self.slot_s = LONG_SLOT_S
        elif self._busy < LONG_UNTIL:
            self.slot_s = SLOT_S
        self._began_s, self._ended_s = at_s, inf

    def ended(self, at_s: float) -> None:
        """The batch has been processed, if one had begun."""
        self._ended_s = min(self._ended_s, at_s)
