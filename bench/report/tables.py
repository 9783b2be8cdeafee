"""A run as tables of text. The Markdown summary and the HTML page both show these."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

from bench.load.latency import Latency
from bench.measure.measured import Measured
from bench.measure.result import Run
from bench.stack.processes import GROUPS

MIB: Final = 2**20
NO_PERCENTILES: Final = (None,) * 4


class Table(Struct, frozen=True, kw_only=True):
    """A section: a title, a paragraph, and rows whose first column is text and whose others are figures."""

    title: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def markdown(tables: Iterable[Table]) -> str:
    """The tables for the summary page of a CI job, and for the docs."""
    lines = []
    for table in tables:
        lines += [f"## {table.title}", ""]
        if table.text:
            lines += [table.text, ""]
        if table.rows:
            rule = ["---", *("---:" for _ in table.header[1:])]
            lines += ["| " + " | ".join(row) + " |" for row in (table.header, rule, *table.rows)]
            lines.append("")
    return "\n".join(lines)


def number(value: float | None, digits: int = 0) -> str:
    """With thousands separated; a dash for what was not measured."""
    return "-" if value is None else f"{value:,.{digits}f}"


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} ms"


def tables_of(run: Run, previous: Run | None = None) -> dict[str, Table]:
    """All sections by name, in the order of the summary. `previous` is an earlier run of the same plan."""
    tables = {
        "summary": summary(run),
        "headline": headline(run, previous),
        "latency": latency(run),
        "costs": costs(run),
        "footprint": footprint(run),
    }
    if run.drains:
        tables["drains"] = drains(run)
    for name, title, loads in (
        ("growth", "Growth: orders stored before", run.growth),
        ("spread", "Spread: one row that every order locks", run.spread),
        ("instances", "Instances of api, saga, payment and inventory each, on the same cores", run.instances),
    ):
        if loads:
            tables[name] = rates(title, loads)
    if run.recovery:
        tables["recovery"] = recovery(run)
    if run.chain:
        tables["chain"] = chain(run)
    return tables | {"conditions": conditions(run)}


def summary(run: Run) -> Table:
    m, c = run.machine, run.confirmed
    text = (
        f"Tandem bench, {run.plan} run of {run.at} in {run.seconds / 60:.1f} minutes, revision `{m.revision}`"
        f"{' with uncommitted changes' if m.changed else ''}. {run.verified.orders:,} orders were acknowledged; "
        "`verify --accepted` proved that each was settled once, and that none was lost, charged twice or oversold."
    )
    return Table(
        title=(
            f"{c.confirmed_per_s:,.0f} confirmed orders a second on {m.cores} cores, "
            f"{c.total_cpu_us:,.0f} µs of CPU each"
        ),
        text="\n".join([text, *(f"\n> **Note:** {warning}" for warning in run.warnings)]),
    )


def headline(run: Run, previous: Run | None) -> Table:
    r, c, e, half = run.ratios, run.confirmed, run.ceilings, run.step("50%")
    ours = sum(run.memory_bytes[group] for group in ("api", "saga", "payment", "inventory"))

    def change(figure: Callable[[Run], float]) -> str:
        return f"{figure(run) / figure(previous) - 1:+.0%}" if previous else ""

    rows = [
        (
            "CPU of a confirmed order",
            f"{number(c.total_cpu_us)} µs",
            f"{r.cpu_to_echo:.1f} x echo",
            change(lambda run: run.confirmed.total_cpu_us),
        ),
        (
            f"confirmed, held for {c.duration_s:.0f} s",
            f"{number(c.confirmed_per_s)}/s",
            f"{r.confirmed_to_echo:.3f} x echo",
            change(lambda run: run.confirmed.confirmed_per_s),
        ),
        (
            "accepted, consumers stopped",
            f"{number(run.accept.accepted_per_s)}/s",
            f"{r.accept_to_echo:.3f} x echo",
            change(lambda run: run.accept.accepted_per_s),
        ),
    ]
    if half:
        rows.append(("accept p50 at half of that rate", ms(half.accept.p50), f"p99 {ms(half.accept.p99)}", ""))
        if half.settle:
            rows.append(("settle p50 at half of that rate", ms(half.settle.p50), f"p99 {ms(half.settle.p99)}", ""))
    all_memory = f"{number(sum(run.memory_bytes.values()) / MIB)} MiB with broker and PostgreSQL"
    rows.append(("memory of the services", f"{number(ours / MIB)} MiB", all_memory, ""))
    for name, load, ratio in (
        (
            "confirmed, each with an idempotency key",
            run.keyed,
            f"api's CPU {number(r.keyed_cpu_to_unkeyed, 2)} x unkeyed",
        ),
        ("confirmed, 100 orders a request", run.many, f"{number(r.many_to_echo, 3)} x echo"),
    ):
        if load:
            rows.append((name, f"{number(load.confirmed_per_s)}/s, {number(load.total_cpu_us)} µs", ratio, ""))
    if r.at_double is not None:
        rows.append(("confirmed with 200 % offered", f"{r.at_double:.2f} x confirmed", "", ""))
    in_and_out = f"{number(e.log.produced_per_s)}/s in, {number(e.log.consumed_per_s)}/s out"
    rows += [
        ("ceiling: bare uvicorn echo", f"{number(e.echo.per_s)}/s", f"{e.echo.cpu_us:.1f} µs", ""),
        (
            "ceiling: COPY of an order's rows",
            f"{number(e.copy.orders_per_s)}/s",
            f"{e.copy.postgres_cpu_us:.1f} µs",
            "",
        ),
        (
            f"ceiling: the log, records of {e.log.record_bytes} bytes",
            in_and_out,
            f"broker {e.log.produce_cpu_us:.1f} + {e.log.consume_cpu_us:.1f} µs",
            "",
        ),
    ]
    return Table(
        title="The figures that matter most",
        text="Rates differ by machine; the ratios hold. CPU is that of all processes without the load generator.",
        header=("", "measured", "as a ratio", "since the run before"),
        rows=rows,
    )


def percentiles(latency: Latency | None) -> tuple[str, ...]:
    return tuple(number(value, 1) for value in (latency.percentiles if latency else NO_PERCENTILES))


def latency(run: Run) -> Table:
    text = (
        "Open loop: requests are due at fixed times whatever the answers do, and every latency counts from when its "
        "request was due. Accept: until the end of the 202. Settle: until the outcome can be read in the log, by the "
        "broker's clock in whole milliseconds. A percentile with fewer than 5 samples beyond it is left out."
    )
    if b := run.breaking:
        text += f" Accept breaks at {b.per_s:,.0f}/s: {b.why}." if b.per_s else ""
        text += "" if b.per_s else f" Accept did not break up to {b.tried_per_s[-1]:,.0f}/s."
    return Table(
        title="Latency by offered rate, ms",
        text=text,
        header=(
            "offered", "/s", "accept p50", "p95", "p99", "p99.9", "settle p50", "p95", "p99", "p99.9", "confirmed/s",
            "refused", "errors",
        ),
        rows=[
            (
                m.name, number(m.offered_per_s), *percentiles(m.accept), *percentiles(m.settle),
                number(m.confirmed_per_s), number(m.by_status.get("503", 0)), number(m.errors),
            )
            for m in run.ladder
        ],
    )  # fmt: skip


def costs(run: Run) -> Table:
    loads = [m for m in (run.confirmed, run.keyed, run.many, *run.ladder) if m]
    return Table(
        title="What an order costs, µs of CPU",
        text="By process, from the start of a load until its last order was decided. The generator is not in the sum.",
        header=("load", *GROUPS, "all", "generator"),
        rows=[
            (
                m.name,
                *(number(m.cpu_us[g], 1) for g in GROUPS),
                number(m.total_cpu_us),
                number(m.cpu_us["generator"], 1),
            )
            for m in loads
        ],
    )


def footprint(run: Run) -> Table:
    d, c = run.disk, run.confirmed
    rows = [(g, number(run.memory_bytes[g] / MIB), f"{run.idle_cpu_share[g]:.1%}") for g in GROUPS]
    idle = f"{sum(run.idle_cpu_share.values()):.1%}"
    return Table(
        title="Memory, idle CPU, bytes",
        text=(
            f"An order leaves {d.tables:,.0f} bytes in tables and indexes and {d.log:,.0f} in Kafka's log; "
            f"{d.wal:,.0f} bytes pass through the write-ahead log, {c.http_bytes:,.0f} over HTTP and "
            f"{c.loopback_bytes:,.0f} over the loopback interface in all."
        ),
        header=("", "PSS after the confirmed load, MiB", "CPU when idle, of one core"),
        rows=[*rows, ("all", number(sum(run.memory_bytes.values()) / MIB), idle)],
    )


def drains(run: Run) -> Table:
    return Table(
        title="Drain: each consumer alone on a backlog",
        header=("consumer", "records", "/s", "its CPU, µs a record", "PostgreSQL", "broker"),
        rows=[
            (
                d.service,
                number(d.records),
                number(d.records_per_s),
                *(number(d.cpu_us[group], 1) for group in (d.service, "postgres", "broker")),
            )
            for d in run.drains
        ],
    )


def rates(title: str, loads: Sequence[Measured]) -> Table:
    return Table(
        title=title,
        header=("", "confirmed/s", "to the first", "CPU µs", "accept p99, ms", "settle p99, ms"),
        rows=[
            (
                m.name,
                number(m.confirmed_per_s),
                number(m.confirmed_per_s / loads[0].confirmed_per_s, 2),
                number(m.total_cpu_us),
                number(m.accept.p99, 1),
                number(m.settle.p99 if m.settle else None, 1),
            )
            for m in loads
        ],
    )


def recovery(run: Run) -> Table:
    r = run.recovery
    assert r is not None
    return Table(
        title="Recovery",
        text=(
            f"Payment was away for {r.away_s:.0f} s at {r.offered_per_s:,.0f} orders/s. Its backlog was gone "
            f"{r.gone_within_s:.1f} s after its return. Accept p99 over the whole time: {ms(r.load.accept.p99)}."
        ),
    )


def chain(run: Run) -> Table:
    c, reference = run.confirmed, run.step("17/s")
    rows = [
        (
            f"chain, gateway {p.gateway_ms} ms",
            number(p.at_reference.p50, 1),
            number(p.at_reference.p99, 1),
            number(p.highest_per_s),
            number(p.connections),
            number(p.at_highest.p50, 1),
            number(p.total_cpu_us),
        )
        for p in run.chain
    ]
    if reference:
        for name, slow, fast in (("accept", reference.accept, c.accept), ("settle", reference.settle, c.settle)):
            first, _, third, _ = percentiles(slow)
            rows.append(
                (
                    f"Tandem, {name}",
                    first,
                    third,
                    number(c.confirmed_per_s),
                    number(c.connections),
                    percentiles(fast)[0],
                    number(c.total_cpu_us),
                )
            )
    return Table(
        title="The chain it replaces",
        text=(
            "The same work done synchronously: order calls payment, which calls its gateway; then order calls "
            "inventory; a transaction each. Its answer says that the order is settled; Tandem's 202 says that the log "
            "has it. Tandem calls no gateway: a delay there would add to its time to settle, not to accept."
        ),
        header=("", "p50 at 17/s, ms", "p99", "highest rate, /s", "connections", "p50 there, ms", "CPU µs an order"),
        rows=rows,
    )


def conditions(run: Run) -> Table:
    m, c = run.machine, run.confirmed
    versions = ", ".join(f"{name} {version}" for name, version in m.versions.items())
    started = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in run.started_in_s.items())
    echoes = ", ".join(number(per_s) for per_s in run.ceilings.echo_per_s)
    return Table(
        title="Conditions",
        text=(
            f"{m.cores} cores ({m.cpu}), {m.memory_bytes / 2**30:.0f} GiB, Linux {m.kernel}, Python {m.python}; "
            f"{versions}. Load generator, services, broker and PostgreSQL (fsync and synchronous_commit on) share the "
            "cores. Orders have one line of 1 or 2 pieces; 100,000 customers and 1,000 products are evenly spread. "
            f"Warm-up: {run.warmth}. Echo in the course of the run: {echoes}/s. Started in: {started}. "
            f"Other processes took {c.others_share:.0%} of the machine during the confirmed load."
        ),
    )
