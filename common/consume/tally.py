"""What a consumer reports of its batches: metrics, a line in the log a second, and at DEBUG one for each event.

A line for each batch was a tenth of a small batch's CPU, and at a hundred batches a second nobody read them.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from loguru import logger

from common import metrics
from common.consume.parking import Parked, Sorted
from common.consume.records import Received
from common.events import type_of

REPORT_EVERY_S: Final = 1.0
STAGES: Final = ("store", "publish", "commit")


class Stopwatch:
    """The seconds that each stage of a batch took."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage, one of `STAGES`."""
        at = time.perf_counter()
        self.laps[stage] = at - self._last
        self._last = at


class Tally:
    """Counts a group's batches. Belongs to one thread."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._log = logger.bind(group=group)
        # Looked up once: finding a metric by its labels costs more than counting.
        self._batches = metrics.batches.labels(group)
        self._fresh = metrics.records.labels(group, "fresh")
        self._repeats = metrics.records.labels(group, "repeat")
        self._published = metrics.published.labels(group)
        self._stages = {stage: metrics.stage_seconds.labels(group, stage) for stage in STAGES}
        self._counts: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._reported_at_s = 0.0

    def count(self, records: int, outcome: Sorted, published: int, laps: dict[str, float]) -> None:
        """Count a batch that is stored, published and committed."""
        fresh, repeats = len(outcome.fresh), len(outcome.repeats)
        self._batches.inc()
        self._fresh.inc(fresh)
        self._repeats.inc(repeats)
        self._published.inc(published)
        for stage, seconds in laps.items():
            self._stages[stage].observe(seconds)
            self._seconds[stage] += seconds
        counts = self._counts
        counts["batches"] += 1
        counts["records"] += records
        counts["repeats"] += repeats
        counts["parked"] += len(outcome.parked)
        counts["published"] += published
        self._report_parked(outcome.parked)

    def report_when_due(self, at_s: float) -> None:
        """Report, given the monotonic time, unless the last report was less than a second ago."""
        if at_s - self._reported_at_s >= REPORT_EVERY_S:
            self._reported_at_s = at_s
            self.report()

    def report(self) -> None:
        """Sum up in the log what was counted since the last line."""
        if self._counts:
            times_ms = {f"{stage}_ms": round(seconds * 1e3, 1) for stage, seconds in self._seconds.items()}
            self._log.info("batches", **self._counts, **times_ms)
            self._counts.clear()
            self._seconds.clear()

    def log_events(self, records: Iterable[Received]) -> None:
        """Log what becomes of each order, at DEBUG."""
        for r in records:
            self._log.debug(
                type_of(r.event),
                order=r.event.subject,
                customer=r.event.partitionkey,
                trace=r.event.traceparent,
                topic=r.partition.topic,
                partition=r.partition.number,
                offset=r.offset,
            )

    def _report_parked(self, parked: Sequence[Parked]) -> None:
        for record, root, error, _ in parked:
            metrics.parked.labels(self._group, "root" if root else "follower").inc()
            customer = record.key and record.key.decode(errors="replace")
            topic, partition = record.partition
            self._log.error(
                "parked: {}", error, customer=customer, topic=topic, partition=partition, offset=record.offset
            )
