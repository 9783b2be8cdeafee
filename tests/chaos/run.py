"""Plays a schedule on an arena: inject, wait, heal, measure the recovery; at the end let all settle and prove it."""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from tests.audit import await_rest
from tests.chaos.arena import DEADLINE_S, PROBES, Arena
from tests.chaos.clients import Batches, Crowd, Told
from tests.chaos.faults import INJECT, NotPossible
from tests.chaos.faults.fault import Witness
from tests.chaos.report import Report, Row
from tests.chaos.schedule import Fault, Step
from tests.stack import eventually

RECOVER_S: Final = 90.0
REST_S: Final = 180.0
VERIFY_S: Final = 600.0
_OF: Final = "SELECT order_id::text FROM orders WHERE split_part(customer_id, '-', 1) = ANY(%s)"
_TOO_EARLY: Final = """
    SELECT count(*) FROM orders WHERE reason = 'deadline' AND decided_at < placed_at + make_interval(secs => %s)
"""
_UNSETTLED: Final = "SELECT count(*) FROM orders WHERE settled_at IS NULL"


class Probe:
    """Orders of a customer in each partition: when they are settled, all of it works again."""

    def __init__(self, arena: Arena, told: Told, seed: int) -> None:
        self._arena = arena
        self._client = Batches(f"p{seed}", arena, told, seed, 1.0, PROBES)
        placed = self._order(f"probe-{number}" for number in range(PROBES))
        rows = arena.query(
            "order", "SELECT partition, customer_id FROM orders WHERE order_id = ANY(%s::uuid[])", (placed,)
        )
        self._customers = list(dict(rows).values())

    def recovered(self) -> None:
        """Returns when orders are settled, and all are ready. Raises `AssertionError` if that takes too long."""
        self._order(self._customers)
        try:
            eventually(lambda: self._arena.unready() == [], "all are ready", RECOVER_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._arena.unready()}") from None

    def close(self) -> None:
        self._client.close()

    def _order(self, customers: Iterable[str]) -> list[str]:
        lines = [
            {"customer_id": customer, "product_id": "sku-0", "quantity": 1, "idempotency_key": self._client.key()}
            for customer in customers
        ]
        placed = self._client.place(lines)
        assert len(placed) == len(lines), "probe orders were not accepted"
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
        self.told = Told(arena.directory / "accepted.txt")
        self._probe = Probe(arena, self.told, seed)
        self._crowd = Crowd(arena, self.told, seed, orders_per_s)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def play(self, steps: Iterable[Step], *, seconds: float, orders: int) -> None:
        """Until the time is over and so many orders are accepted, or the steps are; ends with the proof."""
        self._crowd.start()
        for step in steps:
            if self.seconds >= seconds and len(self.told.accepted) >= orders:
                break
            time.sleep(step.rest_s)
            self._step(step)
        self._crowd.stop()
        self.told.close()
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
            print("  ".join(row.cells()), f" ({len(self.told.accepted)} orders)", flush=True)

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
        """All is healed. What the clients were told must be so, and everything must add up."""
        report, told, arena = self.report, self.told, self.arena
        try:
            await_rest(arena, (), REST_S)
        except AssertionError as error:
            report.wrong.append(str(error))
        done = arena.tool("ops.verify", "--accepted", str(told.file), timeout_s=VERIFY_S)
        report.verified = done.stdout + done.stderr
        report.proved = done.returncode == 0
        keyed = {order_id for (order_id,) in arena.query("order", _OF, (["keyed", "probe"],))}
        free = {order_id for (order_id,) in arena.query("order", _OF, (["free"],))}
        [(unsettled,)] = arena.query("order", _UNSETTLED)
        [(too_early,)] = arena.query("order", _TOO_EARLY, (DEADLINE_S,))
        unknown = told.counts["orders whose outcome nobody told"]
        report.totals = {
            "lost": len(told.accepted - keyed - free),
            "placed twice": len(keyed - told.keyed) + max(0, len(free - told.accepted) - unknown - len(told.denied)),
            "oversold": len(arena.query("inventory", "SELECT FROM products WHERE on_hand < 0")),
            "unsettled": unsettled,
            "cancelled before their time": too_early,
            "denied and yet there": len(told.denied & free),
        }
        report.told = {"orders accepted": len(told.accepted), **told.counts, "orders denied later": len(told.denied)}
        report.wrong += told.wrong
