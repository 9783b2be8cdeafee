"""The proof, step by step.

1. Read where the log begins and what the groups have committed.
2. Take the snapshots, each with its positions: the order database first, then payment and inventory.
3. Read where the log ends, and the log up to there. Hold every row against exactly those records that its reader had
   passed when its snapshot was taken.
4. Wait until all readers have passed those ends. Look again at every offender and at every order that had unread
   records, with new snapshots. What remains is a violation; what its reader did not come to is unproven.

Why this order raises no false alarm:

- The log is read last, so it holds every record that any snapshot knows of: a row without its record is a forgery or a
  loss, not a race. The trim points are read first: what is deleted later is noticed by the reading itself.
- The order database speaks of the two others only by what they have published, which they had committed before. Their
  snapshots are later than its own, so they are as far as it knows, or further: `completed` there may have become
  `refunded`, never the other way. Taken before it, they could lag behind what it knows, and each running order would
  be an alarm. Payment and inventory know nothing of one another, so their order is free.
- The two others speak of an order only by records of `orders`, never by its row.
- Committed offsets are read before the positions, so they are never ahead of them in a healthy system; and what lay
  below one had been published before, so it is in the log by the time its ends are read.
- Balance and ledger, stock and movements stand in one snapshot each.
"""

import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg

from common.events import ORDERS, READERS
from common.kafka.broker import Partition
from ops.verify.evidence import buckets
from ops.verify.evidence.lines import ACCEPTED, CLAIM, REQUEST, SEPARATOR, TYPES
from ops.verify.evidence.progress import TOPICS, Behind, Marks, Place, Quiet, quiet
from ops.verify.judge import bucket
from ops.verify.judge.bucket import SecondLook
from ops.verify.judge.keys import digest, fault
from ops.verify.report import OFFENDERS_SHOWN, Report
from ops.verify.sources import databases
from ops.verify.sources.broker import Bounds, Log
from ops.verify.sources.databases import DATABASES, Snapshot
from ops.verify.sources.log import Contents, Range, read_aside
from ops.verify.statements import Finding, Statement, Unproven

PATIENCE_S: Final = 30.0
"""How long a reader may stand still before what it has not read is unproven."""
CATCH_UP_S: Final = 600.0
"""How long readers may take to pass the ends, as long as they move."""
SETTLE_S: Final = 60.0
PENDING_GRACE_S: Final = 60.0
COMPENSATION_S: Final = 300.0
CLOCKS_S: Final = 60.0
"""How far the broker's clock may be ahead of the database's."""
POLL_S: Final = 0.2
INLINE_RECORDS: Final = 100_000
"""With fewer records than this, starting worker processes takes longer than they save."""
IDS_AT_ONCE: Final = 50_000

SAY_AFTER_S: Final = 1.0
SAY_EVERY_S: Final = 5.0

Say = Callable[[str], None]
T = TypeVar("T")


def ignore(_: str) -> None:
    """Nobody listens."""


class _Waiting:
    """Tells what is waited for: soon, and then now and then."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._due = time.monotonic() + SAY_AFTER_S

    def tell(self, what: str) -> None:
        if time.monotonic() >= self._due:
            self._say(what)
            self._due = time.monotonic() + SAY_EVERY_S


@dataclass(frozen=True)
class Settings:
    """Where to look, and how long to wait."""

    servers: str
    urls: Mapping[str, str]
    deadline_s: float
    compensation_s: float = COMPENSATION_S
    patience_s: float = PATIENCE_S
    settle_s: float = SETTLE_S
    workers: int = 2


def prove(settings: Settings, accepted: Sequence[str] = (), say: Say = ignore) -> Report:
    """Audit everything once. What keeps the whole proof from being made is in the report, as unproven. While something
    is waited for, `say` is told what, and for how long yet."""
    started = time.monotonic()
    report = Report()
    try:
        if accepted:
            _await_settled(settings, accepted, report, say)
        with tempfile.TemporaryDirectory(prefix="tandem-verify-") as directory:
            _Proof(settings, report, Path(directory), accepted, say).run()
    except Unproven as reason:
        report.doubt_all(str(reason))
    except psycopg.Error as error:
        report.doubt_all(f"a database went away: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
    report.took_s = time.monotonic() - started
    return report


class _Proof:
    """One proof under way. `directory` holds what is put aside."""

    def __init__(self, settings: Settings, report: Report, directory: Path, accepted: Sequence[str], say: Say) -> None:
        self._settings = settings
        self._report = report
        self._directory = directory
        self._accepted = accepted
        self._say = say
        self._has_requests = False
        self._log = Log(settings.servers)

    def run(self) -> None:
        topic_ids = self._log.topic_ids()
        starts = self._log.bounds().starts
        committed = self._log.committed()
        with ExitStack() as stack:
            snapshots = [stack.enter_context(Snapshot(name, self._settings.urls[name])) for name in DATABASES]
            ends = self._log.bounds().ends
            if problems := foreign(snapshots_positions(snapshots), topic_ids, ends):
                for problem in problems:
                    for statement in (Statement.DECIDED, Statement.OUTCOME, Statement.ONCE, Statement.WAITING):
                        self._report.doubt(statement, problem)
                self._audit_databases(snapshots)
                return
            marks = _marks(snapshots, Bounds(starts, ends), committed)
            unlisted, gaps, again, suspicious = self._first_look(snapshots, marks)
        self._note_trimmed(marks)
        for gap in gaps:
            self._report.violate("log", Finding(Statement.DECIDED, gap))
        if again or unlisted or suspicious or marks.behind():
            self._second_look(marks, topic_ids, unlisted)
        if not self._report.checked[Statement.DECIDED] and not self._report.violations.total():
            self._report.doubt(Statement.DECIDED, "there is no order in the log: nothing was proved about any")

    # The first look

    def _first_look(
        self, snapshots: Sequence[Snapshot], marks: Marks
    ) -> tuple[list[tuple[Partition, int]], list[str], int, bool]:
        """Judge all. Returns the records that are no events and not listed, gaps, how many orders to look at again,
        and whether balances, stock or waiting orders look wrong."""
        self._has_requests = snapshots[0].has_requests()
        records = sum(end - marks.starts[p] for p, end in marks.ends.items())
        digits = buckets.digits_for(records)
        ranges = [Range(p, marks.starts[p], end) for p, end in sorted(marks.ends.items())]
        with _executor(self._settings.workers if records > INLINE_RECORDS else 0) as executor:
            reading = self._read_log(executor, ranges, quiet(marks), "l0", digits)
            self._put_requests_aside(snapshots[0], digits)
            self._put_claims_aside(snapshots[0], marks, digits)
            accepted = buckets.Writer(self._directory, "a0", digits)
            for order_id in self._accepted:
                accepted.write(SEPARATOR.join((order_id, ACCEPTED)))
            accepted.flush()
            for snapshot in snapshots:
                writer = buckets.Writer(self._directory, f"d0-{snapshot.database}", digits)
                for block in snapshot.blocks(digits):
                    writer.write_lines(*block)
                writer.flush()
            trial = Report()
            self._audit_databases(snapshots, trial)
            contents = [future.result() for future in reading]
            names = buckets.bucket_names(digits)
            shares = [names[i :: 4 * self._settings.workers] for i in range(4 * self._settings.workers)]
            looks = [executor.submit(bucket.look, self._directory, share, marks).result for share in shares if share]
            again = 0
            for look in [look() for look in looks]:
                self._report.checked += look.checked
                again += look.again
        self._report.records = sum(c.records for c in contents)
        for content in contents:
            self._hold_parked(snapshots, content)
        unlisted = [place for c in contents for place in c.unreadable if marks.unlisted(*place[0], place[1])]
        self._report.checked += trial.checked
        self._report.parked = trial.parked
        self._report.oldest_unsettled_s = trial.oldest_unsettled_s
        self._share_doubts(trial)
        return unlisted, [gap for c in contents for gap in c.gaps], again, bool(trial.violations)

    def _put_requests_aside(self, order: Snapshot, digits: int) -> None:
        """What is stored under idempotency keys, each with the digest of its event."""
        writer = buckets.Writer(self._directory, "q0", digits)
        for request in order.requests():
            writer.write(SEPARATOR.join((request.order_id, REQUEST, digest(request.event))))
            if what := fault(request):
                subject = f"idempotency key {request.key!r} of {request.customer_id!r}"
                self._report.violate(subject, Finding(Statement.ONCE, what))
        writer.flush()

    def _put_claims_aside(self, order: Snapshot, marks: Marks, digits: int) -> None:
        """Where the log is trimmed, the orders whose rows name a record that was. Such a row is all that is left of
        its order, so no two may name the same record."""
        trimmed = {p.number: start for p, start in marks.starts.items() if p.topic == ORDERS and start > 0}
        if not trimmed:
            return
        writer = buckets.Writer(self._directory, "t0", digits)
        for order_id in order.claims(trimmed):
            writer.write(SEPARATOR.join((order_id, CLAIM)))
        writer.flush()
        for row in order.query(databases.CLAIMED_TWICE):
            what = f"its row and that of {row['other']} name the same record of {row['source']}"
            what += f": partition {row['partition']}, offset {row['offset']}"
            self._report.violate(f"order {row['order_id']}", Finding(Statement.ONCE, what))

    def _hold_parked(self, snapshots: Sequence[Snapshot], contents: Contents) -> None:
        """What is parked must be what the log has at its place."""
        for snapshot in snapshots:
            for (_, topic, number), rows in snapshot.parked().items():
                partition = Partition(topic, number)
                for offset, row in rows.items():
                    in_log = contents.parked.get((partition, offset))
                    if in_log is not None and in_log != row.digest:
                        what = f"what {snapshot.group} has parked from there is not what the log has"
                        self._report.violate(f"record {partition}@{offset}", Finding(Statement.WAITING, what))

    def _read_log(
        self, executor: Executor, ranges: Sequence[Range], quiet: Mapping[Partition, Quiet], source: str, digits: int
    ) -> list[Future[Contents]]:
        """Have the log read, by every worker a share of the partition numbers."""
        workers = self._settings.workers
        return [
            executor.submit(
                read_aside,
                self._settings.servers,
                [r for r in ranges if r.partition.number % workers == worker],
                quiet,
                self._has_requests,
                (self._directory, f"{source}-{worker}", digits),
            )
            for worker in range(workers)
        ]

    # What concerns one database alone

    def _audit_databases(self, snapshots: Sequence[Snapshot], report: Report | None = None) -> None:
        report = report or self._report
        order, payment, inventory = snapshots
        _audit_money(payment, report)
        _audit_stock(inventory, report)
        parked = [row for snapshot in snapshots for row in snapshot.parked_open()]
        _audit_waiting(order, report, self._settings, parked)
        report.parked += parked
        for snapshot in snapshots:
            for reason in snapshot.stops():
                report.doubt(Statement.WAITING, f"{snapshot.group} is stopped until 'just dlq resume': {reason}")
        report.checked[Statement.WAITING] += len(report.parked)

    # The second look

    def _second_look(
        self, first: Marks, topic_ids: Mapping[str, str], unlisted: Sequence[tuple[Partition, int]]
    ) -> None:
        behind = self._await_readers(first)
        committed = self._log.committed()
        with ExitStack() as stack:
            snapshots = [stack.enter_context(Snapshot(name, self._settings.urls[name])) for name in DATABASES]
            ends = self._log.bounds().ends
            if problems := foreign(snapshots_positions(snapshots), topic_ids, ends):
                raise Unproven("; ".join(problems))
            second = _marks(snapshots, Bounds(dict(first.starts), ends), committed)
            trial = Report()
            self._audit_databases(snapshots, trial)
            self._conclude_databases(trial, behind)
            digits = buckets.digits_for(sum(end - first.starts[p] for p, end in first.ends.items()))
            with _executor(0) as executor:
                newer = [Range(p, first.ends[p], end) for p, end in sorted(ends.items())]
                for future in self._read_log(executor, newer, {}, "l1", digits):
                    future.result()
            names = buckets.bucket_names(digits)
            self._fetch_suspects(snapshots, names, digits)
            unread = 0
            for name in names:
                for look in bucket.look_again(self._directory, name, first, second):
                    unread += look.is_unread
                    for finding in look.findings:
                        self._violate_order(look, finding, second, snapshots)
            for partition, offset in unlisted:
                if groups := second.unlisted(*partition, offset):
                    self._report.violate(
                        f"record {partition}@{offset}",
                        Finding(
                            Statement.WAITING, f"it is not an event, and {', '.join(groups)} does not list it as parked"
                        ),
                    )
        if behind:
            for lag in behind:
                self._report.doubt(Statement.DECIDED, str(lag), 0)
            self._report.doubt(Statement.DECIDED, f"{unread} orders have records that were not read", max(unread, 1))

    def _await_readers(self, marks: Marks) -> list[Behind]:
        """Wait until every reader has passed the ends. Returns those that have not moved for a while."""
        moved = time.monotonic()
        until = moved + CATCH_UP_S
        last: list[Behind] | None = None
        waiting = _Waiting(self._say)
        while True:
            behind = replace(marks, positions=_positions_now(self._settings.urls)).behind()
            now = time.monotonic()
            if behind != last:
                moved = now
            if not behind or now - moved > self._settings.patience_s or now > until:
                return behind
            others = f" and {len(behind) - 1} other readers" if len(behind) > 1 else ""
            waiting.tell(
                f"waiting: {behind[0]}{others}; nothing has moved for {now - moved:.0f} s, "
                f"after {self._settings.patience_s:.0f} s it is unproven"
            )
            last = behind
            time.sleep(POLL_S)

    def _conclude_databases(self, trial: Report, behind: Sequence[Behind]) -> None:
        """Balances and stock are violations as they stand; what waits is one only when all readers have come by."""
        self._share_doubts(trial)
        for offender in trial.offenders:
            finding = Finding(offender.statement, offender.what)
            if offender.statement is Statement.WAITING and behind:
                self._report.doubt(Statement.WAITING, f"{offender.subject}: {offender.what}; a reader is behind")
            else:
                self._report.violate(offender.subject, finding, offender.known)
        for statement, count in trial.violations.items():
            if statement in self._report.violations:
                self._report.violations[statement] = max(count, self._report.violations[statement])

    def _share_doubts(self, trial: Report) -> None:
        """What one look found to wait for an operator stays unproven, whatever the other one saw."""
        for reason in trial.reasons.get(Statement.WAITING, []):
            if reason not in self._report.reasons.get(Statement.WAITING, []):
                self._report.doubt(Statement.WAITING, reason)

    def _fetch_suspects(self, snapshots: Sequence[Snapshot], names: Sequence[str], digits: int) -> None:
        """Put the rows of the suspects aside as they are now."""
        ids: list[str] = []

        def fetch() -> None:
            for snapshot in snapshots:
                writer = buckets.Writer(self._directory, f"e1-{snapshot.database}", digits)
                for line in snapshot.lines(orders=ids):
                    writer.write(line)
                writer.flush()
            ids.clear()

        for name in names:
            ids += filter(_is_uuid, bucket.to_look_at_again(self._directory, name))
            if len(ids) >= IDS_AT_ONCE:
                fetch()
        if ids:
            fetch()

    def _violate_order(self, look: SecondLook, finding: Finding, marks: Marks, snapshots: Sequence[Snapshot]) -> None:
        known = {}
        if self._report.violations[finding.statement] < OFFENDERS_SHOWN:
            known = _known(look, marks, snapshots)
        self._report.violate(f"order {look.order_id}", finding, known)

    def _note_trimmed(self, marks: Marks) -> None:
        if trimmed := sum(start > 0 for start in marks.starts.values()):
            self._report.notes.append(
                f"{trimmed} partitions are trimmed: statements about the log hold as far as it is kept"
            )


# Steps


def _executor(workers: int) -> Executor:
    """Worker processes, or none for what is small. Spawned: a Kafka client does not survive a fork."""
    if not workers:
        return _Inline()
    # What is judged refers to nothing in a circle, and looking for circles among so much would cost a quarter of it.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=gc.disable)


class _Inline(Executor):
    """Does at once, in this process, what it is given."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def snapshots_positions(snapshots: Sequence[Snapshot]) -> dict[Place, databases.Stored]:
    return {place: stored for snapshot in snapshots for place, stored in snapshot.positions.items()}


def foreign(
    stored: Mapping[Place, databases.Stored], topic_ids: Mapping[str, str], ends: Mapping[Partition, int]
) -> list[str]:
    """Why these databases and this log do not belong together, if so."""
    found = []
    for (group, topic, number), (topic_id, offset) in stored.items():
        if topic not in TOPICS:
            continue
        end = ends.get(Partition(topic, number))
        if topic_ids[topic] != topic_id:
            found.append(f"{group} has read another topic {topic!r} ({topic_id}) than this one ({topic_ids[topic]})")
        elif end is None:
            found.append(f"{group} has read {topic}/{number}, which does not exist")
        elif offset > end:
            found.append(
                f"{topic}/{number} ends at offset {end}, and {group} has read up to {offset}: records are gone"
            )
    for topic, groups in READERS.items():
        known = sum(partition.topic == topic for partition in ends)
        for group in groups:
            count = sum(place[:2] == (group, topic) for place in stored)
            if count not in (0, known):
                found.append(f"{group} has positions in {count} partitions of {topic}, which has {known}")
    return list(dict.fromkeys(found))


def _marks(snapshots: Sequence[Snapshot], bounds: Bounds, committed: Mapping[Place, int]) -> Marks:
    parked: dict[Place, dict[int, str]] = {}
    for snapshot in snapshots:
        for place, rows in snapshot.parked().items():
            parked[place] = {offset: row.fate for offset, row in rows.items()}
    positions = {place: stored.next_offset for place, stored in snapshots_positions(snapshots).items()}
    return Marks(bounds.starts, bounds.ends, positions, committed, parked)


def _positions_now(urls: Mapping[str, str]) -> dict[Place, int]:
    found = {}
    for name in DATABASES:
        with Snapshot(name, urls[name]) as snapshot:
            found.update({place: stored.next_offset for place, stored in snapshot.positions.items()})
    return found


def _audit_money(payment: Snapshot, report: Report) -> None:
    for total in payment.query(databases.LEDGER):
        report.checked[Statement.MONEY] += total["accounts"]
        subject = f"ledger in {total['currency']}"
        if total["wrong"]:
            what = f"{total['wrong']} entries have an amount or accounts that their kind does not allow"
            report.violate(subject, Finding(Statement.MONEY, what))
        for name in ("sum_of_entries", "sum_of_accounts"):
            if total[name]:
                what = f"customers, merchant and cash add up to {total[name]}, not zero, by {name.replace('_', ' ')}"
                report.violate(subject, Finding(Statement.MONEY, what))
    for row in payment.query(databases.ACCOUNTS):
        what = f"the balance is {row['balance']} {row['currency'] or ''}, its ledger comes to {row['entered'] or 0}"
        _violate_row(report, Statement.MONEY, f"account {row['customer_id']}", what, row)


def _audit_stock(inventory: Snapshot, report: Report) -> None:
    [counted] = inventory.query(databases.STOCK)
    report.checked[Statement.STOCK] += counted["products"]
    for row in inventory.query(databases.PRODUCTS):
        what = f"{row['on_hand']} pieces are on hand, its movements come to {row['moved'] or 0}"
        if row["wrong"]:
            what += f"; {row['wrong']} of them have a quantity or an order that their kind does not allow"
        _violate_row(report, Statement.STOCK, f"product {row['product_id']}", what, row)


def _audit_waiting(order: Snapshot, report: Report, settings: Settings, parked: Sequence[databases.Row]) -> None:
    """An order that waits too long is a violation, but for one of a customer whose events are `parked`: that waits for
    the operator, who has it on the list. It is not proved to end, either."""
    first_parked: dict[str, databases.Row] = {}
    for row in parked:
        if row["customer"] is not None:
            first_parked.setdefault(row["customer"], row)
    [unsettled] = order.query(databases.UNSETTLED)
    report.checked[Statement.WAITING] += unsettled["orders"]
    report.oldest_unsettled_s = unsettled["oldest_s"]
    allowed = {"pending_s": settings.deadline_s + PENDING_GRACE_S, "compensation_s": settings.compensation_s}
    behind_parked = []
    for row in order.query(databases.OVERDUE, **allowed, clocks_s=CLOCKS_S, held=list(first_parked)):
        limit = allowed["pending_s" if row["status"] == "pending" else "compensation_s"]
        # No time, or one to come, is wrong whatever is parked.
        if row["customer_id"] in first_parked and (row["waited_s"] or 0) > limit:
            behind_parked.append(row)
            continue
        sides = f"payment {row['payment'] or 'open'}, inventory {row['inventory'] or 'open'}"
        waited = "no known time" if row["waited_s"] is None else f"{row['waited_s']:.0f} s"
        what = f"it has been {row['status']} for {waited} ({sides}), at most {limit:.0f} s are allowed"
        _violate_row(report, Statement.WAITING, f"order {row['order_id']}", what, row)
    for row in behind_parked[:OFFENDERS_SHOWN]:
        report.doubt(Statement.WAITING, _behind_parked(row, first_parked[row["customer_id"]]))
    if (more := len(behind_parked) - OFFENDERS_SHOWN) > 0:
        report.doubt(Statement.WAITING, f"so are {more} more orders of customers with parked events", more)


def _behind_parked(order: databases.Row, parked: databases.Row) -> str:
    """No times: the same is found again at the second look."""
    place = f"{parked['topic']}/{parked['partition']}@{parked['offset']}"
    return (
        f"order {order['order_id']} is {order['status']} for too long, and of its customer {order['customer_id']} "
        f"{place} is parked by {parked['service']}: redrive or discard it, see 'just dlq list'"
    )


def _violate_row(report: Report, statement: Statement, subject: str, what: str, row: databases.Row) -> None:
    """A query tells how many offenders there are with each of the first ones."""
    report.violate(subject, Finding(statement, what), {"row": {k: v for k, v in row.items() if k != "offenders"}})


def _known(look: SecondLook, marks: Marks, snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Everything known of an order."""
    known: dict[str, Any] = {}
    evidence = look.evidence
    customers = {order.customer_id for order in evidence.orders} | {p.customer_id for p in evidence.payments}
    customers |= {reservation.customer_id for reservation in evidence.reservations}
    customers |= {record.content.split(SEPARATOR)[0] for record in evidence.records if record.kind == "p"}
    for snapshot in snapshots:
        name, statement = databases.ABOUT_ORDER[snapshot.database]
        if _is_uuid(look.order_id):
            known[name] = [row["row"] for row in snapshot.query(statement, order_id=look.order_id)] or "no row"
        for customer in sorted(customers):
            if parked := snapshot.query(databases.PARKED_OF, customer_id=customer):
                known[f"parked by {snapshot.group}"] = parked
    known["ledger"] = [row._asdict() for row in evidence.entries] or "no entry"
    known["movements"] = [row._asdict() for row in evidence.movements] or "no movement"
    known["log"] = [
        {
            "event": TYPES[record.kind],
            "at": f"{record.place}@{record.offset}",
            "says": record.content,
            "read": dict(zip(READERS[record.place.topic], marks.progress(*record.place, record.offset), strict=True)),
        }
        for record in evidence.records
    ] or "no record"
    return known


def _is_uuid(text: str) -> bool:
    return len(text.replace("-", "")) == 32 and all(c in "0123456789abcdef" for c in text.replace("-", ""))


def _await_settled(settings: Settings, accepted: Sequence[str], report: Report, say: Say) -> None:
    """Give acknowledged orders a bounded time to settle."""
    waiting, told = set(accepted), _Waiting(say)
    until = time.monotonic() + settings.settle_s
    while waiting:
        with Snapshot("order", settings.urls["order"]) as snapshot:
            for chunk in _chunks(sorted(waiting), IDS_AT_ONCE):
                waiting -= databases.settled_of(snapshot, chunk)
        if waiting and time.monotonic() > until:
            some = ", ".join(sorted(waiting)[:OFFENDERS_SHOWN])
            reason = f"{len(waiting)} acknowledged orders are not settled after {settings.settle_s:.0f} s: {some}"
            report.doubt(Statement.WAITING, reason, len(waiting))
            return
        if waiting:
            left = until - time.monotonic()
            told.tell(f"waiting: {len(waiting)} acknowledged orders are not settled yet; {left:.0f} s more at most")
            time.sleep(POLL_S)


def _chunks(ids: Sequence[str], size: int) -> list[Sequence[str]]:
    return [ids[i : i + size] for i in range(0, len(ids), size)]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
