"""What the proof waits for: acknowledged orders to settle, and readers to pass the ends of the log."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from common.config.kafka import Brokers
from ops.tool import chunks
from ops.verify.evidence.progress import Behind, Progress
from ops.verify.report import OFFENDERS_SHOWN, Report
from ops.verify.sources.databases import Snapshot, snapshots, stored_positions
from ops.verify.statements import WAITING

PATIENCE_S: Final = 30.0
"""How long a reader may stand still before what it has not read is unproven."""
CATCH_UP_S: Final = 600.0
"""How long readers may take to pass the ends, as long as they move."""
SETTLE_S: Final = 60.0
POLL_S: Final = 0.2
IDS_AT_ONCE: Final = 50_000
NOTIFY_AFTER_S: Final = 1.0
NOTIFY_EVERY_S: Final = 5.0
PARTS: Final = re.compile(r"(\d{1,9}) of (\d{1,9}) parts are done")
"""A notice of how far a proof is, for the console: see `parts_done`."""

Notify = Callable[[str], None]


def parts_done(done: int, total: int) -> str:
    return f"{done} of {total} parts are done"


@dataclass(frozen=True)
class Settings:
    """Where to look, and how long to wait."""

    brokers: Brokers
    urls: Mapping[str, str]
    deadline_s: float
    patience_s: float = PATIENCE_S
    settle_s: float = SETTLE_S
    workers: int = 2


class _Waiting:
    """Notifies a person about a wait: soon, and then now and then."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._due = time.monotonic() + NOTIFY_AFTER_S

    def report(self, text: str) -> None:
        if time.monotonic() >= self._due:
            self._notify(f"waiting: {text}")
            self._due = time.monotonic() + NOTIFY_EVERY_S


def await_settled(settings: Settings, accepted: Sequence[str], report: Report, notify: Notify) -> None:
    """Give acknowledged orders a bounded time to settle."""
    unsettled, waiting = set(accepted), _Waiting(notify)
    until = time.monotonic() + settings.settle_s
    while unsettled:
        with Snapshot("order", settings.urls["order"]) as snapshot:
            for chunk in chunks(sorted(unsettled), IDS_AT_ONCE):
                unsettled -= snapshot.settled(chunk)
        left_s = until - time.monotonic()
        if unsettled and left_s < 0:
            some = ", ".join(sorted(unsettled)[:OFFENDERS_SHOWN])
            reason = f"{len(unsettled)} acknowledged orders are not settled after {settings.settle_s:.0f} s: {some}"
            report.doubt(WAITING, reason, len(unsettled))
            return
        if unsettled:
            waiting.report(f"{len(unsettled)} acknowledged orders are not settled yet; {left_s:.0f} s more at most")
            time.sleep(POLL_S)


def await_readers(settings: Settings, progress: Progress, notify: Notify) -> list[Behind]:
    """Wait until every reader has passed the ends. Returns those that have not moved for a while."""
    moved = time.monotonic()
    until = moved + CATCH_UP_S
    last: list[Behind] | None = None
    waiting = _Waiting(notify)
    while True:
        with snapshots(settings.urls) as databases:
            positions = {reader: stored.next_offset for reader, stored in stored_positions(databases).items()}
        behind = replace(progress, positions=positions).behind()
        now = time.monotonic()
        if behind != last:
            moved = now
        if not behind or now - moved > settings.patience_s or now > until:
            return behind
        others = f" and {len(behind) - 1} other readers" if len(behind) > 1 else ""
        waiting.report(
            f"{behind[0]}{others}; nothing has moved for {now - moved:.0f} s, "
            f"after {settings.patience_s:.0f} s it is unproven"
        )
        last = behind
        time.sleep(POLL_S)
