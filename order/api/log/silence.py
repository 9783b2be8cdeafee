"""A log that answers and takes nothing: too few of its brokers are there to acknowledge a record."""

from typing import Final

SILENT_S: Final = 5.0
"""A leader that was killed or frozen is replaced within this time; orders of its partitions wait."""


class Silence:
    """For how long nothing has been acknowledged although something waits for it. The time is passed in."""

    def __init__(self) -> None:
        self._acknowledged = 0
        self._since_s: float | None = None

    def lasts_s(self, acknowledged: int, in_flight: int, at_s: float) -> float:
        """`acknowledged` are all records ever, `in_flight` those that wait now; `at_s` is the monotonic time. It ends
        with an acknowledgement, and when nothing waits any more: then the next orders show how it stands."""
        if acknowledged != self._acknowledged or not in_flight:
            self._acknowledged, self._since_s = acknowledged, None
            return 0.0
        if self._since_s is None:
            self._since_s = at_s
        return at_s - self._since_s
