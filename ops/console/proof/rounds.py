"""The six statements as a standing panel: a light form of `ops.verify` that never ends, and the full one on demand.

Each round compares where the readers stand with where the log begins and ends, takes the newest orders of each
partition that all three readers have passed, and compares their rows (statements 1, 4 and 5). An order that looks wrong
is judged again in the next round: databases are read one after the other, the order database first, so a cancellation
in between can look like a fault once, but not twice. Balances, stock and what waits (2, 3 and 6) are sums over whole
tables, so they are audited at long rests, by `ops.verify`'s own SQL. `LIGHT`, and the page, say what this cannot see.
"""

import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, Final

import orjson

from common.codec import decoded, decoder_for
from common.config.kafka import Brokers
from common.consume.positions import Stored
from common.errors import describe
from common.events import ORDERS, READERS, OrderPlaced, now
from common.kafka.broker import Partition, all_partitions, log_bounds
from common.kafka.identity import Consumer
from common.worker import Worker
from ops.console.jobs import Job, Jobs
from ops.console.proof.judge import (
    AUDITED,
    SAMPLED,
    Evidence,
    Placed,
    Row,
    Standing,
    excuse_waiting,
    judge,
    judge_pending,
    judge_sums,
    out_of_reach,
    unread,
)
from ops.console.store import SQL
from ops.databases import Databases
from ops.log import Log, Tail
from ops.observe.gauges import ProofGauges
from ops.tool import GROUP_OF
from ops.verify.evidence.progress import GroupPartition
from ops.verify.judge import audit
from ops.verify.report import OFFENDERS_SHOWN, Report
from ops.verify.sources.databases import Snapshot, mismatches
from ops.verify.statements import DECIDED, MONEY, ONCE, OUTCOME, STOCK, WAITING, Statement, Unproven

EVERY_S: Final = 5.0
STOP_S: Final = 5.0
NEWEST: Final = 50
"""Records of each partition in a round: a sample when more arrive."""
OPEN_MAX: Final = 1_000
"""Orders that are judged again when they have settled."""
AUDIT_EVERY_S: Final = 30.0
AUDIT_REST_MAX_S: Final = 1_200.0
"""So that `TandemProofTooOld` waits for at least two audits, however long one takes."""
REST: Final = 100
"""A round rests this many times as long as it used the CPU, an audit as long as it took: a hundredth of a core at
most."""
REST_MAX_S: Final = 30.0
PENDING_S: Final = 60.0
"""How old an order is that should long be decided if no reader is behind."""
TOPICS: Final = tuple(READERS)

Bounds = Mapping[Partition, tuple[int, int]]


def rest_after(cpu_s: float) -> float:
    """The rest after a round that took this much CPU here: time that a source let it wait is no work."""
    return max(EVERY_S, min(REST_MAX_S, REST * cpu_s))


def audit_rest_after(took_s: float) -> float:
    """The rest after an audit."""
    return max(AUDIT_EVERY_S, min(AUDIT_REST_MAX_S, REST * took_s))


class StandingProof:
    """A task of the process: one round after the other."""

    def __init__(
        self,
        brokers: Brokers,
        databases: Databases,
        auditor_urls: Mapping[str, str],
        deadline_s: int,
        publish: Callable[[dict[str, Any]], None],
        gauges: ProofGauges,
    ) -> None:
        self._log = Log(brokers, "console-proof")
        self._databases = databases
        self._urls = auditor_urls
        self._deadline_s = deadline_s
        self._publish = publish
        self._gauges = gauges
        self._standing = Standing()
        self._seen: dict[Partition, int] = {}
        self._open: OrderedDict[str, Placed] = OrderedDict()
        self._every_s = EVERY_S
        self._audit_every_s = AUDIT_EVERY_S
        self._audit_at_s = 0.0
        self._unanswered: set[str] = set()
        """Answers that the last audit missed."""
        self._rounds = 0
        self._took_s = 0.0
        self._full: dict[str, Any] | None = None
        self._worker = Worker("proof", self._run, retries_fatal=True, stop_timeout_s=STOP_S)

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._worker.stop()

    def missing(self) -> list[str]:
        return self._worker.missing()

    def _run(self) -> None:
        consumer = self._log.consumer()
        self._worker.report("")
        try:
            while not self._worker.stopping.is_set():
                self._worker.stopping.wait(self.round(consumer, audit=time.monotonic() >= self._audit_at_s))
        finally:
            consumer.close()

    def round(self, consumer: Consumer, *, audit: bool) -> float:
        """Judge what is new, audit the tables if wanted, and publish how the statements stand. Returns how many seconds
        to rest."""
        began_s, began_cpu_s = time.monotonic(), time.thread_time()
        self._attempt(SAMPLED, lambda: self._sample(consumer))
        rest_s = rest_after(time.thread_time() - began_cpu_s)
        self._took_s = time.monotonic() - began_s
        if audit:
            audit_began_s = time.monotonic()
            succeeded = self._attempt(AUDITED, self._audit)
            audit_s = time.monotonic() - audit_began_s
            self._audit_every_s = audit_rest_after(audit_s if succeeded else 0.0)
            self._audit_at_s = time.monotonic() + self._audit_every_s
        self._every_s = rest_s
        self._rounds += 1
        self._show()
        return rest_s

    def _attempt(self, statements: Sequence[Statement], check: Callable[[], None]) -> bool:
        """Check, and say of these statements that they hold, or why that is not known. Returns whether it could be
        checked."""
        at, clock_s = now(), time.monotonic()  # the proof says nothing about what comes while it lasts
        try:
            check()
        except Exception as error:
            self._standing.doubt(statements, str(error) if isinstance(error, Unproven) else describe(error))
            return False
        self._standing.hold(statements, at, clock_s)
        return True

    def _sample(self, consumer: Consumer) -> None:
        """Judge the newest orders, those that have settled since, and those that looked wrong. Raises `Unproven` when
        the positions and the log do not belong together."""
        positions = self._positions()
        topics = self._log.topics(TOPICS)
        bounds = log_bounds(self._log.admin, all_partitions(topics.values()))  # after the positions, which may rise
        for placed in self._newest(consumer, positions, bounds):
            self._open[placed.order_id] = placed
            self._standing.checked[DECIDED] += 1
        self._make_room()
        if self._open:
            self._judge_open()
        topic_ids = {name: topic.topic_id for name, topic in topics.items()}
        ends = {partition: end for partition, (_, end) in bounds.items()}
        problems = mismatches(positions, topic_ids, ends) + out_of_reach(positions, bounds) + unread(positions, bounds)
        if problems:
            raise Unproven("; ".join(problems))

    def _make_room(self) -> None:
        """Forget the oldest orders of too many; last of all those that looked wrong."""
        while len(self._open) > OPEN_MAX:
            right = (order_id for order_id in self._open if not self._standing.looks_wrong(order_id))
            del self._open[next(right, next(iter(self._open)))]

    def _judge_open(self) -> None:
        evidence = self._evidence(list(self._open.values()))
        judged = {order_id: judge(self._open[order_id], found) for order_id, found in evidence.items()}
        self._standing.take(judged)
        for order_id, found in evidence.items():
            if found.settled or (found.order is None and not judged[order_id]):
                self._standing.checked[OUTCOME] += found.settled
                self._standing.checked[ONCE] += (found.payment is not None) + (found.reservation is not None)
                if not judged[order_id]:
                    del self._open[order_id]

    def _positions(self) -> dict[GroupPartition, Stored]:
        """How far the readers have come."""
        return {
            (GROUP_OF[name], row["topic"], row["partition"]): Stored(row["topic_id"], row["next_offset"])
            for name, database in self._databases.items()
            for row in database.query(SQL["positions"])
        }

    def _newest(
        self, consumer: Consumer, positions: Mapping[GroupPartition, Stored], bounds: Bounds
    ) -> Iterator[Placed]:
        """The newest orders that every reader has passed and that were not judged before."""
        for partition, (start, end) in bounds.items():
            readers = [positions.get((group, *partition)) for group in READERS[partition.topic]]
            passed = [stored.next_offset for stored in readers if stored is not None]
            if partition.topic != ORDERS or None in readers or max(passed) > end:
                continue  # a reader that is past the end has not read what came since
            end = min(end, *passed)
            seen = self._seen.get(partition, 0)
            first = max(seen if seen <= end else 0, end - NEWEST, start)  # a new topic begins at 0 again
            tail = Tail(consumer, partition, first, end)
            while tail.is_open:
                for message in tail.fetch():
                    event = decoded(decoder_for[ORDERS].decode, message.value())
                    if isinstance(event, OrderPlaced):
                        data = event.data
                        yield Placed(data.order_id, data.customer_id, partition.number, message.offset() or 0)
            self._seen[partition] = end

    def _evidence(self, placed: Sequence[Placed]) -> dict[str, Evidence]:
        """What the databases say of these orders, the order database first."""
        named = {"orders": [order.order_id for order in placed]}
        customers = sorted({order.customer_id for order in placed})
        order, payment, inventory = (self._databases[name] for name in ("order", "payment", "inventory"))
        orders = {row["order_id"]: row for row in order.query(SQL["proof_orders"], **named)}
        payments = {row["order_id"]: row for row in payment.query(SQL["proof_payments"], **named)}
        entries: dict[str, dict[str, Row]] = {}
        for row in payment.query(SQL["proof_entries"], **named, customers=customers):
            entries.setdefault(row["order_id"], {})[row["kind"]] = row
        reservations = {row["order_id"]: row for row in inventory.query(SQL["proof_reservations"], **named)}
        places = {"partitions": [p.partition for p in placed], "offsets": [p.offset for p in placed]}
        parked = {
            name: {(row["partition"], row["offset"]) for row in database.query(SQL["proof_parked"], **places)}
            for name, database in self._databases.items()
        }
        return {
            order_id: Evidence(
                orders.get(order_id),
                payments.get(order_id),
                entries.get(order_id, {}),
                reservations.get(order_id),
                frozenset(name for name, rows in parked.items() if (partition, offset) in rows),
            )
            for order_id, _, partition, offset in placed
        }

    def _audit(self) -> None:
        """Audit what concerns one database alone."""
        report = Report()
        parked: list[dict[str, Any]] = []
        for name, url in self._urls.items():
            with Snapshot(name, url) as snapshot:
                parked += snapshot.parked_open()
                for reason in snapshot.stops():
                    report.doubt(WAITING, f"{snapshot.group} is stopped until 'just dlq resume': {reason}")
                if name == "payment":
                    audit.audit_money(snapshot, report)
                    judge_sums(MONEY, "ledger", snapshot.query(SQL["proof_ledger_sums"]), report)
                elif name == "inventory":
                    audit.audit_stock(snapshot, report)
                    judge_sums(STOCK, "movements", snapshot.query(SQL["proof_movement_sums"]), report)
        with Snapshot("order", self._urls["order"]) as order:
            audit.audit_waiting(order, report, self._deadline_s, parked)
        report.checked[WAITING] += len(parked)
        pending = self._databases["order"].query(SQL["proof_pending"], older_s=PENDING_S)
        if (pending or report.violations[WAITING]) and self._is_behind():
            excuse_waiting(report)
            pending = []
        self._audit_pending(pending, {row["customer"] for row in parked}, report)
        self._standing.audited = report

    def _audit_pending(self, pending: Sequence[Row], blocked: Set[str], report: Report) -> None:
        """Audit the oldest orders that wait for a decision although every reader has read everything."""
        named = {"orders": [row["order_id"] for row in pending]}
        decided = {
            name: {row["order_id"] for row in self._databases[name].query(SQL[statement], **named)}
            for name, statement in (("payment", "proof_payments"), ("inventory", "proof_reservations"))
            if pending
        }
        unanswered = judge_pending(pending, decided, blocked, report)
        for text in sorted(unanswered & self._unanswered):
            report.doubt(WAITING, text)
        self._unanswered = unanswered

    def _is_behind(self) -> bool:
        positions = self._positions()
        ends = {partition: end for partition, (_, end) in self._log.bounds(TOPICS).items()}
        return any(stored.next_offset < ends[Partition(topic, n)] for (_, topic, n), stored in positions.items())

    def _show(self) -> None:
        every_s = dict.fromkeys(SAMPLED, self._every_s) | dict.fromkeys(AUDITED, self._audit_every_s)
        at, shown = now(), self._standing.shown(every_s)
        for each in shown["statements"]:
            self._gauges.take(
                each["statement"],
                violations=each["violations"],
                unproven=each["unproven"],
                checked=each["checked"],
            )
        if (proved_s := self._standing.all_proved_s()) is not None:
            self._gauges.set_age(time.monotonic() - proved_s)
        took = {"at": at, "rounds": self._rounds, "took_s": round(self._took_s, 3)}
        self._publish({**took, **shown, "full": self._full})

    def prove(self, jobs: Jobs) -> Job:
        """Run `ops.verify` in the background. Raises `ProblemError` 409 while one runs."""

        def work(job: Job) -> bool:
            job.note = "reading the databases and the log"
            with tempfile.TemporaryFile() as answer:
                jobs.run_command(job, ["-m", "ops.verify", "--json"], {}, answer)
                answer.seek(0)
                content = answer.read()
            if job.stopping or not content:  # the last line that it printed says why
                return False
            report = orjson.loads(content)
            names = ("verdict", "took_s", "records", "statements", "notes")
            offenders = [{n: o[n] for n in ("statement", "subject", "problem")} for o in report["offenders"]]
            self._full = {"at": now(), **{n: report[n] for n in names}, "offenders": offenders[:OFFENDERS_SHOWN]}
            job.note = f"{report['verdict']}: {report['records']} records of the log, {report['took_s']:.1f} s"
            self._show()
            return bool(report["verdict"] == "proved")

        return jobs.start("verify", "full proof", work, can_stop=True)
