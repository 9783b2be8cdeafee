"""The six statements as a standing panel: a light form of `ops.verify` that never ends, and the full one on demand.

Each round takes the newest orders of each partition that all three readers have passed, and compares their rows
(statements 1, 4 and 5). An order that looks wrong is judged again in the next round: databases are read one after the
other, the order database first, so a cancellation in between can look like a fault once, but not twice. Balances, stock
and what waits (2, 3 and 6) are sums over whole tables, so they are audited at long rests, by `ops.verify`'s own SQL.
"""

import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from common.codec import decoded, decoder_for
from common.errors import describe
from common.events import ORDERS, READS, SAGA, OrderPlaced, now
from common.kafka.broker import Partition, log_bounds, topic_ends
from common.worker import Worker
from ops.console.jobs import Job, Jobs
from ops.console.proof.judge import AUDITED, SAMPLED, Evidence, Placed, Row, Standing, excuse_waiting, judge
from ops.console.store import Databases
from ops.log import Log, Tail
from ops.observe.gauges import ProofGauges
from ops.verify.judge import audit
from ops.verify.report import OFFENDERS_SHOWN, Report
from ops.verify.sources.databases import Snapshot
from ops.verify.statements import DECIDED, ONCE, OUTCOME, WAITING, Statement

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
        servers: str,
        databases: Databases,
        auditor_urls: Mapping[str, str],
        deadline_s: int,
        publish: Callable[[dict[str, Any]], None],
        gauges: ProofGauges,
    ) -> None:
        self._log = Log(servers, "console-proof")
        self._databases = databases
        self._urls = auditor_urls
        self._deadline_s = deadline_s
        self._publish = publish
        self._gauges = gauges
        self._standing = Standing()
        self._seen: dict[Partition, int] = {}
        self._open: OrderedDict[str, Placed] = OrderedDict()
        self._audit_at_s = 0.0
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
                began_s, began_cpu_s = time.monotonic(), time.thread_time()
                self._attempt(SAMPLED, lambda: self._sample(consumer))
                rest_s = rest_after(time.thread_time() - began_cpu_s)
                self._took_s = time.monotonic() - began_s
                if began_s >= self._audit_at_s:
                    audit_began_s = time.monotonic()
                    succeeded = self._attempt(AUDITED, self._audit)
                    audit_s = time.monotonic() - audit_began_s
                    self._audit_at_s = time.monotonic() + audit_rest_after(audit_s if succeeded else 0.0)
                self._rounds += 1
                self._show()
                self._worker.stopping.wait(rest_s)
        finally:
            consumer.close()

    def _attempt(self, statements: Sequence[Statement], check: Callable[[], None]) -> bool:
        """Check, and say of these statements that they hold, or why that is not known. Returns whether it could be
        checked."""
        try:
            check()
        except Exception as error:
            self._standing.doubt(statements, describe(error))
            return False
        self._standing.hold(statements, now())
        return True

    def _sample(self, consumer: Any) -> None:
        """Judge the newest orders, those that have settled since, and those that looked wrong."""
        for placed in self._newest(consumer):
            self._open[placed.order_id] = placed
            self._standing.checked[DECIDED] += 1
        while len(self._open) > OPEN_MAX:
            self._open.popitem(last=False)
        if not self._open:
            return
        evidence = self._evidence(list(self._open.values()))
        judged = {order_id: judge(self._open[order_id], found) for order_id, found in evidence.items()}
        self._standing.take(judged)
        for order_id, found in evidence.items():
            if found.settled or (found.order is None and not judged[order_id]):
                self._standing.checked[OUTCOME] += found.settled
                self._standing.checked[ONCE] += (found.payment is not None) + (found.reservation is not None)
                if not judged[order_id]:
                    del self._open[order_id]

    def _newest(self, consumer: Any) -> list[Placed]:
        """The newest orders that every reader has passed and that were not judged before."""
        passed: dict[int, int] = {}
        for database in self._databases.values():
            for row in database.rows("positions"):
                if row["topic"] == ORDERS:
                    number, offset = row["partition"], row["next_offset"]
                    passed[number] = min(offset, passed.get(number, offset))
        ends = {Partition(ORDERS, number): end for number, end in passed.items()}
        moved = {partition: end for partition, end in ends.items() if end != self._seen.get(partition, 0)}
        if not moved:
            return []
        bounds = log_bounds(self._log.admin, moved)
        placed = []
        for partition, end in moved.items():
            seen = self._seen.get(partition, 0)
            first = max(seen if seen < end else 0, end - NEWEST, bounds[partition][0])  # a new topic begins at 0 again
            tail = Tail(consumer, partition, first, min(end, bounds[partition][1]))
            while tail.is_open:
                for message in tail.fetch():
                    event = decoded(decoder_for[ORDERS].decode, message.value())
                    if isinstance(event, OrderPlaced):
                        data = event.data
                        placed.append(Placed(data.order_id, data.customer_id, partition.number, message.offset() or 0))
            self._seen[partition] = end
        return placed

    def _evidence(self, placed: Sequence[Placed]) -> dict[str, Evidence]:
        """What the databases say of these orders, the order database first."""
        named = {"orders": [order.order_id for order in placed]}
        customers = sorted({order.customer_id for order in placed})
        order, payment, inventory = (self._databases[name] for name in ("order", "payment", "inventory"))
        orders = {row["order_id"]: row for row in order.rows("proof_orders", **named)}
        payments = {row["order_id"]: row for row in payment.rows("proof_payments", **named)}
        entries: dict[str, dict[str, Row]] = {}
        for row in payment.rows("proof_entries", **named, customers=customers):
            entries.setdefault(row["order_id"], {})[row["kind"]] = row
        reservations = {row["order_id"]: row for row in inventory.rows("proof_reservations", **named)}
        places = {"partitions": [p.partition for p in placed], "offsets": [p.offset for p in placed]}
        parked = {
            name: {(row["partition"], row["offset"]) for row in database.rows("proof_parked", **places)}
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
                elif name == "inventory":
                    audit.audit_stock(snapshot, report)
        with Snapshot("order", self._urls["order"]) as order:
            audit.audit_waiting(order, report, self._deadline_s, parked)
        report.checked[WAITING] += len(parked)
        if report.violations[WAITING] and self._is_behind():
            excuse_waiting(report)
        self._standing.audited = report

    def _is_behind(self) -> bool:
        ends = topic_ends(self._log.admin, READS[SAGA])
        return any(
            row["next_offset"] < ends[Partition(row["topic"], row["partition"])]
            for database in self._databases.values()
            for row in database.rows("positions")
        )

    def _show(self) -> None:
        at, shown = now(), self._standing.shown()
        for each in shown["statements"]:
            self._gauges.take(
                each["statement"],
                violations=each["violations"],
                unproven=each["unproven"],
                checked=each["checked"],
            )
        if (proved_at := self._standing.all_proved_at()) is not None:
            self._gauges.set_age((at - proved_at) / 1e3)
        took = {"at": at, "rounds": self._rounds, "took_s": round(self._took_s, 3)}
        self._publish({**took, **shown, "full": self._full})

    def prove(self, jobs: Jobs) -> Job:
        """Run `ops.verify` in the background. Raises `ProblemError` 409 while one runs."""

        def work(job: Job) -> bool:
            job.note = "reading the databases and the log"
            with tempfile.TemporaryFile() as answer:
                jobs.run_command(job, ["-m", "ops.verify", "--json"], {}, answer)
                if job.stopping:
                    return False
                answer.seek(0)
                report = orjson.loads(answer.read())
            names = ("verdict", "took_s", "records", "statements", "notes")
            offenders = [{n: o[n] for n in ("statement", "subject", "problem")} for o in report["offenders"]]
            self._full = {"at": now(), **{n: report[n] for n in names}, "offenders": offenders[:OFFENDERS_SHOWN]}
            job.note = f"{report['verdict']}: {report['records']} records of the log, {report['took_s']:.1f} s"
            self._show()
            return bool(report["verdict"] == "proved")

        return jobs.start("verify", "full proof", work, can_stop=True)
