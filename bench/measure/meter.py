"""One measured load: run it, wait until every order is decided, read the log, account for the CPU."""

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct

from bench.load import governor, runner
from bench.load.generator import Spec
from bench.load.latency import Latency, summary
from bench.load.runner import Board, Records
from bench.load.wire import BATCH_PATH, Population
from bench.measure.orders_log import OrdersLog, Outcome
from bench.stack import processes
from bench.stack.processes import CpuSample
from bench.stack.system import System

CORES: Final = os.cpu_count() or 1
NO_PROGRESS_S: Final = 15.0
POLL_S: Final = 0.1
BUCKET_S: Final = 0.5
CONNECTIONS_MAX: Final = 2_000
TICK_S: Final = 0.5

Tick = Callable[[Board, float], None]
Mode = Literal["open", "closed", "governed"]


class Lost(Exception):
    """An acknowledged order is not in the log, or nothing was decided about it: there is no result then."""


class Series(Struct, frozen=True, kw_only=True):
    """What happened over time, in buckets of `bucket_s`. Latencies in ms, of what was due in the bucket."""

    bucket_s: float
    accepted: list[int]
    decided: list[int]
    backlog: list[int]
    accept_p50: list[float | None]
    accept_p99: list[float | None]
    settle_p50: list[float | None]
    settle_p99: list[float | None]


class Measured(Struct, frozen=True, kw_only=True):
    """A load and what came of it."""

    name: str
    mode: Mode
    offered_per_s: float
    """Requests a second of the schedule; 0 where there was none."""
    started_at_s: float
    """Seconds since the epoch."""
    duration_s: float
    orders_a_request: int
    keyed: bool
    connections: int
    requests: int
    by_status: dict[str, int]
    """Answers by status code; "0" stands for no answer within 10 s."""
    orders: int
    """Orders that were acknowledged."""
    confirmed: int
    rejected: int
    accepted_per_s: float
    confirmed_per_s: float
    """Confirmed within the time of the load."""
    drain_s: float
    """From the end of the load until the last order was decided."""
    accept: Latency
    settle: Latency | None
    cpu_us: dict[str, float]
    """CPU microseconds an order by process, from the start of the load until all was decided."""
    http_bytes: float
    """Request and answer, an order."""
    loopback_bytes: float
    """Everything that went over the loopback interface, an order: all processes, and other users of the machine."""
    late_share: float
    """Share of the requests that the generator sent over 5 ms late although a connection was free."""
    others_share: float
    """Share of the machine's CPU that went to processes which are not ours."""
    series: Series
    warnings: list[str]

    @property
    def total_cpu_us(self) -> float:
        """Everything but the generator."""
        return sum(us for group, us in self.cpu_us.items() if group != "generator")

    @property
    def errors(self) -> int:
        """Requests that ended otherwise than accepted or refused with 503."""
        return sum(n for status, n in self.by_status.items() if status not in ("200", "202", "503"))


class Window:
    """CPU between two moments, what the bench itself uses told apart from what strangers use."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._began = self._sample()

    def _sample(self) -> tuple[CpuSample, float, float]:
        bench_s = sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        return processes.sample(self._system.layout.pids), bench_s, time.monotonic()

    def end(self, generator_s: float) -> tuple[processes.Cpu, float]:
        """CPU used by our processes, and the share of the machine that strangers used."""
        (before, bench_before, began), (after, bench_after, ended) = self._began, self._sample()
        cpu = processes.between(before, after, generator_s)
        strangers_s = cpu.others_s + generator_s - (bench_after - bench_before)
        return cpu, max(0.0, strangers_s) / ((ended - began) * CORES)


class Meter:
    """Measures loads on one system; keeps the ids of all orders it was acknowledged."""

    def __init__(self, system: System, directory: Path, say: Callable[[str], None]) -> None:
        self.system = system
        self.log = OrdersLog(system.layout.variables["KAFKA_BOOTSTRAP_SERVERS"])
        self.accepted_file = directory / "accepted.txt"
        self.accepted_file.touch()
        self.measured: list[Measured] = []
        self.orders = 0
        self._directory = directory
        self._say = say
        self._count = 0

    def spec(self, mode: Literal["open", "closed"], *, duration_s: float, **given: Any) -> Spec:
        """A spec for this system's order api."""
        self._count += 1
        given = {"population": Population(seed=self._count), **given}
        if given.get("lines"):
            given |= {"path": BATCH_PATH, "accepted": 200}
        return Spec(
            port=self.system.layout.ports["order-api"],
            mode=mode,
            duration_s=duration_s,
            files=str(self._directory / f"load-{self._count:03}"),
            **given,
        )

    def open(
        self, name: str, rate: float, duration_s: float, *, meanwhile: Tick | None = None, **given: Any
    ) -> Measured:
        """An open-loop load of `rate` requests a second; `meanwhile` is called every half second."""
        spec = self.spec("open", duration_s=duration_s, rate=rate, connections=CONNECTIONS_MAX, **given)
        return self._measure(name, spec, "open", settle=True, meanwhile=meanwhile)

    def closed(
        self, name: str, connections: int, duration_s: float, *, settle: bool = True, meanwhile: Tick | None = None
    ) -> Measured:
        """A closed-loop load of so many connections."""
        spec = self.spec("closed", duration_s=duration_s, connections=connections)
        return self._measure(name, spec, "closed", settle=settle, meanwhile=meanwhile)

    def governed(self, name: str, first_rate: float, duration_s: float, **given: Any) -> Measured:
        """An open-loop load whose rate follows what is settled. See `bench.load.governor`."""
        spec = self.spec("open", duration_s=duration_s, rate=first_rate, connections=CONNECTIONS_MAX, **given)
        return self._measure(name, spec, "governed", settle=True)

    def _measure(self, name: str, spec: Spec, mode: Mode, *, settle: bool, meanwhile: Tick | None = None) -> Measured:
        starts = self.log.ends()
        base = sum(starts.values())
        tick = _Governing(self.log, base, spec) if mode == "governed" else meanwhile
        window = Window(self.system)
        records = runner.run(spec, tick, TICK_S)
        accepted = len(records.ids)
        if settle:
            self.await_decided(base + 2 * accepted)
        cpu, others_share = window.end(records.result.cpu_s)
        found = self.log.read(starts, self.log.ends())
        # Orders whose answer came too late for the generator are in the log as well, and count among its records.
        while settle and (open_ := sum(not found[i].decided for _, i in records.ids if i in found)):
            before = self.log.records()
            self.await_decided(before + open_)
            found = self.log.read(starts, self.log.ends())
            if self.log.records() == before:
                break
        self.remember([order_id for _, order_id in records.ids])
        if settle:
            check(records, found)
        measured = evaluate(name, mode, records, found, cpu, others_share)
        self.measured.append(measured)
        self._say(line(measured))
        return measured

    def await_decided(self, records: int) -> None:
        """Wait until the log has so many records, or has not grown for `NO_PROGRESS_S`."""
        known, at = -1, time.monotonic()
        while (now := self.log.records()) < records and time.monotonic() - at < NO_PROGRESS_S:
            if now > known:
                known, at = now, time.monotonic()
            time.sleep(POLL_S)

    def remember(self, order_ids: Collection[str]) -> None:
        """Orders that were acknowledged, and so must not be lost."""
        self.orders += len(order_ids)
        with self.accepted_file.open("a") as file:
            file.writelines(f"{order_id}\n" for order_id in order_ids)


class _Governing:
    """Sets the generator's rate by what the log says has been settled.

    The backlog counts from what was due: orders that still wait for a connection are waiting, too.
    """

    def __init__(self, log: OrdersLog, base: int, spec: Spec) -> None:
        self._log = log
        self._base = base
        self._lines = spec.orders_a_request
        self._rate = spec.rate * self._lines
        self._due = 0.0
        self._seen: list[tuple[float, int]] = [(0.0, 0)]
        self._rising = True

    def __call__(self, board: Board, at_s: float) -> None:
        self._due += self._rate * (at_s - self._seen[-1][0])
        settled = self._log.records() - self._base - board.accepted
        self._seen.append((at_s, settled))
        before_s, before = self._seen[max(0, len(self._seen) - 3)]
        per_s = max(0.0, settled - before) / (at_s - before_s)
        backlog = self._due - board.refused - board.failed - settled
        self._rising = self._rising and not governor.has_backlog(self._rate, backlog)
        self._rate = governor.rise(self._rate) if self._rising else governor.next_rate(self._rate, per_s, backlog)
        board.set_rate(self._rate / self._lines)


def check(records: Records, found: dict[str, Outcome]) -> None:
    """Raises `Lost` unless each acknowledged order is in the log and decided."""
    lost = [order_id for _, order_id in records.ids if order_id not in found or not found[order_id].placed]
    if lost:
        raise Lost(f"{len(lost)} of {len(records.ids)} acknowledged orders are not in the log, such as {lost[0]}")
    undecided = [order_id for _, order_id in records.ids if not found[order_id].decided]
    if undecided:
        raise Lost(
            f"{len(undecided)} of {len(records.ids)} acknowledged orders have no outcome, such as {undecided[0]}"
        )


def evaluate(
    name: str,
    mode: Mode,
    records: Records,
    found: dict[str, Outcome],
    cpu: processes.Cpu,
    others_share: float,
) -> Measured:
    """The figures of one load."""
    spec, result = records.spec, records.result
    orders = len(records.ids)
    start_ms = result.started_wall_ns // 1_000_000
    load_s = min(result.elapsed_s, spec.duration_s) if mode == "closed" else spec.duration_s
    end_ms = start_ms + load_s * 1_000
    outcomes = [found[order_id] for _, order_id in records.ids if order_id in found]
    statuses = Counter(outcome.status for outcome in outcomes)
    in_time = sum(1 for o in outcomes if o.status == "confirmed" and o.decided_ms <= end_ms)
    answered_in_time = sum(1 for number, _ in records.ids if records.done_at_s(number) <= load_s)
    settle_us = [
        (found[order_id].decided_ms + 1) * 1_000 - records.due_wall_ns(number) // 1_000
        for number, order_id in records.ids
        if order_id in found and found[order_id].decided_ms
    ]
    last_ms = max((o.decided_ms for o in outcomes), default=0)
    a_order = 1e6 / max(1, orders)
    return Measured(
        name=name,
        mode=mode,
        offered_per_s=spec.rate if mode == "open" else 0,
        started_at_s=result.started_wall_ns / 1e9,
        duration_s=load_s,
        orders_a_request=spec.orders_a_request,
        keyed=spec.keyed,
        connections=result.connections,
        requests=result.requests,
        by_status={str(status): count for status, count in sorted(records.by_status.items())},
        orders=orders,
        confirmed=statuses["confirmed"],
        rejected=statuses["rejected"],
        accepted_per_s=answered_in_time / load_s,
        confirmed_per_s=in_time / load_s,
        drain_s=max(0.0, last_ms - end_ms) / 1_000,
        accept=summary(records.accept_us()),
        settle=summary(settle_us) if settle_us else None,
        cpu_us={group: seconds * a_order for group, seconds in cpu.by_group.items()},
        http_bytes=(result.bytes_sent + result.bytes_received) / max(1, orders),
        loopback_bytes=cpu.loopback_bytes / max(1, orders),
        late_share=records.late_share,
        others_share=others_share,
        series=series(records, found, start_ms, load_s),
        warnings=[
            *(
                [f"{result.requests * spec.lines - orders} lines of batches were not accepted"]
                if spec.lines and orders < result.requests * spec.lines
                else []
            ),
            *(
                [f"{result.waited_for_connection} requests waited for one of {result.connections} connections"]
                if result.waited_for_connection
                else []
            ),
        ],
    )


def series(records: Records, found: dict[str, Outcome], start_ms: int, load_s: float) -> Series:
    """The course of a load, by the log's times."""
    last_ms = max((outcome.decided_ms for outcome in found.values()), default=start_ms)
    count = int(max(load_s, (last_ms - start_ms) / 1_000) / BUCKET_S) + 1
    accepted, decided = [0] * count, [0] * count
    for outcome in found.values():
        for at_ms, counts in ((outcome.placed_ms, accepted), (outcome.decided_ms, decided)):
            bucket = int((at_ms - start_ms) / 1_000 / BUCKET_S)
            if 0 <= bucket < count and at_ms:
                counts[bucket] += 1
    accept: list[list[int]] = [[] for _ in range(count)]
    settle: list[list[int]] = [[] for _ in range(count)]
    first_ns = records.due_ns[0] if records.due_ns else 0
    for number, order_id in records.ids:
        bucket = int((records.due_ns[number] - first_ns) / 1e9 / BUCKET_S)
        if bucket >= count:
            continue
        accept[bucket].append((records.done_ns[number] - records.due_ns[number]) // 1_000)
        outcome_ = found.get(order_id)
        if outcome_ is not None and outcome_.decided_ms:
            settle[bucket].append((outcome_.decided_ms + 1) * 1_000 - records.due_wall_ns(number) // 1_000)
    backlog, waiting = [], 0
    for came, went in zip(accepted, decided, strict=True):
        waiting += came - went
        backlog.append(waiting)

    def at(values: list[list[int]], share: float) -> list[float | None]:
        return [sorted(v)[int(share * (len(v) - 1))] / 1_000 if v else None for v in values]

    return Series(
        bucket_s=BUCKET_S,
        accepted=accepted,
        decided=decided,
        backlog=backlog,
        accept_p50=at(accept, 0.5),
        accept_p99=at(accept, 0.99),
        settle_p50=at(settle, 0.5),
        settle_p99=at(settle, 0.99),
    )


def line(m: Measured) -> str:
    """One line for the terminal."""
    costs = " ".join(f"{group} {us:.0f}" for group, us in m.cpu_us.items())

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    settle = f"settle {ms(m.settle.p50)}/{ms(m.settle.p99)}" if m.settle else "settle -"
    return (
        f"{m.name:<28} offered {m.offered_per_s:>6.0f}/s  accepted {m.accepted_per_s:>6.0f}/s  "
        f"confirmed {m.confirmed_per_s:>6.0f}/s  accept {ms(m.accept.p50)}/{ms(m.accept.p99)} ms  {settle} ms  "
        f"CPU {m.total_cpu_us:.0f} us ({costs})  others {m.others_share:.0%}"
        + "".join(f"\n    note: {warning}" for warning in m.warnings)
    )
