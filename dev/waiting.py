"""Waits until several programs are ready, and reports meanwhile what each of them lacks.

A wait ends when all are ready, and also when one cannot become ready, keeps ending, falls silent or is late. The cause
is then the last complaint in the program's log.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from common.terminal import printable
from dev.logs import readable

REPORT_EVERY_S = 2
FAILED_AFTER_S = 20  # a program that keeps ending may find what it needs within this time
LASTS_AFTER_S = 10
ENDS_MAX = 5
CAUSE_LINES = 3
CAUSE_CHARACTERS = 300

_COMPLAINT = re.compile(r"\b(?:FATAL|PANIC|CRITICAL|ERROR)\b|\b\w*(?:Error|Exception)\b|\berror\b")
_NOISE = re.compile(
    r'^\s+at |^\s*File "|^[\s^~]+$|^Traceback|^\s+[.]{3} \d+ more'
    r"|the database system is (?:starting up|shutting down|not yet accepting connections)"
)
_REMEDIES = {
    "no space left on device|disk quota exceeded": "free some space, or set TANDEM_HOME to a folder on another disk",
    "read-only file system": "make the disk writable, or set TANDEM_HOME to a folder on another disk",
    "address already in use": "'just doctor' shows what has the port; stop that, or set another port in .env",
    "password authentication failed": "the databases were made with other passwords than those in the folder secrets: "
    "put the old files back, or delete all data with 'just reset'",
    "cannot allocate memory|insufficient memory|could not reserve|outofmemory|could not map anonymous shared memory": (
        "end other programs, or raise 'ulimit -v'"
    ),
    "too many open files": "raise 'ulimit -n'",
    "can't start new thread|unable to create native thread|resource temporarily unavailable": "raise 'ulimit -u'",
    "permission denied": "the files belong to another user, or a folder is closed to this one",
    "initialized by postgresql version": "use the version of Tandem that made the databases",
}
"""What to do about complaints of the servers and the operating system."""


class Progress(NamedTuple):
    """How far a program has come."""

    missing: str | None
    """What it lacks; None when it is ready."""
    pid: int | None = None
    """The pid of its process; 0 between two of them, and None if that is not known."""
    hopeless: bool = False
    """Whether waiting cannot help."""
    logged: bool = False
    """Whether it has written to its log since the last time."""


class Waiting:
    """Which programs are not ready yet, for how long, and why."""

    def __init__(
        self,
        names: Iterable[str],
        limit_s: float,
        silent_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit_s` is for all of them together. A program that logs nothing for `silent_s` is late before that."""
        self.clock = clock
        self.started = clock()
        self.limit_s = limit_s
        self.silent_s = silent_s
        self.missing = dict.fromkeys(names, "starting")
        self.logged_at = dict.fromkeys(self.missing, self.started)
        self.pids: dict[str, list[int]] = {name: [] for name in self.missing}
        self.begun_at = dict(self.logged_at)
        self.ended_since: dict[str, float] = {}
        self.hopeless: set[str] = set()
        self._reported = ""
        self._report_after_s: float = REPORT_EVERY_S

    def until_ready(self, check: Callable[[str], Progress]) -> dict[str, str]:
        """Returns the programs that are late, with what each lacks; none when all are ready."""
        while self.missing:
            for name in list(self.missing):
                self.note(name, check(name))
            self.report()
            if late := self.late():
                return {name: self.missing[name] + self._silence(name) for name in late}
            time.sleep(0.1)
        return {}

    def note(self, name: str, progress: Progress) -> None:
        now = self.clock()
        if progress.missing is None:
            del self.missing[name]
            print(f"{name} is ready after {now - self.started:.1f} s", flush=True)
            return
        self.missing[name] = progress.missing
        if progress.logged:
            self.logged_at[name] = now
        if progress.hopeless:
            self.hopeless.add(name)
        if progress.pid and progress.pid not in self.pids[name]:
            self.pids[name].append(progress.pid)
            self.begun_at[name] = now
        if progress.pid == 0 or len(self.pids[name]) > 1:
            self.ended_since.setdefault(name, now)

    def report(self) -> None:
        """Print what is missing: when it has changed, and otherwise less and less often."""
        waited_s = self.clock() - self.started
        text = printable("; ".join(f"{name}: {why}" for name, why in self.missing.items()))
        if not text or waited_s < self._report_after_s:
            return
        repeated = text == self._reported
        print(f"waiting for {text}" + (f" ({waited_s:.0f} s)" if repeated else ""), flush=True)
        self._reported = text
        self._report_after_s = waited_s * 2 if repeated else waited_s + REPORT_EVERY_S

    def late(self) -> list[str]:
        now = self.clock()
        if now - self.started > self.limit_s:
            return list(self.missing)
        return [name for name in self.missing if name in self.hopeless or self._has_failed(name, now)]

    def _silence(self, name: str) -> str:
        silent_s = self.clock() - self.logged_at[name]
        return f"; it has logged nothing for {silent_s:.0f} s" if self.silent_s and silent_s > self.silent_s else ""

    def _has_failed(self, name: str, now: float) -> bool:
        silent = bool(self._silence(name))
        lasts = self.pids[name] and now - self.begun_at[name] > LASTS_AFTER_S
        keeps_ending = now - self.ended_since.get(name, now) > FAILED_AFTER_S and not lasts
        return silent or keeps_ending or len(self.pids[name]) > ENDS_MAX


def _remedies(line: str) -> list[str]:
    return [remedy for words, remedy in _REMEDIES.items() if re.search(words, line, re.IGNORECASE)]


def cause(log: Sequence[str]) -> str:
    """What a program complained about last, a line each, and what to do if that is known."""
    lines = [readable(line)[0].strip()[:CAUSE_CHARACTERS] for line in log if line.strip() and not _NOISE.search(line)]
    remedies = {line: _remedies(line) for line in lines}
    complaints = [line for line in lines if remedies[line] or _COMPLAINT.search(line)] or lines
    last = list(dict.fromkeys(reversed(complaints)))[:CAUSE_LINES][::-1]
    advice = dict.fromkeys(remedy for line in last for remedy in remedies[line])
    return "\n".join(
        [*(f"    {line}" for line in last or ["(it has logged nothing)"]), *(f"    -> {remedy}" for remedy in advice)]
    )
