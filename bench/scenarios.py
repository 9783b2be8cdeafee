"""The run: what is measured, in which order, on one private stack, and the proof at its end that nothing was lost."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import full
from bench.load import runner
from bench.load.wire import BATCH_PATH, ORDERS_PATH
from bench.measure import ceilings
from bench.measure.meter import CORES, Lost, Measured, Meter
from bench.measure.rates import FIRST_RATE, highest_held, settled_late_per_s
from bench.measure.result import Breaking, Ceilings, Disk, Ratios, Run, Verified
from bench.plan import Plan
from bench.stack import machine, processes, warm
from bench.stack.system import System
from bench.stack.warm import Warmth
from dev.settings import DATABASES

ACCEPT_CONNECTIONS: Final = 128
P95_MAX_MS: Final = 50.0
ERRORS_MAX: Final = 0.001
BREAKING_FROM: Final = 1.1
BREAKING_TRIES: Final = 8
BATCH_LINES: Final = 100
CONFIRMED_FIRST: Final = 0.8
KEYED_FIRST: Final = 0.7
OTHERS_MAX: Final = 0.05
DRIFT_MAX: Final = 0.15
IDLE_S: Final = 3.0
CONSUMERS: Final = ("payment", "inventory", "order-saga")


class Refuted(Exception):
    """The audit found a violation, or could not prove that there is none: there is no result."""


def run(plan: Plan, system: System, directory: Path, say: Callable[[str], None]) -> Run:
    """All of a plan. Raises `Lost` or `Refuted` when something was lost: then nothing counts."""
    began = time.monotonic()
    meter = Meter(system, directory, say)
    warmth = warm.broker_of(system, plan.warm_s_max)
    say(f"warm-up: {warm.line(warmth)}")
    footprint = _Footprint(system)
    warm_up = meter.governed("warm-up", FIRST_RATE, plan.warm_up_s)
    left_out = []
    echoes = [ceilings.echo(directory, plan.echo_s)]
    copied = ceilings.copy(system)
    broker = ceilings.broker(system, plan.broker_records)
    say(f"ceilings: echo {echoes[0].per_s:.0f}/s, {echoes[0].cpu_us:.1f} us; COPY {copied.orders_per_s:.0f} orders/s; "
        f"log {broker.produced_per_s:.0f}/s in, {broker.consumed_per_s:.0f}/s out")  # fmt: skip
    accept, accept_drain_per_s = accept_alone(meter, plan)
    confirmed = highest_held(
        meter, "confirmed", settled_late_per_s(warm_up) * CONFIRMED_FIRST, plan.govern_s, plan.hold_s
    )
    idle = idle_cpu(system)
    memory = processes.memory(system.layout.pids)
    ladder = [
        *(meter.open(f"{rate:g}/s", rate, plan.low_point_s) for rate in plan.fixed_rates),
        *(
            meter.open(f"{share:.0%}", share * confirmed.confirmed_per_s, plan.point_s)
            for share in plan.shares
        ),
    ]  # fmt: skip
    breaking = None
    if plan.breaking_step:
        breaking = breaking_point(meter, plan, confirmed.confirmed_per_s, ladder)
    echoes.append(ceilings.echo(directory, plan.echo_s))
    keyed = batch = None
    if plan.keyed_s:
        if takes_keys(meter):
            keyed = highest_held(
                meter, "keyed", confirmed.confirmed_per_s * 0.7, plan.keyed_s, plan.keyed_s, keyed=True
            )
        else:
            left_out.append("keyed orders: this revision ignores Idempotency-Key")
        if takes_batches(meter):
            first = confirmed.confirmed_per_s
            batch = highest_held(meter, "batch of 100", first, plan.batch_s, plan.batch_s, lines=BATCH_LINES)
        else:
            left_out.append("the batch endpoint: this revision has none")
    disk = footprint.since(meter.orders)
    drains, recovery, instances, spread = [], None, [], []
    if plan.chain_s:
        drains = full.drains(meter, plan, say)
        recovery = full.recovery(meter, confirmed.confirmed_per_s, plan.away_s)
        instances = full.instances(meter, plan, confirmed.confirmed_per_s)
        spread = full.spread(meter, plan, confirmed.confirmed_per_s)
    echoes.append(ceilings.echo(directory, plan.echo_s))
    echo = sorted(echoes, key=lambda e: e.per_s)[len(echoes) // 2]
    verified = verify(system, meter.accepted_file, meter.orders)
    say(f"verified: {verified.orders} acknowledged orders, in {verified.seconds:.0f} s")
    found = Ceilings(echo=echo, echo_per_s=[e.per_s for e in echoes], copy=copied, broker=broker)
    double = next((m for m in ladder if m.name == "200%"), None)
    return Run(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        plan=plan.name,
        seconds=time.monotonic() - began,
        machine=machine.describe(Path(system.layout.root)),
        started_in_s=system.layout.started_in_s,
        ceilings=found,
        warmth=warmth,
        warm_up=warm_up,
        accept=accept,
        accept_drain_per_s=accept_drain_per_s,
        confirmed=confirmed,
        confirmed_keyed=keyed,
        confirmed_batch=batch,
        ladder=ladder,
        breaking=breaking,
        memory_bytes=memory,
        idle_cpu_share=idle,
        disk=disk,
        ratios=Ratios(
            cpu_of_confirmed_to_echo=confirmed.total_cpu_us / echo.cpu_us,
            confirmed_to_echo=confirmed.confirmed_per_s / echo.per_s,
            accept_to_echo=accept.accepted_per_s / echo.per_s,
            batch_confirmed_to_echo=batch.confirmed_per_s / echo.per_s if batch else None,
            keyed_cpu_to_unkeyed=keyed.cpu_us["api"] / confirmed.cpu_us["api"] if keyed else None,
            goodput_at_double=double.confirmed_per_s / confirmed.confirmed_per_s if double else None,
        ),
        verified=verified,
        left_out=left_out,
        warnings=warnings_of(meter.measured, found, warmth),
        drains=drains,
        recovery=recovery,
        instances=instances,
        spread=spread,
    )


def accept_alone(meter: Meter, plan: Plan) -> tuple[Measured, float]:
    """Accept with the consumers stopped, then how fast they work off what it left, all three at once."""
    for service in CONSUMERS:
        meter.system.stop(service)
    before = meter.log.records()
    accept = meter.closed("accept, consumers stopped", ACCEPT_CONNECTIONS, plan.accept_s, settle=False)
    for service in CONSUMERS:
        meter.system.start(service)
    began, done = time.monotonic(), meter.log.records() - before - accept.orders
    meter.await_decided(before + 2 * accept.orders)
    decided = meter.log.records() - before - accept.orders
    if decided < accept.orders:
        raise Lost(f"{accept.orders - decided} of {accept.orders} acknowledged orders have no outcome")
    return accept, (decided - done) / (time.monotonic() - began)


def broken(measured: Measured) -> str:
    """Why a load is past the breaking point; empty when it is not. Refusals are errors here."""
    failed = 1 - measured.by_status.get("202", 0) / max(1, measured.requests)
    if failed > ERRORS_MAX:
        return f"{failed:.2%} of the requests were refused or failed"
    if measured.accept.p95 is not None and measured.accept.p95 > P95_MAX_MS:
        return f"p95 of accept was {measured.accept.p95:.0f} ms"
    return ""


def breaking_point(meter: Meter, plan: Plan, confirmed_per_s: float, ladder: Sequence[Measured]) -> Breaking:
    """The lowest rate that breaks accept: of the ladder, or of a series that rises from below the confirmed rate."""
    rising = sorted((m for m in ladder if m.offered_per_s <= confirmed_per_s), key=lambda m: m.offered_per_s)
    tried = []
    for measured in rising:
        tried.append(measured.offered_per_s)
        if why := broken(measured):
            return Breaking(per_s=measured.offered_per_s, why=why, tried_per_s=tried)
    for step in range(BREAKING_TRIES):
        rate = confirmed_per_s * (BREAKING_FROM + step * plan.breaking_step)
        tried.append(rate)
        if why := broken(meter.open(f"breaking? {rate:.0f}/s", rate, plan.breaking_s)):
            return Breaking(per_s=rate, why=why, tried_per_s=tried)
    return Breaking(per_s=0, why="none of the rates tried broke it", tried_per_s=tried)


def idle_cpu(system: System) -> dict[str, float]:
    """The share of one core that each takes when nothing happens."""
    before = processes.sample(system.layout.pids)
    time.sleep(IDLE_S)
    used = processes.between(before, processes.sample(system.layout.pids), 0.0)
    return {group: seconds / IDLE_S for group, seconds in used.by_group.items() if group != "generator"}


def takes_keys(meter: Meter) -> bool:
    """Whether the api honours Idempotency-Key: the same request twice gives the same order."""
    body = b'{"customer_id":"cust-000001","product_id":"sku-0001","quantity":1}'
    headers = {"content-type": "application/json", "idempotency-key": f"bench-{time.time_ns()}"}
    answers = [_post(meter, ORDERS_PATH, body, headers) for _ in range(2)]
    return answers[0] is not None and answers[0] == answers[1]


def takes_batches(meter: Meter) -> bool:
    """Whether there is a batch endpoint."""
    body = b'{"customer_id":"cust-000001","product_id":"sku-0001","quantity":1}\n'
    return _post(meter, BATCH_PATH, body, {"content-type": "application/x-ndjson"}) is not None


def _post(meter: Meter, path: str, body: bytes, headers: dict[str, str]) -> str | None:
    """The id of the order that was accepted, if one was; it counts among those that must not be lost."""
    url = f"http://127.0.0.1:{meter.system.layout.ports['order-api']}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
            order_id: str | None = json.loads(answer.read().splitlines()[0]).get("order_id")
    except urllib.error.HTTPError:
        return None
    if order_id:
        meter.remember([order_id])
    return order_id


def verify(system: System, accepted: Path, orders: int) -> Verified:
    """Have the audit prove that no acknowledged order was lost and all books agree. Raises `Refuted`."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ops.verify", "--accepted", str(accepted)],
        cwd=system.layout.root,
        env={**os.environ, **system.layout.variables},
        capture_output=True,
        text=True,
    )
    output = (done.stdout + done.stderr).strip()
    if done.returncode:
        raise Refuted(f"ops.verify ended with {done.returncode}:\n{output}")
    return Verified(orders=orders, seconds=time.monotonic() - began, output=output)


def warnings_of(measured: Sequence[Measured], found: Ceilings, warmth: Warmth) -> list[str]:
    """What a reader must know before believing the figures."""
    warnings = [f"{m.name}: {warning}" for m in measured for warning in m.warnings]
    if not warmth.warm:
        warnings.append(f"the broker was still getting warmer, so orders cost more than they will: {warm.line(warmth)}")
    late = [m for m in measured if m.late_share > runner.LATE_SHARE_MAX]
    if late:
        worst = max(late, key=lambda m: m.late_share)
        warnings.append(
            f"the generator fell behind its schedule in {len(late)} of {len(measured)} loads, most in {worst.name!r}, "
            f"where it sent {worst.late_share:.0%} of its requests over 5 ms late; their latencies count from the "
            "schedule all the same"
        )
    disturbed = max(measured, key=lambda m: m.others_share)
    if disturbed.others_share > OTHERS_MAX:
        typical = median(m.others_share for m in measured)
        warnings.append(
            f"other processes took up to {disturbed.others_share:.0%} of the {CORES} cores (during "
            f"{disturbed.name!r}; the median load saw {typical:.0%}): rates and latencies are those of a busy machine"
        )
    drift = max(found.echo_per_s) / min(found.echo_per_s) - 1
    if drift > DRIFT_MAX:
        warnings.append(f"the echo ceiling drifted by {drift:.0%} during the run, so ratios to it are that uncertain")
    rejected = sum(m.rejected for m in measured)
    if rejected:
        warnings.append(f"{rejected} orders were rejected although the load is made to be confirmed")
    return warnings


class _Footprint:
    """What is on disk, and how much more there is later."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._before = self._read()

    def _read(self) -> tuple[int, int, int]:
        tables = 0
        wal = 0
        for database in DATABASES:
            with self._system.connect(database) as connection:
                row: Any = connection.execute(
                    "SELECT sum(pg_total_relation_size(oid))::bigint, pg_current_wal_lsn() - '0/0'::pg_lsn "
                    "FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                ).fetchone()
                tables += row[0]
                wal = int(row[1])
        logs = (Path(self._system.directory) / "kafka/log").glob("*/*.log")
        return tables, wal, sum(path.stat().st_size for path in logs if "bench-ceiling" not in path.parent.name)

    def since(self, orders: int) -> Disk:
        """Bytes an order since this was made."""
        tables, wal, log = ((now - then) / max(1, orders) for now, then in zip(self._read(), self._before, strict=True))
        return Disk(tables=tables, wal=wal, log=log)
