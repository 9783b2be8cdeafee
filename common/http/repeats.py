"""Log lines about what may happen many times a second: one now and then, with the number of times."""

from typing import Final

REPORT_EVERY_S: Final = 10.0


class Repeats:
    """Counts the times since the last line."""

    def __init__(self) -> None:
        self._times = 0
        self._reported_at = -REPORT_EVERY_S

    def count(self, now: float) -> int:
        """Count one more time. Returns how many there were since the last line if a line is due, otherwise 0. `now` is
        in seconds."""
        self._times += 1
        if now - self._reported_at < REPORT_EVERY_S:
            return 0
        times, self._times, self._reported_at = self._times, 0, now
        return times
