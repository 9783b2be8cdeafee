"""Waits until several programs are ready, and reports meanwhile what each of them lacks."""

import time
from collections.abc import Callable, Iterable

REPORT_EVERY_S = 2
FAILED_AFTER_S = 20  # a program that keeps ending may find what it needs within this time


class Waiting:
    """Which programs are not ready yet, for how long, and why."""

    def __init__(
        self, names: Iterable[str], limit_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Without a limit, a program that runs may take for ever, as PostgreSQL's recovery does."""
        self.clock = clock
        self.started = self.reported = clock()
        self.limit_s = limit_s
        self.missing = dict.fromkeys(names, "starting")
        self.ended_since: dict[str, float] = {}

    def until_ready(self, check: Callable[[str], tuple[str | None, bool]]) -> dict[str, str]:
        """Returns the programs that are late, with what each lacks; none when all are ready.

        `check` returns what a program lacks, None when it is ready, and whether it runs.
        """
        while self.missing:
            for name in list(self.missing):
                self.note(name, *check(name))
            self.report()
            if late := self.late():
                return {name: self.missing[name] for name in late}
            time.sleep(0.1)
        return {}

    def note(self, name: str, missing: str | None, runs: bool) -> None:
        if missing is None:
            del self.missing[name]
            print(f"{name} is ready after {self.clock() - self.started:.1f} s", flush=True)
            return
        self.missing[name] = missing
        if runs:
            self.ended_since.pop(name, None)
        else:
            self.ended_since.setdefault(name, self.clock())

    def report(self) -> None:
        if self.missing and self.clock() - self.reported > REPORT_EVERY_S:
            self.reported = self.clock()
            print("waiting for " + "; ".join(f"{name}: {why}" for name, why in self.missing.items()), flush=True)

    def late(self) -> list[str]:
        now = self.clock()
        if self.limit_s is not None and now - self.started > self.limit_s:
            return list(self.missing)
        return [
            name for name, since in self.ended_since.items() if name in self.missing and now - since > FAILED_AFTER_S
        ]
