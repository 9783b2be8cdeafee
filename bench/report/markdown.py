"""A run as Markdown, for the summary page of a CI job and for docs/PERFORMANCE.md."""

from collections.abc import Sequence

from bench.measure.meter import Measured
from bench.measure.result import Run
from bench.stack import warm
from bench.stack.processes import GROUPS

MIB = 1024 * 1024


def number(value: float | None, digits: int = 0) -> str:
    """With thousands separated; a dash for what was not measured."""
    return "-" if value is None else f"{value:,.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column is text, the others are numbers."""
    rule = ["---", *("---:" for _ in header[1:])]
    return ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]


def change(now: float, before: float | None) -> str:
    """How a figure changed, in percent."""
    return "" if not before else f" ({now / before - 1:+.0%})"


def summary(run: Run, previous: Run | None = None) -> str:
    """The whole summary. `previous` is an earlier run of the same plan, if there is one."""
    m = run.machine
    lines = [
        (
            f"## Tandem bench, {run.plan}: {run.confirmed.confirmed_per_s:,.0f} confirmed orders/s, "
            f"{run.confirmed.total_cpu_us:,.0f} µs of CPU each"
        ),
        "",
        (
            f"{run.at}, revision `{m.revision}`{' with changes' if m.changed else ''}; {m.cores} cores ({m.cpu}), "
            f"{m.memory_bytes / 2**30:.0f} GiB, Linux {m.kernel}, Python {m.python}, "
            f"Kafka {m.versions.get('kafka', '?')}. "
            f"Generator, services, broker and databases share the cores. {run.verified.orders:,} acknowledged orders; "
            "`verify --accepted` proved that none was lost."
        ),
        "",
        f"Before: {warm.line(run.warmth)}.",
        "",
        *(f"> **Note:** {warning}\n" for warning in run.warnings),
        *_headline(run, previous),
        "",
        "### Latency, open loop",
        "",
        (
            "Accept: from the moment a request was due to the end of its 202. Settle: from that moment until the "
            "outcome can be read in the log. ms; a percentile with fewer than 5 samples beyond it is left out."
        ),
        "",
        *_ladder(run.ladder),
        "",
        *_breaking(run),
        "### CPU, µs an order",
        "",
        *_cost(run),
        "",
        *_footprint(run),
        *_full(run),
    ]
    if run.left_out:
        lines += ["", "Not measured: " + "; ".join(run.left_out) + "."]
    return "\n".join(lines) + "\n"


def _headline(run: Run, previous: Run | None) -> list[str]:
    r, p = run.ratios, previous.ratios if previous else None
    before = previous.confirmed if previous else None
    c = run.confirmed
    rows = [
        (
            "CPU of a confirmed order, without the generator",
            f"{c.total_cpu_us:,.0f} µs{change(c.total_cpu_us, before.total_cpu_us if before else None)}",
            (
                f"{r.cpu_of_confirmed_to_echo:.1f} x echo"
                f"{change(r.cpu_of_confirmed_to_echo, p.cpu_of_confirmed_to_echo if p else None)}"
            ),
        ),
        (
            f"confirmed, {c.duration_s:.0f} s",
            f"{c.confirmed_per_s:,.0f}/s{change(c.confirmed_per_s, before.confirmed_per_s if before else None)}",
            f"{r.confirmed_to_echo:.3f} x echo{change(r.confirmed_to_echo, p.confirmed_to_echo if p else None)}",
        ),
        (
            "accepted, consumers stopped",
            f"{run.accept.accepted_per_s:,.0f}/s",
            f"{r.accept_to_echo:.3f} x echo{change(r.accept_to_echo, p.accept_to_echo if p else None)}",
        ),
    ]
    if run.confirmed_keyed:
        k = run.confirmed_keyed
        rows.append(
            (
                "confirmed, each with an idempotency key",
                f"{k.confirmed_per_s:,.0f}/s, {k.total_cpu_us:,.0f} µs",
                f"the api's CPU {number(r.keyed_cpu_to_unkeyed, 2)} x unkeyed",
            )
        )
    if run.confirmed_batch:
        b = run.confirmed_batch
        rows.append(
            (
                "confirmed, 100 orders a request",
                f"{b.confirmed_per_s:,.0f}/s, {b.total_cpu_us:,.0f} µs",
                f"{number(r.batch_confirmed_to_echo, 3)} x echo",
            )
        )
    if r.goodput_at_double is not None:
        rows.append(("confirmed at 200 % offered", "", f"{r.goodput_at_double:.2f} x the confirmed rate"))
    e = run.ceilings
    rows += [
        ("ceiling: bare uvicorn echo", f"{e.echo.per_s:,.0f}/s, {e.echo.cpu_us:.1f} µs", ""),
        ("ceiling: COPY of an order's rows", f"{e.copy.orders_per_s:,.0f}/s, {e.copy.postgres_cpu_us:.1f} µs", ""),
        (
            f"ceiling: the log, records of {e.broker.record_bytes} bytes",
            f"{e.broker.produced_per_s:,.0f}/s in, {e.broker.consumed_per_s:,.0f}/s out",
            f"broker {e.broker.produce_broker_cpu_us:.1f} + {e.broker.consume_broker_cpu_us:.1f} µs",
        ),
    ]
    return table(("", "measured", "as a ratio"), rows)


def _ladder(ladder: Sequence[Measured]) -> list[str]:
    def row(m: Measured) -> tuple[str, ...]:
        a, s = m.accept, m.settle
        return (
            m.name,
            number(m.offered_per_s),
            *(number(value, 1) for value in (a.p50, a.p95, a.p99, a.p999)),
            *(number(value, 1) for value in ((s.p50, s.p95, s.p99, s.p999) if s else (None,) * 4)),
            number(m.confirmed_per_s),
            number(m.by_status.get("503", 0)),
            number(m.errors),
        )

    header = (
        "offered", "/s", "accept p50", "p95", "p99", "p99.9", "settle p50", "p95", "p99", "p99.9", "confirmed/s",
        "refused", "errors",
    )  # fmt: skip
    return table(header, [row(m) for m in ladder])


def _breaking(run: Run) -> list[str]:
    if run.breaking is None:
        return []
    b = run.breaking
    if not b.per_s:
        return [f"Breaking point: not reached up to {b.tried_per_s[-1]:,.0f}/s.", ""]
    return [f"Breaking point: {b.per_s:,.0f}/s ({b.why}).", ""]


def _cost(run: Run) -> list[str]:
    loads = [run.confirmed, *(m for m in (run.confirmed_keyed, run.confirmed_batch) if m), *run.ladder]
    rows = [
        (m.name, *(f"{m.cpu_us[g]:,.1f}" for g in GROUPS), f"{m.total_cpu_us:,.0f}", f"{m.cpu_us['generator']:,.1f}")
        for m in loads
    ]
    return table(("load", *GROUPS, "all", "generator"), rows)


def _footprint(run: Run) -> list[str]:
    rows = [(g, f"{run.memory_bytes[g] / MIB:,.0f}", f"{run.idle_cpu_share[g]:.1%}") for g in GROUPS]
    rows.append(("all", f"{sum(run.memory_bytes.values()) / MIB:,.0f}", f"{sum(run.idle_cpu_share.values()):.1%}"))
    d, c = run.disk, run.confirmed
    return [
        "### Memory, idle CPU, bytes",
        "",
        *table(("", "PSS after the confirmed load, MiB", "CPU when idle, of one core"), rows),
        "",
        (
            f"An order leaves {d.tables:,.0f} bytes in tables and indexes, {d.log:,.0f} in Kafka's log, and "
            f"{d.wal:,.0f} pass through the write-ahead log; {c.http_bytes:,.0f} bytes go over HTTP, "
            f"{c.loopback_bytes:,.0f} over the loopback interface in all."
        ),
        "",
    ]


def _full(run: Run) -> list[str]:
    lines: list[str] = []
    if run.drains:
        lines += ["### Drain: each consumer alone on a backlog", ""]
        lines += table(
            ("consumer", "records", "/s", "its CPU, µs a record", "PostgreSQL", "broker"),
            [
                (
                    d.service,
                    number(d.records),
                    number(d.records_per_s),
                    *(f"{d.cpu_us[g]:.1f}" for g in (d.service, "postgres", "broker")),
                )
                for d in run.drains
            ],
        )
        lines.append("")
    for title, loads in (
        ("Growth and spread", [*run.growth, *run.spread]),
        ("Instances of api, payment, inventory and saga each", run.instances),
    ):
        if loads:
            lines += [f"### {title}", ""]
            lines += table(
                ("", "confirmed/s", "CPU µs", "accept p99", "settle p99"),
                [
                    (
                        m.name,
                        number(m.confirmed_per_s),
                        number(m.total_cpu_us),
                        number(m.accept.p99, 1),
                        number(m.settle.p99 if m.settle else None, 1),
                    )
                    for m in loads
                ],
            )
            lines.append("")
    if run.recovery:
        r = run.recovery
        lines += [
            "### Recovery",
            "",
            (
                f"Payment was away for {r.away_s:.0f} s at {r.offered_per_s:,.0f} orders/s; its backlog was gone "
                f" {r.gone_within_s:.1f} s after it came back. Accept p99 over the whole time: "
                f"{number(r.load.accept.p99, 1)} ms."
            ),
            "",
        ]
    if run.chain:
        lines += [
            "### The chain it replaces",
            "",
            (
                "The same work synchronously: order calls payment, which calls the gateway, then inventory, a "
                "transaction each. Its answer says that the order is settled; Tandem's 202 says that it will be. "
                "Tandem calls no gateway: a delay there would be added to its time to settle, not to accept."
            ),
            "",
            *table(
                ("gateway delay", "p50 at 17/s, ms", "p99", "highest rate", "connections", "CPU µs", "p50 there, ms"),
                [
                    (
                        f"{c.gateway_ms} ms",
                        number(c.at_reference.p50, 1),
                        number(c.at_reference.p99, 1),
                        number(c.highest_per_s),
                        number(c.connections),
                        number(sum(us for g, us in c.cpu_us.items() if g != "generator")),
                        number(c.at_highest.p50, 1),
                    )
                    for c in run.chain
                ],
            ),
            "",
        ]
    return lines
