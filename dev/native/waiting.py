"""Waiting for several programs to become ready, without hiding what they lack or that one has failed."""

import time
from collections.abc import Callable

from dev.native.supervise import Status

REPORT_EVERY_S = 2
FAILED_AFTER_S = 20  # a program that keeps ending is given this long to find what it waits for


class Waiting:
    """Which programs are not ready yet, for how long, and why."""

    def __init__(self, names: list[str], limit_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.started = self.reported = clock()
        self.limit_s = limit_s
        self.missing = dict.fromkeys(names, "starting")
        self.ended_since: dict[str, float] = {}

    @property
    def names(self) -> list[str]:
        return list(self.missing)

    def see(self, status: Status, missing: str | None) -> None:
        if missing is None:
            del self.missing[status.name]
            print(f"{status.name} is ready after {self.clock() - self.started:.1f} s", flush=True)
            return
        self.missing[status.name] = missing
        if status.state in ("STARTING", "BACKOFF", "EXITED", "FATAL"):
            self.ended_since.setdefault(status.name, self.clock())
        else:
            self.ended_since.pop(status.name, None)

    def report(self) -> None:
        if self.missing and self.clock() - self.reported > REPORT_EVERY_S:
            self.reported = self.clock()
            print("waiting for " + "; ".join(f"{name}: {why}" for name, why in self.missing.items()), flush=True)

    def late(self) -> list[str]:
        """Those that have had their time."""
        now = self.clock()
        if self.limit_s is not None and now - self.started > self.limit_s:
            return self.names
        return [n for n in self.names if n in self.ended_since and now - self.ended_since[n] > FAILED_AFTER_S]
