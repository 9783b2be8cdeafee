"""What the bench reports of a run, and of two revisions measured in turn."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from bench.__main__ import main, runs_before, write
from bench.command import shown
from bench.load.latency import Latency
from bench.measure.broker import Rates
from bench.measure.ceilings import Copy, Echo
from bench.measure.measured import Measured, Series
from bench.measure.result import Ceilings, Disk, Run
from bench.report.tables import markdown, page, tables_of
from bench.run import against
from bench.run.plan import QUICK
from bench.stack import watched
from bench.stack.machine import Machine
from bench.stack.processes import GROUPS
from common.kafka.warmth import Warmth
from dev.settings import ROOT


def latency(p50: float) -> Latency:
    return Latency(samples=1_000, p50=p50, p95=p50 * 2, p99=p50 * 3, p999=None, most=p50 * 4)


def load(name: str, per_s: float = 0, **changed: Any) -> Measured:
    """A load of 10 s at this rate, at 600 µs an order."""
    orders = int(per_s * 10) or 10_000
    series = Series(
        bucket_s=0.5, accepted=[], decided=[orders] * 20, backlog=[], accept_p50=[], accept_p99=[], settle_p50=[],
        settle_p99=[],
    )  # fmt: skip
    measured = Measured(
        name=name, offered_per_s=per_s, started_at_s=0, duration_s=10, orders_a_request=1, connections=64,
        by_status={"202": orders}, orders=orders, confirmed=orders, rejected=0, accepted_per_s=orders / 10,
        confirmed_per_s=orders / 10, drain_s=0, accept=latency(5), settle=latency(50),
        cpu_us=dict.fromkeys(GROUPS, 100.0) | {"generator": 20.0}, http_bytes=0, late_share=0, others_share=0,
        series=series, warnings=[],
    )  # fmt: skip
    return replace(measured, **changed)


@pytest.fixture
def run() -> Run:
    echo = Echo(per_s=30_000, cpu_us=30, generator_cpu_us=10)
    statuses = {"0": 1, "202": 9_000, "503": 999}
    return Run(
        at="2026-11-28T00:00:00+00:00",
        plan="quick",
        seconds=120,
        machine=Machine(
            cpu="a", cores=2, memory_bytes=2**34, kernel="6", python="3", versions={}, revision="1", changed=False
        ),
        ceilings=Ceilings(
            echo=echo,
            echo_per_s=[30_000.0],
            copy=Copy(orders_per_s=30_000, postgres_cpu_us=26),
            log=Rates(record_bytes=546, produced_per_s=1, produce_cpu_us=1, consumed_per_s=1, consume_cpu_us=1),
        ),
        first_burst=load("first burst", by_status=statuses, orders=9_000, accepted_per_s=900, drain_s=5),
        first_minute=load("first minute", 200),
        warmth=Warmth(seconds=1, cpu_us=[200.0], warm=True),
        accept=load("accept"),
        confirmed=load("confirmed, 5000/s", 5_000),
        keyed=None,
        many=None,
        ladder=[load("10/s", 10), load("700/s", 700), load("50%", 2_500)],
        memory_bytes=dict.fromkeys(GROUPS, 2**20),
        idle_cpu_share=dict.fromkeys(GROUPS, 0.01),
        disk=Disk(tables=1, wal=1, log=1),
        orders_verified=60_000,
        warnings=[],
    )


class TestReport:
    def test_a_stack_just_started_has_its_refusals_and_its_drain(self, run: Run) -> None:
        table = tables_of(run)["cold"]
        burst, minute = (dict(zip(table.header, row, strict=True)) for row in table.rows)
        assert [burst[name] for name in ("sent", "accepted", "refused", "errors")] == ["10,000", "9,000", "999", "1"]
        assert [burst[name] for name in ("accepted/s", "drain, s", "CPU µs")] == ["900", "5.0", "600"]
        assert minute[""] == "first minute"
        assert "64 connections" in table.text
        assert "200 orders/s" in table.text

    def test_cost_by_rate_has_a_row_for_each_rate_and_a_column_for_each_process(self, run: Run) -> None:
        table = tables_of(run)["by_rate"]
        assert [row[0] for row in table.rows] == ["10/s", "700/s", "50%"]
        assert table.rows[1] == ("700/s", "700", *["100"] * 6, "600", "0.42", "20", "5.0", "15.0", "50.0", "150.0")
        assert all(len(row) == len(table.header) for row in table.rows)

    def test_busy_cores_count_the_drain(self) -> None:
        assert load("burst", 1_000, drain_s=5).cores == pytest.approx(10_000 * 600e-6 / 15)

    def test_the_summary_and_the_page_show_every_section(self, run: Run) -> None:
        text, html = markdown(tables_of(run).values()), page(run, [])
        for table in tables_of(run).values():
            assert f"## {table.title}" in text
            assert msgspec.json.encode(table.title).decode()[1:-1].replace("</", "<\\/") in html
        for name in ("cold", "by_rate"):
            assert f'section("{name}"' in html

    def test_the_headline_compares_with_the_run_before(self, run: Run) -> None:
        before = replace(run, first_burst=load("first burst", confirmed_per_s=500.0), ladder=[])
        changes = {row[0]: row[-1] for row in tables_of(run, before)["headline"].rows}
        assert changes["confirmed in the first burst"] == "+100%"
        assert changes["CPU of an order at 700/s"] == "", "the run before has no such load"

    def test_a_run_is_read_back_from_the_history(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "history.jsonl").write_text('{"plan": "quick", "at": "before the first burst was measured"}\n')
        write(run, tmp_path)
        assert runs_before(tmp_path / "history.jsonl", "quick") == [run]
        assert "first burst" in (tmp_path / "summary.md").read_text()

    def test_paths_are_printed_without_the_directory_of_the_checkout(self) -> None:
        assert shown(ROOT / ".tandem" / "bench") == Path(".tandem/bench")
        assert shown(Path("/elsewhere")) == Path("/elsewhere")


class Meter:
    """Notes the loads, and makes each as good as the one before."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def warm_broker(self, seconds_max: float) -> None: ...

    def open(self, name: str, rate: float, duration_s: float) -> Measured:
        self.rates.append(rate)
        return load(name, rate)

    def governed(self, name: str, first_rate: float, duration_s: float) -> Measured:
        return load(name)


class TestAgainst:
    def test_fixed_rates_are_compared_beside_half_of_the_highest(self) -> None:
        meters: Any = [Meter(), Meter()]
        measured = list(against.measure_pairs(meters, QUICK))
        highest = load("governed").settled_late_per_s
        assert meters[0].rates == meters[1].rates == [700, 1_500, highest / 2] * QUICK.pairs_a_start
        changed = against.changes(measured)
        for rate in ("700/s", "1500/s", "half rate"):
            assert {f"{rate}: CPU µs an order", f"{rate}: accept p99 ms", f"{rate}: settle p99 ms"} <= set(changed)
        assert changed["700/s: settle p50 ms"].pairs == QUICK.pairs_a_start

    def test_a_burst_that_is_refused_in_part_has_a_smaller_share(self) -> None:
        refusing = load("first burst", by_status={"202": 5_000, "503": 5_000}, orders=5_000)
        pair = against.burst_figures(refusing), against.burst_figures(load("first burst"))
        change = against.changes([pair, pair])["first burst: accepted, % of the orders sent"]
        assert [change.before, change.after] == pytest.approx([50, 100])

    def test_a_figure_that_one_side_lacks_leaves_out_its_pair(self) -> None:
        """Left out of one side only, the others would be compared with figures of another pair."""
        measured: list[against.Pair] = [
            ({"a": 1.0}, {"a": 2.0}),
            ({"a": None}, {"a": 9.0}),
            ({"a": 10.0}, {"a": 20.0}),
            ({"a": 3.0}, {"a": None}),
        ]
        change = against.changes(measured)["a"]
        assert [change.ratio, change.pairs] == pytest.approx([2, 2])

    def test_a_revision_that_is_none_is_named_before_anything_starts(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["--against", "no-such-branch"])
        assert ended.value.code == 2
        assert "'no-such-branch' is no revision of this repository" in capsys.readouterr().err
        assert against.revision("HEAD") == "HEAD"

    def test_one_pair_shows_nothing(self) -> None:
        assert against.changes([({"a": 1.0}, {"a": 2.0})]) == {}

    def test_an_interval_without_an_end_is_left_out(self) -> None:
        one, nine = {"a": 1.0, "b": 1.0}, {"a": 9.0, "b": 1.0}
        changed = against.changes([(one, nine), (nine, one)])
        a, b = against.table("HEAD", changed).rows
        assert (a[4], a[6]) == ("-", "not shown")
        assert b[4] == "1.000 to 1.000"

    def test_every_row_has_its_pairs(self, run: Run) -> None:
        pair = against.burst_figures(run.first_burst), against.burst_figures(run.first_burst)
        table = against.table("HEAD", against.changes([pair] * 3))
        assert {row[5] for row in table.rows} == {"3"}
        assert all(len(row) == len(table.header) for row in table.rows)


def test_without_pairs_there_is_no_change() -> None:
    assert against.changes([]) == {}


def test_what_is_watched_sends_its_traces_to_a_collector() -> None:
    with watched.tracing() as settings:
        endpoint = f"{settings['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces"
        assert httpx.post(endpoint, content=b"spans", trust_env=False).status_code == 200
    assert 0 < float(settings["TRACE_SAMPLE"]) < 1
