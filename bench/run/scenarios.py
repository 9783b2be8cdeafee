"""The parts of a run, in order, and the proof at the end of each stack that nothing was lost."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from msgspec.structs import replace

from bench.chain import rates as chain
from bench.load import runner
from bench.measure import broker, ceilings
from bench.measure.measured import Measured, NoResult
from bench.measure.meter import FIRST_RATE, Meter, private_meter
from bench.measure.result import Ceilings, Disk, Run
from bench.run import cold, full
from bench.run.plan import REFERENCE_PER_S, Plan
from bench.stack import machine, processes
from bench.stack.private import System
from bench.stack.processes import CORES, GROUPS
from dev.settings import DATABASES

LINES: Final = 100
CONFIRMED_FIRST: Final = 0.8
KEYED_FIRST: Final = 0.7
OTHERS_MAX: Final = 0.05
DRIFT_MAX: Final = 0.15
IDLE_S: Final = 3.0
CONSUMERS: Final = ("payment", "inventory", "order-saga")


def run(plan: Plan, directory: Path, say: Callable[[str], None], settings: Mapping[str, str]) -> Run:
    """All parts of a plan, one stack at a time. Raises `NoResult`."""
    began = time.monotonic()
    first_burst = cold.first_burst(directory / "burst", plan.burst_orders, say, settings=settings)
    with private_meter(directory / "main", say, settings=settings) as meter:
        result = run_main(plan, meter, first_burst)
    if plan.chain_s:
        with private_meter(directory / "growth", say, settings=settings) as meter:
            growth = full.growth(meter, plan, result.confirmed.confirmed_per_s)
            meter.verify()
        points = chain.measure(directory, REFERENCE_PER_S, plan.chain_s, say)
        result = replace(result, growth=growth, chain=points)
    return replace(result, seconds=time.monotonic() - began)


def run_main(plan: Plan, meter: Meter, first_burst: Measured) -> Run:
    """The parts that share a stack."""
    system, say = meter.system, meter.say
    say("the stack is up")
    stored_before = stored_bytes(system)
    first_minute = cold.first_minute(meter, plan.first_minute_orders)
    warmth = meter.warm_broker(plan.warm_s_max)
    warm_up = meter.governed("warm-up", FIRST_RATE, plan.warm_up_s)
    echoes = [ceilings.echo(plan.echo_s)]
    copied = ceilings.copy(system)
    log = broker.rates(system, plan.broker_records)
    say(f"ceilings: echo {echoes[0].per_s:.0f}/s, {echoes[0].cpu_us:.1f} us; COPY {copied.orders_per_s:.0f} orders/s; "
        f"log {log.produced_per_s:.0f}/s in, {log.consumed_per_s:.0f}/s out")  # fmt: skip
    accept = accept_alone(meter, plan)
    first_rate = warm_up.settled_late_per_s * CONFIRMED_FIRST
    confirmed = meter.highest_held("confirmed", first_rate, plan.govern_s, plan.hold_s)
    confirmed_per_s = confirmed.confirmed_per_s
    idle = idle_cpu(system)
    memory = processes.memory(system.layout.pids)
    # Right behind what they are compared with: a machine may become slower within minutes.
    keyed = many = None
    if seconds := plan.variant_s:
        keyed = meter.highest_held("keyed", confirmed_per_s * KEYED_FIRST, seconds, seconds, keyed=True)
        many = meter.highest_held(f"{LINES} a request", confirmed_per_s, seconds, seconds, lines=LINES)
    ladder = [meter.open(f"{rate:g}/s", rate, plan.low_point_s) for rate in plan.fixed_rates]
    ladder += [meter.open(f"{share:.0%}", share * confirmed_per_s, plan.point_s) for share in plan.shares]
    echoes.append(ceilings.echo(plan.echo_s))
    stored = zip(stored_bytes(system), stored_before, strict=True)
    tables, wal, log_bytes = ((now - before) / max(1, meter.orders) for now, before in stored)
    extra: dict[str, Any] = {}
    if plan.chain_s:
        extra = {
            "drains": full.drains(meter, plan),
            "recovery": full.recovery(meter, confirmed_per_s, plan.away_s),
            "instances": full.instances(meter, plan, confirmed_per_s),
            "spread": full.spread(meter, plan, confirmed_per_s),
        }
    echoes.append(ceilings.echo(plan.echo_s))
    echo = sorted(echoes, key=lambda e: e.per_s)[len(echoes) // 2]
    meter.verify()
    result = Run(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        plan=plan.name,
        seconds=0,
        machine=machine.describe(),
        ceilings=Ceilings(echo=echo, echo_per_s=[e.per_s for e in echoes], copy=copied, log=log),
        first_burst=first_burst,
        first_minute=first_minute,
        warmth=warmth,
        accept=accept,
        confirmed=confirmed,
        keyed=keyed,
        many=many,
        ladder=ladder,
        memory_bytes=memory,
        idle_cpu_share=idle,
        disk=Disk(tables=tables, wal=wal, log=log_bytes),
        orders_verified=first_burst.orders + meter.orders,
        warnings=[],
        **extra,
    )
    return replace(result, warnings=warnings_of(result, [first_burst, *meter.measured]))


def accept_alone(meter: Meter, plan: Plan) -> Measured:
    """Accept orders while the consumers are stopped, then let these work off the backlog."""
    for service in CONSUMERS:
        meter.system.stop(service)
    before = meter.log.records()
    accept = meter.closed("accept, consumers stopped", plan.accept_s, settle=False)
    for service in CONSUMERS:
        meter.system.start(service)
    decided = before + 2 * accept.orders
    records, _ = meter.log.await_records(decided)
    if (undecided := decided - records) > 0:
        raise NoResult(f"{undecided} of {accept.orders} acknowledged orders have no outcome")
    return accept


def idle_cpu(system: System) -> dict[str, float]:
    """The share of one core that each process takes without any load."""
    window = system.window()
    time.sleep(IDLE_S)
    seconds = window.end().seconds
    return {group: seconds[group] / IDLE_S for group in GROUPS}


def warnings_of(run: Run, measured: Sequence[Measured]) -> list[str]:
    """What a reader must know before believing the figures."""
    warnings = [f"{m.name}: {warning}" for m in measured for warning in m.warnings]
    if not run.warmth.warm:
        warnings.append(f"the broker was still getting warmer, so later orders will cost less: {run.warmth}")
    late = [m for m in measured if m.late_share > runner.LATE_SHARE_MAX]
    if late:
        worst = max(late, key=lambda m: m.late_share)
        warnings.append(
            f"the generator fell behind its schedule in {len(late)} of {len(measured)} loads, most in {worst.name!r}, "
            f"where it sent {worst.late_share:.0%} of its requests over 5 ms late; latencies still count from the "
            "schedule"
        )
    disturbed = max(measured, key=lambda m: m.others_share)
    if disturbed.others_share > OTHERS_MAX:
        typical = median(m.others_share for m in measured)
        warnings.append(
            f"other processes took up to {disturbed.others_share:.0%} of the {CORES} cores (during "
            f"{disturbed.name!r}; {typical:.0%} during the median load): the figures are those of a busy machine"
        )
    echo_per_s = run.ceilings.echo_per_s
    drift = max(echo_per_s) / min(echo_per_s) - 1
    if drift > DRIFT_MAX:
        warnings.append(f"the echo ceiling drifted by {drift:.0%} during the run, so ratios to it are that uncertain")
    if rejected := sum(m.rejected for m in measured):
        warnings.append(f"{rejected} orders were rejected, although every order of the load can be confirmed")
    return warnings


def stored_bytes(system: System) -> tuple[int, int, int]:
    """What the databases' tables, the write-ahead log so far and Kafka's log take."""
    tables = wal = 0
    for database in DATABASES:
        with system.connect(database) as connection:
            row: Any = connection.execute(
                "SELECT sum(pg_total_relation_size(oid))::bigint, pg_current_wal_lsn() - '0/0'::pg_lsn "
                "FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            ).fetchone()
            tables += row[0]
            wal = int(row[1])
    ours = f"{broker.TOPIC}-"
    partitions = [path for path in (system.directory / "kafka/log").iterdir() if not path.name.startswith(ours)]
    return tables, wal, sum(path.stat().st_size for folder in partitions for path in folder.glob("*.log"))
