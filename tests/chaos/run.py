"""Plays a schedule on an arena: inject, wait, heal, measure the recovery; at the end let all settle and prove it."""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from tests.audit import await_rest
from tests.chaos.arena import DEADLINE_S, PROBE, PROBES, Arena
from tests.chaos.clients import ManyOrders, crowd
from tests.chaos.faults import INJECT, NotPossible
from tests.chaos.faults.fault import Witness
from tests.chaos.report import Report, Row
from tests.chaos.schedule import Fault, Step
from tests.clients import Book, Clients
from tests.documented import check_log
from tests.waiting import eventually

RECOVER_S: Final = 90.0
REST_S: Final = 180.0
VERIFY_S: Final = 600.0
_TOO_EARLY: Final = """
    SELECT count(*) FROM orders WHERE reason = 'deadline' AND decided_at < placed_at + make_interval(secs => %s)
"""
_OVERSOLD: Final = "SELECT FROM products WHERE on_hand < 0 UNION ALL SELECT FROM stock_buckets WHERE on_hand < 0"
_UNSETTLED: Final = "SELECT count(*) FROM orders WHERE settled_at IS NULL"


class Probe:
    """Orders of a customer in each partition: when they are settled, all of it works again."""

    def __init__(self, arena: Arena, book: Book, seed: int) -> None:
        self._arena = arena
        self._client = ManyOrders(arena, book, seed)
        placed = self._order(PROBE.format(number) for number in range(PROBES))
        rows = arena.query(
            "order", "SELECT partition, customer_id FROM orders WHERE order_id = ANY(%s::uuid[])", (placed,)
        )
        self._customers = list(dict(rows).values())

    def recovered(self) -> None:
        """Wait until the probe's orders are settled and every instance is ready. Raises `AssertionError` after 90 s."""
        self._order(self._customers)
        try:
            eventually(lambda: self._arena.unready() == [], "all are ready", RECOVER_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._arena.unready()}") from None

    def close(self) -> None:
        self._client.http.close()

    def _order(self, customers: Iterable[str]) -> list[str]:
        bodies = [{"customer_id": customer, "product_id": "sku-0", "quantity": 1} for customer in customers]
        placed = self._client.place(bodies)
        assert len(placed) == len(bodies), "probe orders were not accepted"
        settled = "SELECT count(*) FROM orders WHERE order_id = ANY(%s::uuid[]) AND settled_at IS NOT NULL"
        eventually(
            lambda: self._arena.query("order", settled, (placed,)) == [(len(placed),)], "orders settle", RECOVER_S
        )
        return placed


class Run:
    """A run under way."""

    def __init__(self, arena: Arena, seed: int, orders_per_s: int) -> None:
        self.arena = arena
        self.report = Report()
        self.book = Book(arena.directory / "accepted.txt")
        self._probe = Probe(arena, self.book, seed)
        self._clients = Clients(arena, self.book, crowd(seed, orders_per_s))
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def play(self, steps: Iterable[Step], *, seconds: float, orders: int) -> None:
        """Play until the time is over and `orders` are accepted, or until the steps end. The proof comes last."""
        with self._clients:
            for step in steps:
                if self.seconds >= seconds and len(self.book.accepted) >= orders:
                    break
                time.sleep(step.rest_s)
                self._step(step)
        self.book.close()
        self._probe.close()
        self._prove()

    def _step(self, step: Step) -> None:
        rows = [Row(fault.kind, fault.target, self.seconds) for fault in step.faults]
        self.report.rows += rows
        healed_at = self.seconds
        try:
            with ExitStack() as healing:
                witnesses = [self._inject(healing, fault, row) for fault, row in zip(step.faults, rows, strict=True)]
                time.sleep(max(fault.lasts_s for fault in step.faults))
                for row, witness in zip(rows, witnesses, strict=True):
                    row.lasted_s = self.seconds - row.at_s
                    if witness is not None:
                        row.effect = witness()
                healed_at = self.seconds
            self._probe.recovered()
        except Exception as error:
            for row in rows:
                row.failed, row.verdict = True, f"{type(error).__name__}: {error}"
        for row in rows:
            if not row.failed:
                row.recovered_s = self.seconds - healed_at
            self._judge(row)
            print("  ".join(row.cells()), f" ({len(self.book.accepted)} orders)", flush=True)

    def _inject(self, healing: ExitStack, fault: Fault, row: Row) -> Witness | None:
        try:
            return healing.enter_context(INJECT[fault.kind](self.arena, fault))
        except NotPossible as reason:
            row.verdict = f"not possible here: {reason}"
            return None

    def _judge(self, row: Row) -> None:
        if ended := self.arena.ended():
            row.failed, row.verdict = True, "; ".join(ended)
            for instance in self.arena.instances.values():
                if instance.process is not None and instance.process.poll() is not None:
                    instance.launch()
        row.verdict = row.verdict or ("recovered" if row.effect else "recovered; no effect was seen")

    def _prove(self) -> None:
        """All faults are healed. The answers that clients got must be true, and everything must add up."""
        report, book, arena = self.report, self.book, self.arena
        try:
            await_rest(arena, (), REST_S)
        except AssertionError as error:
            report.wrong.append(str(error))
        done = arena.tool("ops.verify", "--accepted", str(book.file), timeout_s=VERIFY_S)
        report.verified = done.stdout + done.stderr
        report.proved = done.returncode == 0
        [(unsettled,)] = arena.query("order", _UNSETTLED)
        [(too_early,)] = arena.query("order", _TOO_EARLY, (DEADLINE_S,))
        report.totals = {promise: len(order_ids) for promise, order_ids in book.broken(arena).items()} | {
            "oversold": len(arena.query("inventory", _OVERSOLD)),
            "unsettled": unsettled,
            "cancelled before their time": too_early,
        }
        report.answers = {
            "orders accepted": len(book.accepted),
            "by key": len(book.keyed),
            "cancellations": len(book.cancelled),
            "orders whose outcome no answer told": len(book.unknown),
            "orders denied later": len(book.denied),
        }
        described = check_log(arena.brokers)
        report.documented = f"{described.events.total()} events of {len(described.events)} types"
        if unseen := described.unseen():
            report.documented += f"; none had {', '.join(unseen)}"
        report.wrong += [*book.faults, *described.wrong]
