"""Token buckets, one for each key: so many requests a second, and so many at once after a pause.

Pure: the time is given. A bucket is one number, the time at which it is full again (the generic cell rate algorithm).
A full bucket is as good as none, so those of idle keys are forgotten, and lose nothing by it.

Reference: https://www.itu.int/rec/T-REC-I.371 (annex A).
"""

from typing import Final, NamedTuple

KEYS_MAX: Final = 50_000
"""At most twice as many buckets of one kind are kept, about 100 bytes each. With more keys than this in the time in
which a bucket fills, the least recently used ones are forgotten early."""


class Rate(NamedTuple):
    """How many requests a key may send: `per_s` for as long as it likes, `burst` at once. Both are above 0."""

    per_s: int
    burst: int

    @property
    def window_s(self) -> float:
        """The seconds in which an empty bucket fills."""
        return self.burst / self.per_s


class Buckets:
    """The buckets of one kind of key, all of the same rate. All times are seconds of one monotonic clock."""

    def __init__(self, rate: Rate, keys_max: int = KEYS_MAX) -> None:
        self.rate = rate
        self._interval_s = 1 / rate.per_s
        self._window_s = rate.window_s
        self._keys_max = keys_max
        self._full_at: dict[str, float] = {}
        """When each bucket that was used in this window is full. Tokens are missing until then."""
        self._older: dict[str, float] = {}
        """Those that were used in the window before, and not since."""
        self._window_ends = 0.0

    def __len__(self) -> int:
        return len(self._full_at) + len(self._older)

    def take(self, key: str, now: float, tokens: int = 1) -> float:
        """Take this many tokens. Returns 0, or how many seconds from now on there are enough; then nothing was taken.

        More than a burst is never there at once.
        """
        full_at = self._full_at.get(key)
        if full_at is None or now >= self._window_ends:
            full_at = self._read(key, now)
        elif full_at < now:
            full_at = now
        full_at += tokens * self._interval_s
        wait_s = full_at - now - self._window_s
        if wait_s > 1e-9:  # what is lost in adding up intervals
            return wait_s
        self._full_at[key] = full_at
        return 0.0

    def take_up_to(self, key: str, now: float, tokens: int) -> int:
        """Take this many tokens, or all there are. Returns how many."""
        taken = min(tokens, self.left(key, now))
        if taken:
            self.take(key, now, taken)
        return taken

    def left(self, key: str, now: float) -> int:
        """How many tokens there are."""
        return int((now + self._window_s - self._read(key, now)) / self._interval_s + 1e-6)

    def _read(self, key: str, now: float) -> float:
        """When the bucket is full: now if it is."""
        if now >= self._window_ends or len(self._full_at) >= self._keys_max:
            self._older, self._full_at = self._full_at, {}
            self._window_ends = now + self._window_s
        full_at = self._full_at.get(key)
        if full_at is None and (full_at := self._older.get(key)) is not None:
            self._full_at[key] = full_at
        return full_at if full_at is not None and full_at > now else now
