"""The figures of one load, from the generator's records, the log and the processes' CPU."""

from collections import Counter
from itertools import accumulate
from operator import sub
from typing import Final, Literal

from msgspec import Struct

from bench.load import governor
from bench.load.latency import Latency, summary
from bench.load.spec import Records
from bench.measure.orders_log import Outcome
from bench.stack.processes import Cpu

BUCKET_S: Final = 0.5
NOT_ACCEPTED_MAX: Final = 0.001

Mode = Literal["open", "closed", "governed"]


class NoResult(Exception):
    """An acknowledged order was lost or never decided, or the audit found a violation or could not prove that there is
    none."""


class Series(Struct, frozen=True, kw_only=True):
    """A load over time, in buckets of `bucket_s`. Latencies in ms, by when the orders were due."""

    bucket_s: float
    accepted: list[int]
    decided: list[int]
    backlog: list[int]
    accept_p50: list[float | None]
    accept_p99: list[float | None]
    settle_p50: list[float | None]
    settle_p99: list[float | None]


class Measured(Struct, frozen=True, kw_only=True):
    """A load and its figures."""

    name: str
    offered_per_s: float
    """Requests a second of the schedule; 0 if the load had no fixed one."""
    started_at_s: float
    """Seconds since the epoch."""
    duration_s: float
    orders_a_request: int
    connections: int
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
    """CPU microseconds an order by process, from the start of the load until every order was decided."""
    http_bytes: float
    """Request and answer, an order."""
    late_share: float
    """Share of the requests that the generator sent over 5 ms late although a connection was free."""
    others_share: float
    """Share of the machine's CPU that other processes took."""
    series: Series
    warnings: list[str]

    @property
    def total_cpu_us(self) -> float:
        """Everything but the generator."""
        return sum(us for group, us in self.cpu_us.items() if group != "generator")

    @property
    def cores(self) -> float:
        """How many cores everything but the generator kept busy, until the last order was decided."""
        return self.total_cpu_us * self.orders / 1e6 / (self.duration_s + self.drain_s)

    @property
    def requests(self) -> int:
        return sum(self.by_status.values())

    @property
    def refused(self) -> int:
        """Requests refused with 503."""
        return self.by_status.get("503", 0)

    @property
    def errors(self) -> int:
        """Requests that were neither accepted nor refused with 503."""
        return sum(n for status, n in self.by_status.items() if status not in ("200", "202", "503"))

    @property
    def settled_per_s(self) -> float:
        """Orders a second from the start of the load until the last was decided."""
        return self.orders / (self.duration_s + self.drain_s)

    @property
    def settled_late_per_s(self) -> float:
        """Orders settled a second in the second half of the load, when the governor had come to rest."""
        buckets = int(self.duration_s / BUCKET_S)
        late = self.series.decided[buckets // 2 : buckets]
        return sum(late) / len(late) / BUCKET_S

    def why_not_held(self) -> str:
        """Why the rate of the load was not held; empty when it was."""
        rate, buckets = self.offered_per_s * self.orders_a_request, int(self.duration_s / BUCKET_S)
        times = [number * BUCKET_S for number in range(buckets)]
        if why := governor.why_not_held(rate, times, self.series.backlog[:buckets]):
            return why
        offered = rate * self.duration_s
        if self.orders < offered * (1 - NOT_ACCEPTED_MAX):
            return f"{offered - self.orders:.0f} of {offered:.0f} orders were not accepted"
        return ""

    def __str__(self) -> str:
        def ms(latency: Latency | None) -> str:
            pair = (latency.p50, latency.p99) if latency else (None, None)
            return "/".join("-" if value is None else f"{value:.1f}" for value in pair)

        costs = " ".join(f"{group} {us:.0f}" for group, us in self.cpu_us.items())
        return (
            f"{self.name:<28} offered {self.offered_per_s:>6.0f}/s  accepted {self.accepted_per_s:>6.0f}/s  "
            f"confirmed {self.confirmed_per_s:>6.0f}/s  accept {ms(self.accept)} ms  settle {ms(self.settle)} ms  "
            f"CPU {self.total_cpu_us:.0f} us ({costs})  others {self.others_share:.0%}"
            + "".join(f"\n    note: {warning}" for warning in self.warnings)
        )


def check(records: Records, outcomes: dict[str, Outcome]) -> None:
    """Raises `NoResult` unless each acknowledged order is in the log and decided."""
    ids = [order_id for _, order_id in records.ids]
    lost = [order_id for order_id in ids if order_id not in outcomes or not outcomes[order_id].placed_ms]
    if lost:
        raise NoResult(f"{len(lost)} of {len(ids)} acknowledged orders are not in the log, such as {lost[0]}")
    undecided = [order_id for order_id in ids if not outcomes[order_id].decisions]
    if undecided:
        raise NoResult(f"{len(undecided)} of {len(ids)} acknowledged orders have no outcome, such as {undecided[0]}")


def settle_us(records: Records, request: int, outcome: Outcome) -> int:
    """From when a request was due to the end of the millisecond in which the order's outcome could be read."""
    return (outcome.decided_ms + 1) * 1_000 - (records.started_wall_ns + records.due_ns[request]) // 1_000


def evaluate(name: str, mode: Mode, records: Records, outcomes: dict[str, Outcome], cpu: Cpu) -> Measured:
    """The figures of one load."""
    spec = records.spec
    orders = len(records.ids)
    start_ms = records.started_wall_ns // 1_000_000
    load_s = min(records.elapsed_s, spec.duration_s) if mode == "closed" else spec.duration_s
    end_ms = start_ms + load_s * 1_000
    decided = [(number, outcomes[order_id]) for number, order_id in records.ids if order_id in outcomes]
    statuses = Counter(outcome.status for _, outcome in decided)
    in_time = sum(1 for _, outcome in decided if outcome.status == "confirmed" and outcome.decided_ms <= end_ms)
    answered_in_time = sum(1 for number, _ in records.ids if records.done_ns[number] <= load_s * 1e9)
    settled_us = [settle_us(records, number, outcome) for number, outcome in decided if outcome.decided_ms]
    last_ms = max((outcome.decided_ms for _, outcome in decided), default=0)
    warnings = []
    if (refused := records.requests * spec.lines - orders) > 0:
        warnings.append(f"{refused} of the orders sent many to a request were not accepted")
    if records.waited_for_connection:
        warnings.append(
            f"{records.waited_for_connection} requests waited because all {records.connections} connections were taken"
        )
    return Measured(
        name=name,
        offered_per_s=spec.rate if mode == "open" else 0,
        started_at_s=records.started_wall_ns / 1e9,
        duration_s=load_s,
        orders_a_request=spec.orders_a_request,
        connections=records.connections,
        by_status={str(status): count for status, count in records.by_status.items()},
        orders=orders,
        confirmed=statuses["confirmed"],
        rejected=statuses["rejected"],
        accepted_per_s=answered_in_time / load_s,
        confirmed_per_s=in_time / load_s,
        drain_s=max(0.0, last_ms - end_ms) / 1_000,
        accept=summary(records.accept_us()),
        settle=summary(settled_us) if settled_us else None,
        cpu_us={group: seconds / max(1, orders) * 1e6 for group, seconds in cpu.seconds.items()},
        http_bytes=(records.bytes_sent + records.bytes_received) / max(1, orders),
        late_share=records.late_share,
        others_share=cpu.others_share,
        series=series(records, outcomes, start_ms, load_s),
        warnings=warnings,
    )


def series(records: Records, outcomes: dict[str, Outcome], start_ms: int, load_s: float) -> Series:
    """A load over time, by the log's clock."""
    last_ms = max((outcome.decided_ms for outcome in outcomes.values()), default=start_ms)
    count = int(max(load_s, (last_ms - start_ms) / 1_000) / BUCKET_S) + 1
    accepted, decided = [0] * count, [0] * count
    for outcome in outcomes.values():
        for at_ms, counts in ((outcome.placed_ms, accepted), (outcome.decided_ms, decided)):
            bucket = int((at_ms - start_ms) / 1_000 / BUCKET_S)
            if 0 <= bucket < count and at_ms:
                counts[bucket] += 1
    accept_us: list[list[int]] = [[] for _ in range(count)]
    settled_us: list[list[int]] = [[] for _ in range(count)]
    for number, order_id in records.ids:
        bucket = int(records.due_ns[number] / 1e9 / BUCKET_S)
        accept_us[bucket].append((records.done_ns[number] - records.due_ns[number]) // 1_000)
        outcome = outcomes.get(order_id, Outcome())
        if outcome.decided_ms:
            settled_us[bucket].append(settle_us(records, number, outcome))

    def quantile(buckets: list[list[int]], share: float) -> list[float | None]:
        return [sorted(values)[int(share * (len(values) - 1))] / 1_000 if values else None for values in buckets]

    return Series(
        bucket_s=BUCKET_S,
        accepted=accepted,
        decided=decided,
        backlog=list(accumulate(map(sub, accepted, decided))),
        accept_p50=quantile(accept_us, 0.5),
        accept_p99=quantile(accept_us, 0.99),
        settle_p50=quantile(settled_us, 0.5),
        settle_p99=quantile(settled_us, 0.99),
    )
