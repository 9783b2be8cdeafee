"""A run as tables of text, which both the Markdown summary and the HTML page show."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from bench.load.latency import PERCENTILES, Latency
from bench.measure.measured import Measured
from bench.measure.result import Run
from bench.stack.processes import GROUPS

TEMPLATE: Final = Path(__file__).with_name("report.html")
MIB: Final = 2**20


class Table(Struct, frozen=True):
    """A section: a title, a paragraph, and rows whose first column is text and whose others are figures."""

    title: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def markdown(tables: Iterable[Table]) -> str:
    """The tables for the summary page of a CI job, and for the docs."""
    lines = []
    for table in tables:
        lines += [f"## {table.title}", "", *([table.text, ""] if table.text else [])]
        if table.rows:
            rule = ["---", *("---:" for _ in table.header[1:])]
            lines += ["| " + " | ".join(row) + " |" for row in (table.header, rule, *table.rows)]
            lines.append("")
    return "\n".join(lines)


def page(run: Run, history: Sequence[Run]) -> str:
    """A self-contained HTML file, which loads nothing. `history` are earlier runs of the same plan, oldest first."""
    previous = history[-1] if history else None
    content = {
        "run": run,
        "previous": previous,
        "tables": tables_of(run, previous),
        "history": [
            {
                "cpu_to_echo": r.cpu_to_echo,
                "confirmed_per_s": r.confirmed.confirmed_per_s,
                "cpu_us_at_700": at_700(r),
                "burst_confirmed_per_s": r.first_burst.confirmed_per_s,
            }
            for r in (*history, run)
        ],
        "groups": GROUPS,
    }
    # A "</script>" in a string would end the script.
    data = msgspec.json.encode(content).decode().replace("</", "<\\/")
    return TEMPLATE.read_text().replace("/*DATA*/null", data)


def number(value: float | None, digits: int = 0) -> str:
    """With thousands separated; a dash for what was not measured."""
    return "-" if value is None else f"{value:,.{digits}f}"


def ms(value: float | None) -> str:
    return f"{number(value, 1)} ms"


def percentiles(latency: Latency | None) -> tuple[str, ...]:
    values = latency.percentiles if latency else (None,) * len(PERCENTILES)
    return tuple(number(value, 1) for value in values)


def tables_of(run: Run, previous: Run | None = None) -> dict[str, Table]:
    """All sections by name, in the order of the summary. `previous` is an earlier run of the same plan."""
    tables = {
        "summary": summary(run),
        "headline": headline(run, previous),
        "cold": cold(run),
        "by_rate": costs("by rate", run.ladder),
        "latency": latency(run),
        "costs": costs("in other loads", (run.confirmed, run.keyed, run.many, run.first_burst, run.first_minute)),
        "footprint": footprint(run),
        "drains": drains(run),
        "growth": rates("Growth: orders stored before", run.growth),
        "spread": rates("Spread: one row that every order locks", run.spread and [run.confirmed, *run.spread]),
        "instances": rates("Instances of api, saga, payment and inventory each, on the same cores", run.instances),
        "recovery": recovery(run),
        "chain": chain(run),
        "conditions": conditions(run),
    }
    return {name: table for name, table in tables.items() if table.text or table.rows}


def summary(run: Run) -> Table:
    m, c = run.machine, run.confirmed
    text = (
        f"Tandem bench, {run.plan} run of {run.at} in {run.seconds / 60:.1f} minutes, revision `{m.revision}`"
        f"{' with uncommitted changes' if m.changed else ''}. {run.orders_verified:,} orders were acknowledged; "
        "`verify --accepted` proved that each was settled once, and that none was lost, charged twice or oversold."
    )
    per_s, cpu_us = number(c.confirmed_per_s), number(c.total_cpu_us)
    title = f"{per_s} confirmed orders a second on {m.cores} cores, {cpu_us} µs of CPU each"
    return Table(title, "\n".join([text, *(f"\n> **Note:** {warning}" for warning in run.warnings)]))


def headline(run: Run, previous: Run | None) -> Table:
    c, half, double = run.confirmed, run.step("50%"), run.step("200%")
    echo, copy, log = run.ceilings.echo, run.ceilings.copy, run.ceilings.log
    services, everything = (
        number(sum(run.memory_bytes[group] for group in groups) / MIB)
        for groups in (("api", "saga", "payment", "inventory"), GROUPS)
    )

    rows: list[Sequence[str]] = []

    def add(name: str, measured: str, in_relation: str, figure: Callable[[Run], float | None] | None = None) -> None:
        now, before = (figure(r) if figure and r else None for r in (run, previous))
        change = f"{now / before - 1:+.0%}" if now and before else ""
        rows.append((name, measured, in_relation, change))

    def to_echo(per_s: float) -> str:
        return f"{per_s / echo.per_s:.3f} x echo"

    def rate_and_cost(load: Measured) -> str:
        return f"{number(load.confirmed_per_s)}/s, {number(load.total_cpu_us)} µs"

    ratio, accepted_per_s = f"{run.cpu_to_echo:.1f} x echo", run.accept.accepted_per_s
    add("CPU of a confirmed order", f"{number(c.total_cpu_us)} µs", ratio, lambda run: run.confirmed.total_cpu_us)
    name, ratio = f"confirmed, held for {c.duration_s:.0f} s", to_echo(c.confirmed_per_s)
    add(name, f"{number(c.confirmed_per_s)}/s", ratio, lambda run: run.confirmed.confirmed_per_s)
    name, ratio = "accepted, consumers stopped", to_echo(accepted_per_s)
    add(name, f"{number(accepted_per_s)}/s", ratio, lambda run: run.accept.accepted_per_s)
    for name, step in (("accept", half and half.accept), ("settle", half and half.settle)):
        if step:
            add(f"{name} p50 at half of that rate", ms(step.p50), f"p99 {ms(step.p99)}")
    add("memory of the services", f"{services} MiB", f"{everything} MiB with broker and PostgreSQL")
    if us := at_700(run):
        add("CPU of an order at 700/s", f"{number(us)} µs", f"{us / echo.cpu_us:.1f} x echo", at_700)
    burst, minute = run.first_burst, run.first_minute
    per_s, cpu_us = number(burst.confirmed_per_s), number(burst.total_cpu_us)
    ratio = f"{cpu_us} µs; {number(burst.refused)} of {number(burst.requests)} refused"
    add("confirmed in the first burst", f"{per_s}/s", ratio, lambda run: run.first_burst.confirmed_per_s)
    if settle := minute.settle:
        add("settle p95 in the first minute", ms(settle.p95), f"accept p95 {ms(minute.accept.p95)}")
    if k := run.keyed:
        ratio = f"api's CPU {k.cpu_us['api'] / c.cpu_us['api']:.2f} x unkeyed"
        add("confirmed, each with an idempotency key", rate_and_cost(k), ratio)
    if m := run.many:
        add("confirmed, 100 orders a request", rate_and_cost(m), to_echo(m.confirmed_per_s))
    if double:
        ratio = f"{double.confirmed_per_s / c.confirmed_per_s:.2f} x the confirmed rate"
        add("confirmed with 200 % offered", f"{number(double.confirmed_per_s)}/s", ratio)
    in_and_out = f"{number(log.produced_per_s)}/s in, {number(log.consumed_per_s)}/s out"
    log_cpu = f"broker {log.produce_cpu_us:.1f} + {log.consume_cpu_us:.1f} µs"
    add("ceiling: bare uvicorn echo", f"{number(echo.per_s)}/s", f"{echo.cpu_us:.1f} µs")
    add("ceiling: COPY of an order's rows", f"{number(copy.orders_per_s)}/s", f"{copy.postgres_cpu_us:.1f} µs")
    add(f"ceiling: the log, records of {log.record_bytes} bytes", in_and_out, log_cpu)
    text = "Rates differ by machine; the ratios hold. CPU is that of all processes without the load generator."
    header = ("", "measured", "in relation", "since the run before")
    return Table("The figures that matter most", text, header, rows)


def at_700(run: Run) -> float | None:
    """CPU of an order at that rate."""
    step = run.step("700/s")
    return step.total_cpu_us if step else None


def cold(run: Run) -> Table:
    burst, minute = run.first_burst, run.first_minute
    text = (
        "Nothing warms these two stacks, which have just become ready. First burst: a closed loop over "
        f"{burst.connections} connections. First minute: {number(minute.offered_per_s)} orders/s at fixed times. "
        "Refused: answered with 503. Drain: from the last answer until the last order was decided. Latencies in ms."
    )
    columns = ("sent", "accepted", "refused", "errors", "accepted/s", "confirmed/s", "drain, s")
    header = ("", *columns, "accept p50", "p95", "p99", "settle p50", "p95", "p99", "CPU µs")
    rows = []
    for m in (burst, minute):
        counts = map(number, (m.requests, m.orders, m.refused, m.errors, m.accepted_per_s, m.confirmed_per_s))
        latencies = (*percentiles(m.accept)[:3], *percentiles(m.settle)[:3])
        rows.append((m.name, *counts, number(m.drain_s, 1), *latencies, number(m.total_cpu_us)))
    return Table("On a stack just started", text, header, rows)


def latency(run: Run) -> Table:
    text = (
        "Open loop: requests are due at fixed times whatever the answers do, and every latency counts from when its "
        "request was due. Accept: until the end of the 202. Settle: until the outcome can be read in the log, by the "
        "broker's clock in whole milliseconds. A percentile with fewer than 5 samples beyond it is left out."
    )
    median, *others = PERCENTILES
    columns = (f"accept {median}", *others, f"settle {median}", *others)
    header = ("offered", "/s", *columns, "confirmed/s", "refused", "errors")
    rows = []
    for m in run.ladder:
        counts = map(number, (m.confirmed_per_s, m.refused, m.errors))
        rows.append((m.name, number(m.offered_per_s), *percentiles(m.accept), *percentiles(m.settle), *counts))
    return Table("Latency by offered rate, ms", text, header, rows)


def costs(loads: str, measured: Iterable[Measured | None]) -> Table:
    text = (
        "By process, from the start of a load until its last order was decided. The generator is not in the sum, nor "
        "in the number of cores that were busy."
    )
    header = ("", "accepted/s", *GROUPS, "all", "cores", "generator", "accept p50", "p99", "settle p50", "p99")
    rows = []
    for m in measured:
        if m:
            groups = (number(m.cpu_us[group]) for group in GROUPS)
            cpu = (*groups, number(m.total_cpu_us), number(m.cores, 2), number(m.cpu_us["generator"]))
            latency = (p for of in (m.accept, m.settle) for p in percentiles(of)[0:3:2])
            rows.append((m.name, number(m.accepted_per_s), *cpu, *latency))
    return Table(f"What an order costs {loads}: µs of CPU, latency in ms", text, header, rows)


def footprint(run: Run) -> Table:
    d, memory, idle = run.disk, run.memory_bytes, run.idle_cpu_share
    text = (
        f"An order leaves {d.tables:,.0f} bytes in tables and indexes and {d.log:,.0f} in Kafka's log; "
        f"{d.wal:,.0f} bytes pass through the write-ahead log and {run.confirmed.http_bytes:,.0f} over HTTP."
    )
    header = ("", "PSS after the confirmed load, MiB", "CPU when idle, of one core")
    rows = [(group, number(memory[group] / MIB), f"{idle[group]:.1%}") for group in GROUPS]
    rows.append(("all", number(sum(memory.values()) / MIB), f"{sum(idle.values()):.1%}"))
    return Table("Memory, idle CPU, bytes", text, header, rows)


def drains(run: Run) -> Table:
    header = ("consumer", "records", "/s", "its CPU, µs a record", "PostgreSQL", "broker")
    rows = []
    for d in run.drains:
        costs = (number(d.cpu_us[group], 1) for group in (d.service, "postgres", "broker"))
        rows.append((d.service, number(d.records), number(d.records_per_s), *costs))
    return Table("Drain: each consumer alone on a backlog", "", header, rows)


def rates(title: str, loads: Sequence[Measured]) -> Table:
    header = ("", "confirmed/s", "to the first", "CPU µs", "accept p99, ms", "settle p99, ms")
    rows = []
    for m in loads:
        ratio = number(m.confirmed_per_s / loads[0].confirmed_per_s, 2)
        p99s = (percentiles(m.accept)[2], percentiles(m.settle)[2])
        rows.append((m.name, number(m.confirmed_per_s), ratio, number(m.total_cpu_us), *p99s))
    return Table(title, "", header, rows)


def recovery(run: Run) -> Table:
    r = run.recovery
    text = r and (
        f"Payment was away for {r.away_s:.0f} s at {r.offered_per_s:,.0f} orders/s. Its backlog was gone "
        f"{r.gone_within_s:.1f} s after its return. Accept p99 over the whole time: {ms(r.load.accept.p99)}."
    )
    return Table("Recovery", text or "")


def chain(run: Run) -> Table:
    c, reference = run.confirmed, run.step("17/s")
    if not run.chain or not reference:
        return Table("")

    def row(name: str, slow: Latency | None, fast: Latency | None, *figures: float) -> Sequence[str]:
        p50, _, p99, _ = percentiles(slow)
        rate, connections, cpu_us = map(number, figures)
        return name, p50, p99, rate, connections, percentiles(fast)[0], cpu_us

    text = (
        "The same work done synchronously: order calls payment, which calls its gateway; then order calls inventory; a "
        "transaction each. Its answer says that the order is settled; Tandem's 202 says that the log has it. Tandem "
        "calls no gateway: a delay there would add to its time to settle, not to accept."
    )
    header = ("", "p50 at 17/s, ms", "p99", "highest rate, /s", "connections", "p50 there, ms", "CPU µs an order")
    rows = []
    for p in run.chain:
        figures = (p.highest_per_s, p.connections, p.total_cpu_us)
        rows.append(row(f"chain, gateway {p.gateway_ms} ms", p.at_reference, p.at_highest, *figures))
    figures = (c.confirmed_per_s, c.connections, c.total_cpu_us)
    rows.append(row("Tandem, accept", reference.accept, c.accept, *figures))
    if c.settle:
        rows.append(row("Tandem, settle", reference.settle, c.settle, *figures))
    return Table("The chain it replaces", text, header, rows)


def conditions(run: Run) -> Table:
    m = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in m.versions.items())
    echoes = ", ".join(number(per_s) for per_s in run.ceilings.echo_per_s)
    text = (
        f"{m.cores} cores ({m.cpu}), {m.memory_bytes / 2**30:.0f} GiB, Linux {m.kernel}, Python {m.python}; "
        f"{versions}. Load generator, services, broker and PostgreSQL (fsync and synchronous_commit on) share the "
        "cores. Orders have one line of 1 or 2 pieces; 100,000 customers and 1,000 products are evenly spread. "
        f"Warm-up: {run.warmth}. Echo in the course of the run: {echoes}/s. Other processes took "
        f"{run.confirmed.others_share:.0%} of the machine during the confirmed load."
    )
    return Table("Conditions", text)
