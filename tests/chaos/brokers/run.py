"""Plays the faults on an arena, each under a load of its own, and has every acknowledged order proved at the end."""

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx
from confluent_kafka import KafkaException

from bench.load import runner
from bench.load.spec import Board, Records, Spec
from ops.tool import print_table
from tests.chaos.brokers.arena import Arena
from tests.chaos.brokers.faults import INJECT, Fault, await_copies
from tests.chaos.brokers.measure import Effect, Span, judge
from tests.waiting import eventually

LEAD_S: Final = 10.0
"""Long enough for a 99th percentile before the fault, at the default rate."""
TAIL_S: Final = 3.0
LOAD_S_MAX: Final = 900.0
CONNECTIONS_MAX: Final = 2_000
SETTLED_S: Final = 180.0
VERIFY_S: Final = 600.0
HEADING: Final = (
    *("fault", "broker", "lasted s", "pause s", "of all s", "p99 before ms", "p99 ms", "accepted", "refused"),
    *("unanswered", "in sync s", "settled s"),
)


@dataclass
class Row:
    """One fault as it went."""

    fault: Fault
    brokers: str
    lasted_s: float
    in_sync_s: float
    """From its end until all copies were complete."""
    settled_s: float
    """From its end until everything that was accepted was settled."""
    effect: Effect

    def cells(self) -> tuple[str, ...]:
        effect = self.effect
        p99s = (f"{ms:.0f}" if ms is not None else "-" for ms in (effect.before_p99_ms, effect.p99_ms))
        counts = (effect.accepted, effect.refused, effect.unanswered)
        pauses = (self.lasted_s, effect.pause_s, effect.pause_of_all_s)
        times = (f"{seconds:.1f}" for seconds in (self.in_sync_s, self.settled_s))
        return (self.fault.kind, self.brokers, *(f"{s:.1f}" for s in pauses), *p99s, *map(str, counts), *times)


class Load:
    """Orders at a fixed rate, in an open loop, from entering the context until it is left."""

    def __init__(self, port: int, orders_per_s: float) -> None:
        self._spec = Spec(port=port, mode="open", rate=orders_per_s, duration_s=LOAD_S_MAX, connections=CONNECTIONS_MAX)
        self._over = threading.Event()
        self._started_ns = 0
        self._pool = ThreadPoolExecutor(1)
        self.records: Records | None = None

    def __enter__(self) -> "Load":
        self._running = self._pool.submit(runner.run, self._spec, self._tick, 0.1)
        eventually(
            lambda: self._started_ns > 0,
            "the load has begun",
            ended=lambda: str(self._running.exception()) if self._running.done() else None,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.records = self._running.result()
        self._pool.shutdown()

    def _tick(self, board: Board, _: float) -> None:
        self._started_ns = board.started_ns
        if self._over.is_set():
            board.rate_milli = -1

    def now_s(self) -> float:
        """Seconds since the start of the load."""
        return (time.time_ns() - self._started_ns) / 1e9


@dataclass
class Run:
    arena: Arena
    orders_per_s: float
    rows: list[Row] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    verified: str = ""

    def play(self, plan: Iterable[Fault]) -> None:
        """Play all faults, show the table and prove the orders. `failures` says what must not be."""
        for fault in plan:
            try:
                row = self._step(fault)
            except (AssertionError, KafkaException, OSError, httpx.HTTPError) as error:
                self.failures.append(f"{fault.kind} {fault.targets}: {error}")
                print(self.failures[-1], flush=True)
                break
            self.rows.append(row)
            print("  ".join(row.cells()), flush=True)
            if row.effect.wrong:
                self.failures.append(f"{fault.kind} {row.brokers}: answered with {row.effect.wrong}")
            if any("loss detected" in instance.log.read_text() for instance in self.arena.instances.values()):
                self.failures.append(f"{fault.kind} {row.brokers}: a consumer says that the log has lost records")
            self.failures += [why for instance in self.arena.instances.values() if (why := instance.ended())]
        self._prove()
        print_table(HEADING, [row.cells() for row in self.rows])
        print(self.verified)
        print(f"{len(self.accepted):,} orders were acknowledged", flush=True)

    def _step(self, fault: Fault) -> Row:
        arena = self.arena
        await_copies(arena)
        with Load(arena.ports["order-api"], self.orders_per_s) as load:
            time.sleep(LEAD_S)
            peers = fault.peers(arena)
            controller = arena.controller()
            began_s = load.now_s()
            with INJECT[fault.kind](arena, peers):
                time.sleep(fault.lasts_s)
                ended_s = load.now_s()
            await_copies(arena)
            in_sync_s = load.now_s()
            time.sleep(TAIL_S)
        assert load.records is not None
        ids = [order_id for _, order_id in load.records.ids]
        self.accepted += ids
        eventually(lambda: self._unsettled(ids) == 0, "all orders are settled", SETTLED_S, 0.2)
        settled_s = load.now_s()
        named = (f"{peer.number}{'*' if peer.number == controller else ''}" for peer in peers)
        effect = judge(load.records, Span(began_s, max(in_sync_s, ended_s)), self._partitions(ids))
        return Row(fault, ",".join(named), ended_s - began_s, in_sync_s - ended_s, settled_s - ended_s, effect)

    def _unsettled(self, ids: list[str]) -> int:
        settled = "SELECT count(*) FROM orders WHERE order_id = ANY(%s::uuid[]) AND settled_at IS NOT NULL"
        [(count,)] = self.arena.query("order", settled, (ids,))
        return len(ids) - int(count)

    def _partitions(self, ids: list[str]) -> dict[str, int]:
        return dict(
            self.arena.query(
                "order", "SELECT order_id::text, partition FROM orders WHERE order_id = ANY(%s::uuid[])", (ids,)
            )
        )

    def _prove(self) -> None:
        file = self.arena.directory / "accepted.txt"
        file.write_text("".join(f"{order_id}\n" for order_id in self.accepted))
        done = self.arena.tool("ops.verify", "--accepted", str(file), timeout_s=VERIFY_S)
        self.verified = (done.stdout + done.stderr).rstrip()
        if done.returncode:
            self.failures.append("verify did not prove it")


@contextmanager
def running(arena: Arena) -> Iterator[Arena]:
    """Start an arena, and stop it at the end."""
    try:
        arena.start()
        yield arena
    finally:
        arena.stop()
