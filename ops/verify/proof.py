"""The proof, step by step.

1. Read where the log begins and what the groups have committed.
2. Take the snapshots, each with its positions: the order database first, then payment and inventory.
3. Read where the log ends, and the log up to there. Judge every row by exactly those records that its reader had
   passed when its snapshot was taken. Orders with a finding or with an unread record are suspects.
4. Wait until all readers have passed those ends. Judge the suspects again, with new snapshots. A finding that remains
   is a violation; what a reader has not come to is unproven.

Why this order raises no false alarm:

- The log is read last, so it holds every record that any snapshot knows of: a row without its record is a forgery or a
  loss, not a race. The trim points are read first: what is deleted later is noticed by the reading itself.
- The order database knows of payment and inventory only what they have published, which they had committed before.
  Their snapshots are later than its own, so they are as far as it knows, or further: `completed` there may have become
  `refunded`, never the other way round. Taken before it, they could lag behind what it knows, and each running order
  would be an alarm. Payment and inventory know nothing of one another, so their order is free.
- Payment and inventory know of an order only by records of `orders`, never by its row.
- An outcome that is in `outcomes` before the order database's snapshot was stored before it, unless the database went
  back: then the saga has committed offsets ahead of its positions, and no outcome counts as stored.
- Committed offsets are read before the positions, so they are never ahead of them in a healthy system. A record below
  one had its results published before, so they are in the log by the time its ends are read.
- Balance and ledger, stock and movements are in one snapshot each.
"""

import gc
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Final, TypeVar

import psycopg
from confluent_kafka import KafkaException

from common.errors import Fatal, Transient, describe
from common.events import DEPOSITS, ENTERED, ORDERS, OUTCOMES, READERS, RESTOCKS
from common.kafka.broker import Partition, check_partition_counts
from common.kafka.holes import offsets_without_record
from ops.log import Log
from ops.tool import chunks
from ops.verify.evidence import buckets
from ops.verify.evidence.kinds import TOPICS
from ops.verify.evidence.lines import Tag, digest
from ops.verify.evidence.progress import Answered, GroupPartition, Progress
from ops.verify.judge import audit, bucket, entered
from ops.verify.report import OFFENDERS_SHOWN, Report
from ops.verify.sources.databases import (
    Parked,
    Snapshot,
    about_order,
    mismatches,
    progress_of,
    skipped_by_all,
    snapshots,
    stored_positions,
)
from ops.verify.sources.log import CLIENT_ID, Contents, read
from ops.verify.statements import DECIDED, ONCE, OUTCOME, WAITING, Finding, Unproven
from ops.verify.waiting import IDS_AT_ONCE, NOTIFY_AFTER_S, Notify, Settings, await_readers, await_settled, parts_done
from order.api.requests import is_order_id

_T = TypeVar("_T")

INLINE_RECORDS: Final = 100_000
"""With fewer records than this, starting worker processes takes longer than they save."""


def prove(settings: Settings, accepted: Sequence[str] = (), notify: Notify = lambda _: None) -> Report:
    """Audit everything once. A reason that prevents the whole proof is in the report, as unproven. While the proof
    waits, it calls `notify` with what it waits for and how much longer."""
    started = time.monotonic()
    report = Report()
    try:
        if accepted:
            await_settled(settings, accepted, report, notify)
        with tempfile.TemporaryDirectory(prefix="tandem-verify-") as directory:
            _Proof(settings, report, Path(directory), notify).run(accepted)
    except (Unproven, Transient, Fatal) as error:
        report.doubt_all(str(error))
    except KafkaException as error:
        report.doubt_all(f"Kafka at {settings.brokers} does not answer: {error.args[0].str()}")
    except psycopg.Error as error:
        report.doubt_all(f"a database went away: {describe(error)}")
    report.took_s = time.monotonic() - started
    return report


class _Proof:
    """One proof under way. `directory` holds the lines on disk."""

    def __init__(self, settings: Settings, report: Report, directory: Path, notify: Notify) -> None:
        self._settings = settings
        self._report = report
        self._directory = directory
        self._notify = notify
        self._notify_at_s = time.monotonic() + NOTIFY_AFTER_S
        self._digits = 0
        self._has_requests = False
        self._log = Log(settings.brokers, CLIENT_ID)
        self._topic_ids: dict[str, str] = {}
        self._entered: dict[str, dict[Partition, tuple[int, int]]] = {}

    def run(self, accepted: Sequence[str]) -> None:
        self._log.wait()
        topics = self._log.topics(TOPICS)
        check_partition_counts(topics)
        self._topic_ids = {name: topic.topic_id for name, topic in topics.items()}
        starts = {partition: first for partition, (first, _) in self._log.bounds(TOPICS).items()}
        # Before the snapshots: what is in the log was committed before.
        self._entered = {topic: self._log.bounds([topic]) for topic in ENTERED}
        with self._snapshots(starts) as (databases, first, problems):
            if problems:
                for problem in problems:
                    for statement in (DECIDED, OUTCOME, ONCE, WAITING):
                        self._report.doubt(statement, problem)
                self._audit(databases, self._report)
                return
            unlisted, is_suspicious = self._first_pass(databases, first, accepted)
        if trimmed := sum(start > 0 for start in starts.values()):
            self._report.notes.append(
                f"{trimmed} partitions are trimmed: statements about the log hold as far as it is kept"
            )
        if unlisted or is_suspicious or first.behind():
            self._second_pass(first, unlisted)
        if not self._report.checked[DECIDED] and not self._report.violations.total():
            self._report.doubt(DECIDED, "there is no order in the log, so nothing was proved about orders")

    @contextmanager
    def _snapshots(self, starts: Mapping[Partition, int]) -> Iterator[tuple[list[Snapshot], Progress, list[str]]]:
        """The databases, how far they and the log have come, and why they do not belong together, if they do not."""
        committed: dict[GroupPartition, int] = {}
        for group in READERS[ORDERS]:
            offsets = self._log.committed(group, starts)
            committed |= {(group, *partition): offset for partition, offset in offsets.items()}
        published = {partition: end for partition, (_, end) in self._log.bounds([OUTCOMES]).items()}
        with snapshots(self._settings.urls) as databases:
            ends = {partition: end for partition, (_, end) in self._log.bounds(TOPICS).items()}
            problems = mismatches(stored_positions(databases), self._topic_ids, ends)
            yield databases, progress_of(databases, starts, ends, committed, published), problems

    # The first pass

    def _first_pass(
        self, databases: Sequence[Snapshot], progress: Progress, accepted: Sequence[str]
    ) -> tuple[list[tuple[Partition, int]], bool]:
        """Judge everything, and end the snapshots as soon as they are read: while one is open, tables grow. Returns the
        records that are no events and not listed as parked, and whether anything has to be judged again: an order,
        balances, stock or what waits."""
        self._has_requests = bool(databases[0].query("SELECT FROM requests LIMIT 1"))
        records = sum(end - progress.starts[p] for p, end in progress.ends.items())
        self._digits = buckets.digits_for(records)
        with _executor(self._settings.workers if records > INLINE_RECORDS else 0) as executor:
            reading = self._read_log(executor, progress.starts, progress.ends, progress.answered, "l0")
            self._write("q0", self._requests(databases[0]))
            self._write_claims(databases[0], progress)
            self._write("a0", (f"{order_id}|{Tag.ACCEPTED}" for order_id in accepted))
            for snapshot in databases:
                with self._writer(f"d0-{snapshot.database}") as writer:
                    for name, lines in snapshot.blocks(self._digits):
                        writer.write_lines(name, lines)
            trial = Report()
            self._audit(databases, trial)
            parked = [(snapshot.group, snapshot.parked()) for snapshot in databases]
            skipped = skipped_by_all(databases)
            for snapshot in databases:
                snapshot.close()
            names, shares = buckets.bucket_names(self._digits), 4 * self._settings.workers
            contents = list(self._counting(reading, then=min(shares, len(names))))
            judging = [
                executor.submit(bucket.judge_all, self._directory, share, progress)
                for i in range(shares)
                if (share := names[i::shares])
            ]
            for checked in self._counting(judging, already=len(reading)):
                self._report.checked += checked
        for content in contents:
            self._report.records += content.records
            self._check_parked(parked, content)
            for partition, missing in content.gaps:
                self._check_gap(partition, missing, skipped)
        unlisted = [record for c in contents for record in c.unreadable if progress.unlisted(*record)]
        if strange := sum(partition.topic == OUTCOMES for c in contents for partition, _ in c.unreadable):
            self._report.notes.append(
                f"{strange} records of {OUTCOMES!r} are no outcomes: no service of Tandem's reads them"
            )
        self._report.checked += trial.checked
        self._report.parked = trial.parked
        self._report.oldest_unsettled_s = trial.oldest_unsettled_s
        self._keep_doubts(trial)
        is_suspicious = any(True for _ in bucket.suspects_of(self._directory)) or bool(trial.violations)
        return unlisted, is_suspicious

    def _writer(self, source: str) -> buckets.Writer:
        return buckets.Writer(self._directory, source, self._digits)

    def _write(self, source: str, lines: Iterable[str]) -> None:
        with self._writer(source) as writer:
            for line in lines:
                writer.write(line)

    def _requests(self, order: Snapshot) -> Iterator[str]:
        """A line of each idempotency key, with the digest of the event stored under it. Reports what is wrong there."""
        for request in order.requests():
            yield f"{request.order_id}|{Tag.REQUEST}|{digest(request.event)}"
            if fault := audit.request_fault(request):
                subject = f"idempotency key {request.key!r} of {request.customer_id!r}"
                self._report.violate(subject, Finding(ONCE, fault))

    def _write_claims(self, order: Snapshot, progress: Progress) -> None:
        """Where the log is trimmed, write the orders whose rows name a trimmed record. Such a row is all that is left
        of its order, so no two may name the same record."""
        trimmed = {p.number: start for p, start in progress.starts.items() if p.topic == ORDERS and start > 0}
        if trimmed:
            self._write("t0", (f"{order_id}|{Tag.CLAIM}" for order_id in order.claims(trimmed)))
            audit.audit_claims(order, self._report)

    def _check_parked(
        self, databases: Iterable[tuple[str, Mapping[GroupPartition, Mapping[int, Parked]]]], contents: Contents
    ) -> None:
        """A parked event must be what the log has at its offset. Given what each group has parked."""
        for group, parked in databases:
            for (_, topic, number), rows in parked.items():
                partition = Partition(topic, number)
                for offset, row in rows.items():
                    if contents.parked.get((partition, offset), row.digest) != row.digest:
                        problem = f"what {group} has parked from there is not what the log has"
                        self._report.violate(f"record {partition}@{offset}", Finding(WAITING, problem))

    def _check_gap(self, partition: Partition, missing: range, skipped: Collection[tuple[Partition, int]]) -> None:
        """Offsets without a record are a loss, unless a transaction took them, or an operator had all readers skip
        them: then the report says so."""
        empty = offsets_without_record(self._log.brokers, self._log.admin, partition, missing.start, missing.stop)
        lost = [offset for offset in missing if offset not in empty]
        if any((partition, offset) not in skipped for offset in lost):
            problem = f"{partition} has no records from offset {missing[0]} to {missing[-1]}"
            self._report.violate("log", Finding(DECIDED, problem))
        elif lost:
            self._report.notes.append(
                f"{len(lost)} records of {partition}, from offset {lost[0]} to {lost[-1]}, are gone, and all readers "
                "were told to skip them: nothing is proved of what they were"
            )

    def _read_log(
        self,
        executor: Executor,
        starts: Mapping[Partition, int],
        ends: Mapping[Partition, int],
        answered: Mapping[tuple[str, int], Answered],
        source: str,
    ) -> list[Future[Contents]]:
        """Have the log read; every worker takes a share of the partition numbers."""
        workers = self._settings.workers
        return [
            executor.submit(
                read,
                self._settings.brokers,
                {p: (starts[p], end) for p, end in sorted(ends.items()) if p.number % workers == worker},
                answered,
                self._has_requests,
                (self._directory, f"{source}-{worker}", self._digits),
            )
            for worker in range(workers)
        ]

    def _counting(self, parts: Sequence[Future[_T]], *, already: int = 0, then: int = 0) -> Iterator[_T]:
        """The results of the parts. Now and then, a person hears how many are done; `already` were, `then` follow."""
        for number, part in enumerate(parts, already + 1):
            yield part.result()
            if time.monotonic() >= self._notify_at_s:
                self._notify_at_s = time.monotonic() + NOTIFY_AFTER_S
                self._notify(parts_done(number, already + len(parts) + then))

    def _audit(self, databases: Sequence[Snapshot], report: Report) -> None:
        """Judge what concerns one database alone."""
        order, payment, inventory = databases
        audit.audit_money(payment, report)
        audit.audit_stock(inventory, report)
        for topic, database in ((DEPOSITS, payment), (RESTOCKS, inventory)):
            entered.audit(topic, self._log.events(self._entered[topic]), database, report)
        report.parked += [row for snapshot in databases for row in snapshot.parked_open()]
        audit.audit_waiting(order, report, self._settings.deadline_s, report.parked)
        for snapshot in databases:
            for reason in snapshot.stops():
                report.doubt(WAITING, f"{snapshot.group} is stopped until 'just dlq resume': {reason}")
        report.checked[WAITING] += len(report.parked)

    # The second pass

    def _second_pass(self, first: Progress, unlisted: Iterable[tuple[Partition, int]]) -> None:
        """Judge the suspects again once all readers have passed the ends of the first pass."""
        behind = await_readers(self._settings, first, self._notify)
        with self._snapshots(first.starts) as (databases, second, problems):
            if problems:
                raise Unproven("; ".join(problems))
            trial = Report()
            self._audit(databases, trial)
            self._conclude_audit(trial, is_behind=bool(behind))
            with _executor(0) as executor:
                for future in self._read_log(executor, first.ends, second.ends, {}, "l1"):
                    future.result()
            unread = self._judge_suspects(databases, first, second)
        for partition, offset in unlisted:
            if groups := second.unlisted(partition, offset):
                problem = f"it is not an event, and {', '.join(groups)} does not list it as parked"
                self._report.violate(f"record {partition}@{offset}", Finding(WAITING, problem))
        if behind:
            for reader in behind:
                self._report.doubt(DECIDED, str(reader), 0)
            self._report.doubt(DECIDED, f"{unread} orders have records that were not read", max(unread, 1))

    def _judge_suspects(self, databases: Sequence[Snapshot], first: Progress, second: Progress) -> int:
        """Returns how many of them have records that were not read."""
        for chunk in chunks(filter(is_order_id, bucket.suspects_of(self._directory)), IDS_AT_ONCE):
            for snapshot in databases:
                self._write(f"e1-{snapshot.database}", snapshot.lines(chunk))
        unread = 0
        for name in buckets.bucket_names(self._digits):
            for suspect in bucket.judge_suspects(self._directory, name, first, second):
                unread += suspect.is_unread
                for finding in suspect.findings:
                    details = {}
                    if self._report.violations[finding.statement] < OFFENDERS_SHOWN:
                        details = about_order(suspect.order_id, suspect.evidence, second, databases)
                    self._report.violate(f"order {suspect.order_id}", finding, details)
        return unread

    def _conclude_audit(self, trial: Report, *, is_behind: bool) -> None:
        """Balances and stock are violations as they stand; what waits is one only when no reader is behind."""
        self._keep_doubts(trial)
        for offender in trial.offenders:
            if offender.statement is WAITING and is_behind:
                self._report.doubt(WAITING, f"{offender.subject}: {offender.problem}; a reader is behind")
            else:
                self._report.violate(offender.subject, Finding(offender.statement, offender.problem), offender.details)
        for statement, count in trial.violations.items():
            if statement in self._report.violations:
                self._report.violations[statement] = max(count, self._report.violations[statement])

    def _keep_doubts(self, trial: Report) -> None:
        """An order that waits for an operator in one pass stays unproven, whatever the other pass finds."""
        for reason in trial.reasons.get(WAITING, []):
            if reason not in self._report.reasons.get(WAITING, []):
                self._report.doubt(WAITING, reason)


def _executor(workers: int) -> Executor:
    """Worker processes, or a thread for a small history. Spawned: a Kafka client does not survive a fork."""
    if not workers:
        return ThreadPoolExecutor(1)
    # The judged objects have no reference cycles, and looking for some among so many would cost a quarter of the time.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=gc.disable)
