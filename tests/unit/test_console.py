"""The console's decisions: rates, lag, percentiles, the light proof, what is searched, and who may do what."""

import asyncio
import gc
import math
import signal
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, cast
from urllib.parse import quote

import orjson
import psycopg
import pytest
from prometheus_client import CollectorRegistry
from starlette.datastructures import QueryParams
from starlette.types import Scope

from common.audit.entry import Author
from common.codec import encode
from common.config.env import Env
from common.config.kafka import Brokers
from common.consume.positions import Stored
from common.errors import Fatal, Transient
from common.events import READERS, READS, SAGA, Milliseconds
from common.http.problem import ProblemError
from common.http.validation import decode_query
from common.kafka.broker import Partition
from common.postgres import CONNECTIONS
from ops.console import drill, hub, metrics, orders, settings
from ops.console.drill import Drill
from ops.console.flow import ARROWS, Flow, Reading, Scrape
from ops.console.hub import Hub
from ops.console.jobs import Attempt, Job, Jobs
from ops.console.metrics import Latency, buckets, increments, of_values, parse, percentiles, quantile
from ops.console.orders import Search, id_range
from ops.console.parked import listing
from ops.console.parked.acts import Act, Named, dry_run, named_by, together
from ops.console.parked.listing import Cursor, Listing, cursor_in
from ops.console.poller import Poller, outcomes
from ops.console.proof import rounds
from ops.console.proof.judge import (
    Evidence,
    Placed,
    Standing,
    excuse_waiting,
    judge,
    judge_pending,
    judge_sums,
    out_of_reach,
    unread,
)
from ops.console.proof.rounds import AUDIT_EVERY_S, AUDIT_REST_MAX_S, StandingProof, audit_rest_after, rest_after
from ops.console.settings import Address
from ops.console.sources import targets_in
from ops.observe import samples
from ops.observe.gauges import Gauges, ProofGauges
from ops.observe.samples import Position
from ops.tool import GROUP_OF
from ops.verify.report import Report
from ops.verify.statements import DECIDED, MONEY, ONCE, OUTCOME, WAITING, Finding, Statement, Unproven
from ops.verify.waiting import parts_done
from tests.unit.orders import placed
from tests.unit.principals import principal
from tests.waiting import eventually

ORDERS_0 = Partition("orders", 0)
URL = "postgresql://u:p@127.0.0.1:1/d"
SERVICES = ("ORDER", "PAYMENT", "INVENTORY")
REQUIRED = {f"{name}_{role}_URL": URL for name in SERVICES for role in ("AUDITOR", "DATABASE")} | {"AUTH": "off"}
TEXT = """\
# HELP tandem_batches_total Batches committed.
tandem_batches_total{group="payment"} 10.0
tandem_records_total{group="payment",kind="fresh"} 100.0
tandem_records_total{group="payment",kind="repeat"} 5.0
tandem_published_total{group="payment"} 100.0
tandem_batch_stage_seconds_sum{group="payment",stage="store"} 1.0
tandem_http_requests_total{method="POST",route="/api/v1/orders",status="202"} 40.0
tandem_http_requests_total{method="POST",route="/api/v1/orders",status="503"} 2.0
tandem_http_requests_total{method="POST",route="/api/v1/orders",status="500"} 1.0
tandem_http_requests_total{method="GET",route="/api/v1/orders",status="200"} 7.0
tandem_backlog_orders{reader="payment on orders"} 9.0
tandem_backlog_orders{reader="inventory on orders"} 7.0
tandem_order_batch_lines_total{status="202"} 100.0
tandem_order_accept_seconds_bucket{le="0.01"} 90.0
tandem_order_accept_seconds_bucket{le="0.1"} 100.0
tandem_order_accept_seconds_bucket{le="+Inf"} 100.0
python_info{version="3"} 1.0
"""


# Metrics


def test_orders_are_counted_alone_and_many_at_once() -> None:
    values = parse(TEXT)
    assert metrics.requests(values) == {"accepted": 140.0, "refused": 2.0, "failed": 1.0}
    assert metrics.total(values, "records_total") == 105.0
    assert metrics.total(values, "records_total", kind="repeat") == 5.0


def test_a_histogram_gives_percentiles() -> None:
    counts = increments({}, buckets(parse(TEXT), "order_accept_seconds"))
    assert counts == {0.01: 90.0, 0.1: 10.0, math.inf: 0.0}
    assert quantile(counts, 0.45) == pytest.approx(0.005)
    assert quantile(counts, 0.95) == pytest.approx(0.055)
    assert percentiles({})["p50_ms"] is None
    assert quantile({0.1: 1.0, math.inf: 9.0}, 0.99) == 0.1, "nothing is known above the last bound"


def test_a_process_that_restarted_counts_from_zero() -> None:
    assert increments({0.01: 90.0, math.inf: 100.0}, {0.01: 3.0, math.inf: 4.0}) == {0.01: 3.0, math.inf: 1.0}
    assert increments({0.01: 2.0, math.inf: 2.0}, {0.01: 3.0, math.inf: 4.0}) == {0.01: 1.0, math.inf: 1.0}


def test_fifteen_minutes_of_latency_have_a_fixed_size() -> None:
    latency = Latency()
    for _ in range(metrics.POINTS + 10):
        latency.add(of_values([0.004], (0.005, 0.01)))
        latency.end_interval()
    assert len(latency.intervals) == metrics.POINTS
    assert latency.window()["count"] == metrics.POINTS


# The flow


def reading(at_s: float, end: int, offset: int, record_time_s: float | None) -> Reading:
    at = Milliseconds(int(at_s * 1000))
    record_time = None if record_time_s is None else Milliseconds(int(record_time_s * 1000))
    return Reading(at, at_s, {ORDERS_0: end}, {"payment": {ORDERS_0: Position(offset, record_time)}})


def payment_arrow(document: dict[str, Any]) -> dict[str, Any]:
    return next(arrow for arrow in document["arrows"] if arrow["group"] == "payment")


def test_rates_and_lag_come_from_offsets_and_record_times() -> None:
    flow = Flow()
    first = payment_arrow(flow.topics_and_arrows(reading(1000, 100, 100, 999)))
    assert (first["out_s"], first["lag_records"], first["lag_s"]) == (None, 0, 0.0)
    document = flow.topics_and_arrows(reading(1002, 140, 120, 1001.5))
    arrow = payment_arrow(document)
    assert (arrow["out_s"], arrow["lag_records"], arrow["lag_s"]) == (10.0, 20, 0.5)
    assert document["topics"][0] == {"topic": "orders", "in_s": 20.0, "end": 140}
    assert len(document["arrows"]) == len(ARROWS) == 5


def test_an_order_after_a_quiet_hour_is_not_an_hour_late() -> None:
    flow = Flow()
    flow.topics_and_arrows(reading(5000, 100, 100, 1000))
    assert payment_arrow(flow.topics_and_arrows(reading(5001, 101, 100, 1000)))["lag_s"] == 1.0


def test_lag_that_was_there_before_the_console_is_that_of_the_first_unread_record() -> None:
    late = replace(reading(5001, 103, 100, 1000), first_unread={("payment", ORDERS_0): Milliseconds(4_989_000)})
    assert payment_arrow(Flow().topics_and_arrows(late))["lag_s"] == 12.0
    further = replace(late, positions={"payment": {ORDERS_0: Position(101, Milliseconds(4_995_000))}})
    assert payment_arrow(Flow().topics_and_arrows(further))["lag_s"] == 6.0


def test_what_cannot_be_read_has_no_rate_and_no_lag() -> None:
    arrow = payment_arrow(Flow().topics_and_arrows(Reading(Milliseconds(1), 1.0, problems={"kafka": "away"})))
    assert (arrow["out_s"], arrow["lag_records"], arrow["lag_s"], arrow["partitions"]) == (None, None, None, [])


def test_an_instance_is_shown_with_its_rates_and_partitions() -> None:
    flow = Flow()
    later = TEXT.replace(" 10.0\n", " 12.0\n").replace(" 100.0\n", " 180.0\n").replace("} 1.0", "} 1.5")
    flow.instances([Scrape("payment-1", "payment", 10.0, True, (), (), parse(TEXT))], {})
    [shown] = flow.instances(
        [Scrape("payment-1", "payment", 12.0, True, (), ["x"], parse(later))], {"payment-1": ["orders/0"]}
    )
    assert (shown["state"], shown["partitions"]) == ("degraded", ["orders/0"])
    assert (shown["batches_s"], shown["records_per_batch"], shown["batch_ms"]) == (1.0, 40.0, 250.0)
    [down] = flow.instances([Scrape("payment-1", "payment", 14.0)], {})
    assert (down["state"], down["batches_s"]) == ("down", None)


def test_the_api_has_the_rates_of_all_its_processes() -> None:
    flow = Flow()
    later = TEXT.replace('status="202"} 40.0', 'status="202"} 60.0')
    scrapes: list[Scrape] = []
    for clock_s, text in ((10.0, TEXT), (12.0, later)):
        scrapes = [Scrape(f"order-api-{n}", "order-api", clock_s, True, (), (), parse(text)) for n in (1, 2)]
        flow.instances(scrapes, {})
    assert flow.api(scrapes)["accepted_s"] == 20.0
    assert flow.api(scrapes)["backlog"] == 9.0, "the slowest reader's: an order may wait for several"
    assert flow.api([])["accepted_s"] is None


def test_outcomes_are_counted_with_their_reasons() -> None:
    rows: list[dict[str, Any]] = [
        {"status": "confirmed", "reason": None, "orders": 8},
        {"status": "rejected", "reason": "out_of_stock", "orders": 2},
    ]
    assert outcomes(rows) == {"orders": 10, "counts": {"confirmed": 8, "rejected: out_of_stock": 2}}


def test_the_file_of_prometheus_names_the_instances() -> None:
    content = b'[{"targets":["127.0.0.1:18201"],"labels":{"service":"payment","instance":"payment-1"}}]'
    [target] = targets_in(content)
    assert (target.name, target.service, target.address) == ("payment-1", "payment", Address("127.0.0.1", 18201))
    with pytest.raises(ValueError, match="instance and service"):
        targets_in(b'[{"targets":["127.0.0.1:18201"],"labels":{}}]')


# The stream


class Tab:
    """A client of the stream: takes what is sent once it is `reading`."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.reading = asyncio.Event()
        self.gone = asyncio.Event()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            await self.reading.wait()
        self.sent.append(message)

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def until(condition: Callable[[], bool]) -> None:
    """Let the tasks of the loop go on until this holds."""
    while not condition():  # noqa: ASYNC110 - nothing else could tell
        await asyncio.sleep(0)


def first() -> Iterator[tuple[str, object]]:
    yield "hello", {"stack": "native"}


async def always(_: Scope) -> bool:
    return True


async def started(tab: Tab, opened: Hub) -> "asyncio.Task[None]":
    stream = asyncio.create_task(
        opened({"type": "http", "state": {"principal": principal("olga", "operator")}}, tab.receive, tab.send)
    )
    await until(lambda: bool(tab.sent))
    return stream


def test_a_tab_gets_the_newest_of_each_kind_and_then_what_comes() -> None:
    async def play() -> str:
        opened, tab = Hub(first, lambda: False, always), Tab()
        opened.open()
        for number in range(3):
            opened.publish("flow", {"number": number})
        opened.publish("point", {}, keep=False)
        await asyncio.sleep(0)
        tab.reading.set()
        stream = await started(tab, opened)
        opened.publish("proof", {"rounds": 1})
        await until(lambda: "rounds" in tab.text)
        assert opened.clients == 1
        tab.gone.set()
        await stream
        assert opened.clients == 0
        return tab.text

    text = asyncio.run(play())
    kinds = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert kinds == ["hello", "flow", "proof"]
    assert '{"number":2}' in text
    assert text.startswith("retry: 2000\n\n")


def test_a_tab_that_does_not_read_is_dropped_and_keeps_nobody_waiting() -> None:
    async def play() -> int:
        opened, slow, quick = Hub(first, lambda: False, always), Tab(), Tab()
        opened.open()
        quick.reading.set()
        streams = [await started(tab, opened) for tab in (slow, quick)]
        for number in range(hub.QUEUE_MAX + 2):
            opened.publish("flow", {"number": number})
            await asyncio.sleep(0)
        await until(lambda: f'"number":{hub.QUEUE_MAX + 1}' in quick.text)
        queued = [len(client.queue) for client in opened._clients]
        assert queued == [0, 0], "nothing is kept for a client that is dropped"
        slow.reading.set()
        await streams[0]  # its end, so that it may come again
        clients = opened.clients
        quick.gone.set()
        await streams[1]
        return clients

    assert asyncio.run(play()) == 1


def test_one_auditor_leaves_streams_to_others() -> None:
    async def play() -> None:
        opened = Hub(first, lambda: False, always)
        opened.open()
        tabs = [Tab() for _ in range(hub.STREAMS_MAX)]

        def open_as(who: str, tab: Tab) -> "asyncio.Task[None]":
            scope = {"type": "http", "state": {"principal": principal(who, "auditor")}}
            return asyncio.create_task(opened(scope, tab.receive, tab.send))

        greedy = [open_as("greedy", tab) for tab in tabs]
        await until(lambda: any(stream.done() for stream in greedy))
        with pytest.raises(ProblemError) as caught:
            await next(stream for stream in greedy if stream.done())
        assert "48 streams of this principal are open" in caught.value.problem.detail
        other = Tab()
        modest = open_as("modest", other)
        await until(lambda: bool(other.sent))
        for tab in (*tabs, other):
            tab.gone.set()
            tab.reading.set()
        await asyncio.gather(modest, *greedy, return_exceptions=True)
        assert opened.clients == 0

    asyncio.run(play())


def test_a_stream_ends_with_what_it_was_let_in_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "CHECK_S", 0.001)
    admitted = [True, True, False]

    async def play() -> str:
        async def is_admitted(scope: Scope) -> bool:
            assert scope["type"] == "http"
            answer = admitted.pop(0)
            opened.publish("flow", {"left": len(admitted)})
            return answer

        opened, tab = Hub(first, lambda: False, is_admitted), Tab()
        opened.open()
        tab.reading.set()
        await (await started(tab, opened))
        assert opened.clients == 0
        return tab.text

    text = asyncio.run(play())
    assert admitted == []
    assert '"left":2' in text
    assert '"left":0' not in text, "nothing is sent after that"


# The light proof

EVERY_S = dict.fromkeys(Statement, 5.0)
PLACED = Placed("01997c00-5a5a-7000-8000-000000000001", "cust-1", 0, 5)


def evidence(status: str = "confirmed", paid: str = "completed", stock: str = "reserved", **rows: Any) -> Evidence:
    owner, price = {"customer_id": "cust-1"}, {"amount": 100, "currency": "EUR"}
    entries = {"completed": {"capture": 1}, "refunded": {"capture": 1, "refund": 1}}.get(paid, {})
    known: dict[str, Any] = {
        "order": {**owner, "partition": 0, "status": status, "settled": True, **price},
        "payment": {**owner, "state": paid, **price},
        "entries": {kind: {"entries": count, "amount": 100} for kind, count in entries.items()},
        "reservation": {**owner, "state": stock},
    }
    return Evidence(**known | rows)


@pytest.mark.parametrize(
    "right",
    [
        evidence(),
        evidence("rejected", "declined", "released"),
        evidence("cancelled", "refunded", "released"),
        evidence("rejected", "void", "rejected"),
        evidence(payment=None, parked_by=frozenset({"payment"})),
        evidence(order={"customer_id": "cust-1", "partition": 0, "status": "pending", "settled": False}),
    ],
)
def test_what_is_right_is_no_finding(right: Evidence) -> None:
    assert judge(PLACED, right) == []


@pytest.mark.parametrize(
    ("wrong", "statement"),
    [
        (evidence(order=None), DECIDED),
        (evidence(payment=None), DECIDED),
        (evidence(reservation=None), DECIDED),
        (evidence(payment={"customer_id": "cust-2", "state": "completed", "amount": 100, "currency": "EUR"}), DECIDED),
        (evidence("confirmed", "refunded"), OUTCOME),
        (evidence("confirmed", stock="released"), OUTCOME),
        (evidence(payment={"customer_id": "cust-1", "state": "completed", "amount": 1, "currency": "EUR"}), OUTCOME),
        (evidence(order={"customer_id": "cust-1", "partition": 1, "status": "pending", "settled": False}), OUTCOME),
        (evidence(entries={}), OUTCOME),
        (evidence("rejected", "completed", "rejected"), OUTCOME),
        (evidence("rejected", "refunded", "rejected", entries={"capture": {"entries": 1, "amount": 100}}), OUTCOME),
        (evidence("rejected", "declined", "reserved"), OUTCOME),
        (evidence(entries={"capture": {"entries": 2, "amount": 100}}), ONCE),
    ],
)
def test_what_is_wrong_is_found(wrong: Evidence, statement: Statement) -> None:
    assert {finding.statement for finding in judge(PLACED, wrong)} == {statement}


def test_a_finding_is_a_violation_only_the_second_time() -> None:
    standing, findings = Standing(), judge(PLACED, evidence(payment=None))
    standing.take({PLACED.order_id: findings})
    standing.hold(Statement, Milliseconds(5), 5.0)
    assert standing.shown(EVERY_S)["verdict"] == "proved"
    standing.take({PLACED.order_id: findings})
    standing.hold(Statement, Milliseconds(9), 9.0)
    shown = standing.shown(EVERY_S)
    assert (shown["verdict"], shown["statements"][0]["violations"]) == ("violated", 1)
    assert [s["proved_at"] for s in shown["statements"]] == [5, 9, 9, 9, 9, 9]
    assert shown["offenders"][0]["subject"] == f"order {PLACED.order_id}"
    standing.take({PLACED.order_id: []})
    standing.hold(Statement, Milliseconds(12), 12.0)
    assert standing.shown(EVERY_S)["verdict"] == "proved"


def test_an_audit_may_break_a_statement_that_orders_are_sampled_for() -> None:
    standing, row = Standing(), {"kind": "capture", "entries": 3, "amount": 30, "due": 2, "due_amount": 20}
    judge_sums(MONEY, "ledger", [row], standing.audited)
    standing.hold(Statement, Milliseconds(5), 5.0)
    assert [s["violations"] for s in standing.shown(EVERY_S)["statements"]] == [0, 1, 0, 0, 1, 0]
    standing.audited = Report()
    standing.hold(Statement, Milliseconds(9), 9.0)
    assert standing.shown(EVERY_S)["verdict"] == "proved"


def test_an_order_that_nobody_decides_is_a_violation_and_a_decision_nobody_hears_of_a_doubt() -> None:
    report = Report()
    pending: list[dict[str, Any]] = [
        {"order_id": "lost", "customer_id": "ann", "payment": None, "inventory": "reserved"},
        {"order_id": "unheard", "customer_id": "bob", "payment": "completed", "inventory": None},
        {"order_id": "parked", "customer_id": "eve", "payment": None, "inventory": None},
    ]
    decided = {"payment": {"unheard"}, "inventory": {"lost", "unheard"}}
    [unheard] = judge_pending(pending, decided, {"eve"}, report)
    assert unheard.startswith("order unheard: inventory has decided it")
    assert [(o.statement, o.subject) for o in report.offenders] == [(DECIDED, "order lost")]


def test_a_reader_that_stands_before_the_beginning_of_the_log_has_lost_records() -> None:
    positions = {("payment", "orders", 0): Stored("id", 7), ("inventory", "orders", 0): Stored("id", 8)}
    [problem] = out_of_reach(positions, {Partition("orders", 0): (8, 9)})
    assert problem.startswith("orders/0 begins at offset 8, and payment has only read up to 7")


def test_what_cannot_be_checked_is_unproven_and_keeps_its_age() -> None:
    standing = Standing()
    standing.hold([MONEY], Milliseconds(4), 4.0)
    assert standing.all_proved_s() is None
    standing.hold(Statement, Milliseconds(5), 5.0)
    standing.doubt([MONEY], "the payment database cannot be read")
    standing.hold([DECIDED], Milliseconds(9), 9.0)
    shown = standing.shown(EVERY_S)
    assert shown["verdict"] == "unproven"
    assert (shown["statements"][1]["proved_at"], shown["statements"][1]["unproven"]) == (5, 1)
    assert standing.all_proved_s() == 5.0


def test_a_clock_that_jumps_does_not_change_the_age_of_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, published = CollectorRegistry(), list[dict[str, Any]]()
    proof = StandingProof(Brokers("127.0.0.1:1"), {}, {}, 60, published.append, ProofGauges(registry))
    clock = [1_000_000_000]
    monkeypatch.setattr(rounds, "now", lambda: Milliseconds(clock[0]))

    def sample(_: Any) -> None:
        if clock[0] == 1_000_000_000:
            clock[0] += 7_000  # it takes a while
            return
        raise Unproven("records are gone")

    monkeypatch.setattr(proof, "_sample", sample)
    monkeypatch.setattr(proof, "_audit", lambda: None)
    consumer: Any = None
    proof.round(consumer, audit=True)
    assert published[-1]["statements"][0]["proved_at"] == 1_000_000_000, "as of its beginning"
    for jump in (-3_600_000, 90 * 86_400_000):
        clock[0] += jump
        proof.round(consumer, audit=False)
        assert 0 <= (registry.get_sample_value("tandem_proof_age_seconds") or 0) < 60


def test_orders_that_were_read_before_the_log_went_silent_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        """A partition with one order; that of partition 1 cannot be read."""

        def __init__(self, _: Any, partition: Partition, first: int, end: int) -> None:
            self.partition = partition
            self.is_open = first < end

        def fetch(self) -> Iterator[Any]:
            if self.partition.number == 1:
                raise Transient("the log could not be read")
            self.is_open = False
            yield SimpleNamespace(value=lambda: encode(placed(1)), offset=lambda: 0)

    monkeypatch.setattr(rounds, "Tail", Fake)
    proof = StandingProof(Brokers("127.0.0.1:1"), {}, {}, 60, lambda _: None, ProofGauges(CollectorRegistry()))
    bounds = {Partition("orders", number): (0, 1) for number in (0, 1)}
    positions = {(group, *partition): Stored("id", 1) for partition in bounds for group in READERS["orders"]}
    orders = iter(proof._newest(cast("Any", None), positions, bounds))
    assert next(orders).partition == 0
    with pytest.raises(Transient):
        next(orders)
    assert proof._seen == {Partition("orders", 0): 1}


def test_an_order_that_looks_wrong_is_judged_again_however_many_are_open() -> None:
    proof = StandingProof(Brokers("127.0.0.1:1"), {}, {}, 60, lambda _: None, ProofGauges(CollectorRegistry()))
    orders = [PLACED._replace(order_id=f"order-{number}") for number in range(rounds.OPEN_MAX + 2)]
    proof._open.update({order.order_id: order for order in orders})
    proof._standing.take({"order-0": judge(orders[0], evidence(payment=None))})
    proof._make_room()
    assert len(proof._open) == rounds.OPEN_MAX
    assert next(iter(proof._open)) == "order-0"


def test_records_that_no_group_has_begun_to_read_are_not_proved() -> None:
    positions = {("payment", "orders", 0): Stored("id", 1), ("inventory", "orders", 0): Stored("id", 1)}
    [problem] = unread(positions, {Partition("orders", 0): (0, 1), Partition("payments", 0): (0, 0)})
    assert problem == "order-saga has no position in orders/0, which has 1 records"


def test_rounds_follow_soon_however_long_a_source_let_one_wait() -> None:
    assert [rest_after(cpu_s) for cpu_s in (0.0, 0.1, 3.0)] == [5.0, 10.0, 30.0]
    assert [audit_rest_after(took_s) for took_s in (0.0, 1.0, 60.0)] == [AUDIT_EVERY_S, 100.0, AUDIT_REST_MAX_S]


def test_what_waits_for_a_reader_that_is_away_is_no_violation() -> None:
    report = Report()
    report.violate("order 1", Finding(WAITING, "it has been cancelled for 400 s"))
    report.violate("account 1", Finding(MONEY, "the balance is wrong"))
    excuse_waiting(report)
    assert (report.violations.total(), [offender.statement for offender in report.offenders]) == (1, [MONEY])
    assert report.reasons[WAITING] == ["order 1: it has been cancelled for 400 s; a reader is behind"]


# Orders


def test_orders_are_searched_between_ids() -> None:
    low, high = id_range(Search(since=1_700_000_060_000, until=1_700_000_060_000))
    assert low == "018bcfe5-6800-0000-0000-000000000000"
    assert orders.time_of(high) == 1_700_000_120_000
    assert id_range(Search()) == (orders.LOWEST, orders.BEYOND)
    assert id_range(Search(order_id="01997C00")) == (
        "01997c00-0000-0000-0000-000000000000",
        "01997c01-0000-0000-0000-000000000000",
    )
    whole = "01997c00-5a5a-7000-8000-00000000beef"
    assert id_range(Search(order_id=whole)) == (whole, "01997c00-5a5a-7000-8000-00000000bef0")


def asked(query: str, kind: type[Any]) -> Any:
    return decode_query(QueryParams(query), kind)


def test_a_query_is_read_with_its_types() -> None:
    assert asked("customer_id=123&since=5&limit=2", Search) == Search(customer_id="123", since=5, limit=2)
    assert asked("root=true&state=open", Listing) == Listing(root=True)
    for wrong, pointer in (
        ("limit=0", "?limit"),
        ("status=lost", "?status"),
        ("status=", "?status"),
        ("since=soon", "?since"),
        ("limit=1&limit=2", "?limit"),
        ("after=000000000000000000000000000000000000", "?after"),
    ):
        with pytest.raises(ProblemError) as error:
            asked(wrong, Search)
        assert error.value.problem.errors[0].pointer == pointer


# Dead letters


def test_a_cursor_is_read_as_it_was_made() -> None:
    for cursor in (Cursor("payment", 1_700_000_000_123_456, "orders", 3, 17, "bE1l"), Cursor("order")):
        assert cursor_in(asked(f"after={quote(str(cursor))}", Listing).after) == cursor
    for foreign in ("", "x", "[]", "bm90aGluZw", "payment,1,orders,3", "saga,1,orders,3,17,bE1l"):
        with pytest.raises(ProblemError) as error:
            asked(f"after={foreign}", Listing)
        assert error.value.problem.errors[0].pointer == "?after"


def refusal(act: Act) -> str:
    with pytest.raises(ProblemError) as error:
        named_by({}, act)
    return error.value.problem.errors[0].pointer


def test_an_act_names_its_events_once_and_has_a_reason() -> None:
    events = [Named("payment", "orders/3@17")]
    assert named_by({}, Act(act="redrive", why="mended", events=events)) == events
    assert named_by({}, Act(act="redrive", dry_run=True, events=events)) == events
    assert refusal(Act(act="redrive", why="mended")) == ""
    assert refusal(Act(act="redrive", why="mended", events=events, filter=listing.Filter())) == ""
    assert refusal(Act(act="discard", why="  ", events=events)) == "#/why"
    assert refusal(Act(act="discard", why="x", events=[Named("payment", "3")])) == "#/events/0/record"


def test_a_redrive_takes_along_what_is_parked_of_the_same_customer() -> None:
    def attempt(record: str, service: str = "payment", count: int = 2) -> Attempt:
        result: Literal["marked", "refused"] = "marked" if count else "refused"
        return {"service": service, "record": record, "result": result, "count": count, "detail": ""}

    first, refused, second, other, nobodys = (
        attempt("orders/3@1"), attempt("orders/3@2", count=0), attempt("orders/3@3"), attempt("orders/3@3", "order"),
        attempt("orders/3@4", count=1),
    )  # fmt: skip
    keys = {
        Named("payment", "orders/3@1"): "ana", Named("payment", "orders/3@3"): "ana",
        Named("order", "orders/3@3"): "ana", Named("payment", "orders/3@4"): None,
    }  # fmt: skip
    along = {**second, "result": "unchanged", "count": 0, "detail": "goes along with orders/3@1"}
    told = [*together([first, refused, second, other, nobodys], keys)]
    assert told == [first, refused, along, other, nobodys]


def test_a_database_that_is_away_keeps_an_act_waiting_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def connected(service: str, _: Env) -> None:
        tried.append(service)
        raise Fatal("dlq: cannot connect") from psycopg.OperationalError("timeout expired")

    monkeypatch.setattr("ops.console.parked.acts.connected", connected)
    names = [Named("payment", "orders/3@1"), Named("payment", "orders/3@2"), Named("order", "orders/3@2")]
    act = Act(act="discard", why="a test", events=names)
    results = dry_run({}, Env("test"), act, names, Author("ana", "user"))["results"]
    assert [result["result"] for result in results] == ["failed"] * 3
    assert results[1]["detail"] == "not tried: cannot connect"
    assert tried == ["payment", "order"]


def test_bytes_of_anybody_are_escaped_and_cut() -> None:
    assert listing.escaped(b"a\x00\x1b[31m\xff\xe2\x80\xae") == "a\\x00\\x1b[31m\\xff\\u202e"
    assert len(listing.escaped(b"x" * 10**6)) == listing.VALUE_BYTES_MAX


# Break it


@pytest.mark.parametrize(
    ("wanted", "arguments"),
    [
        (Drill("stop", "payment"), ["-m", "dev", "stop", "payment"]),
        (Drill("kill", "order-api-2"), ["-m", "dev", "kill", "order-api-2"]),
        (Drill("freeze", "kafka"), ["-m", "dev", "freeze", "kafka"]),
        (Drill("kill", "kafka-3"), ["-m", "dev", "kill", "kafka-3"]),
        (Drill("scale", "payment", 3), ["-m", "dev", "scale", "payment=3"]),
    ],
)
def test_a_drill_is_a_command_of_the_stack(wanted: Drill, arguments: list[str]) -> None:
    assert drill.command(wanted, drill.servers(Brokers("127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"))) == arguments


def test_each_of_several_brokers_can_be_broken() -> None:
    assert drill.servers(Brokers("127.0.0.1:9092")) == ("kafka", "postgres")
    several = Brokers("127.0.0.1:9092,127.0.0.1:9192,127.0.0.1:9292")
    assert drill.servers(several) == ("kafka", "kafka-1", "kafka-2", "kafka-3", "postgres")


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        (Drill("stop", "console"), "#/target"),
        (Drill("stop", "kafka-1"), "#/target"),
        (Drill("stop", "postgres-1"), "#/target"),
        (Drill("scale", "payment"), "#/count"),
        (Drill("stop", "payment", 3), "#/count"),
        (Drill("scale", "kafka", 2), "#/target"),
        (Drill("scale", "payment-1", 2), "#/target"),
    ],
)
def test_a_drill_that_means_nothing_is_refused(wanted: Drill, pointer: str) -> None:
    with pytest.raises(ProblemError) as error:
        drill.command(wanted, drill.servers(Brokers("127.0.0.1:9092")))
    assert error.value.problem.errors[0].pointer == pointer


@pytest.mark.parametrize(("stack", "allowed"), [("native", True), ("compose", False), ("other", False)])
def test_only_the_native_stack_can_be_broken(stack: str, allowed: bool) -> None:
    chosen = settings.load(Env("console", REQUIRED | {"CONSOLE_STACK": stack}))
    with nullcontext() if allowed else pytest.raises(ProblemError, match="Not allowed here"):
        drill.check_allowed(chosen)


def test_the_settings_have_defaults_and_limits() -> None:
    chosen = settings.load(Env("console", REQUIRED))
    assert (chosen.process.port, chosen.stack, chosen.order_api) == (8080, "other", Address("127.0.0.1", 8081))
    assert settings.load(Env("console", REQUIRED | {"CONSOLE_PORT": "9080"})).process.port == 9080
    for wrong in ({"CONSOLE_TARGETS": "payment=here"}, {"CONSOLE_ORDER_API": "x:99999"}, {"HTTP_HOST": "192.0.2.1"}):
        with pytest.raises(Fatal, match=r"must be like HOST:PORT|AUTH=off on"):
            settings.load(Env("console", REQUIRED | wrong))


# Jobs


def test_a_job_goes_on_by_itself_and_its_results_stay() -> None:
    published: list[bytes] = []
    result: Attempt = {"service": "order", "record": "orders/3@17", "result": "marked", "count": 1, "detail": ""}
    jobs = Jobs(lambda job: published.append(orjson.dumps(job.shown())), lambda _: None)

    def work(job: Job) -> bool:
        job.results.append(result)
        return True

    job = jobs.start("act", "redrive 1 event", work)
    eventually(lambda: job.state == "done", "the job ends")
    assert job.with_results()["results"] == [result]
    assert orjson.loads(published[0])["state"] == "running"
    assert jobs.find(job.id) is job


def test_one_job_of_a_kind_runs_at_a_time_and_a_failure_is_shown() -> None:
    jobs, barred = Jobs(lambda _: None, lambda _: None), asyncio.Event()

    def work(_: Job) -> bool:
        eventually(lambda: barred.is_set(), "it may end")
        raise Fatal("the stack is gone")

    job = jobs.start("drill", "stop payment", work)
    with pytest.raises(ProblemError) as error:
        jobs.start("drill", "stop inventory", work)
    assert error.value.problem.status == 409
    with pytest.raises(ProblemError):
        jobs.stop(job)
    barred.set()
    eventually(lambda: job.state == "failed", "the job ends")
    assert job.note == "the stack is gone"


def test_old_jobs_are_forgotten() -> None:
    forgotten: list[str] = []
    jobs = Jobs(lambda _: None, lambda job: forgotten.append(job.id))
    for _ in range(25):
        job = jobs.start("act", "redrive", lambda _: True)
        eventually(lambda job=job: job.state == "done", "the job ends")  # type: ignore[misc]
    assert len(jobs.all()) == 20
    assert forgotten == [f"act-{number}" for number in range(1, 6)]


def test_a_full_proof_that_cannot_begin_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    proof = StandingProof(Brokers("127.0.0.1:1"), {}, {}, 60, lambda _: None, ProofGauges(CollectorRegistry()))
    jobs, why = Jobs(lambda _: None, lambda _: None), "verify: PAYMENT_AUDITOR_URL is not set"
    monkeypatch.setattr(jobs, "run_command", lambda job, *_: jobs.take_line(job, why))
    job = proof.prove(jobs)
    eventually(lambda: job.state == "failed", "the job ends")
    assert job.note == why


def test_a_job_shows_how_many_parts_of_a_proof_are_done() -> None:
    jobs, code = Jobs(lambda _: None, lambda _: None), f"print('verify: {parts_done(3, 10)}')"
    job = jobs.start("verify", "full proof", lambda job: jobs.run_command(job, ["-c", code], {}) == 0)
    eventually(lambda: job.state == "done", "it has ended")
    assert (job.done, job.total) == (3, 10)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whoever was started in the background ignores SIGINT, and so do its children. The console handles it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_process_that_a_job_runs_can_be_stopped() -> None:
    jobs = Jobs(lambda _: None, lambda _: None)
    code = "import time; print('going on', flush=True); time.sleep(600)"
    job = jobs.start("load", "load", lambda job: jobs.run_command(job, ["-c", code], {}) == 0, can_stop=True)
    eventually(lambda: "going on" in job.output, "it runs")
    jobs.stop(job)
    eventually(lambda: job.state == "stopped", "it has ended")
    with pytest.raises(ProblemError):
        jobs.stop(job)


def test_what_a_drill_prints_does_not_steer_the_page() -> None:
    job = Job("drill-1", "drill", "stop", Milliseconds(0))
    Jobs(lambda _: None, lambda _: None).take_line(job, "\x1b[31mstopped: payment-1\r\n")
    assert list(job.output) == ["\\x1b[31mstopped: payment-1"]


# The poller


class FakeDatabase:
    """Answers each statement with the same rows, and counts how often it was asked."""

    def __init__(self, service: str, servers: int = 1) -> None:
        self.service = service
        self.servers = servers
        self.asked: Counter[str] = Counter()
        topics = READS[GROUP_OF[service]]
        self._rows: dict[str, list[dict[str, Any]]] = {
            samples.POSITIONS: [
                {"topic": topic, "partition": 0, "next_offset": 7, "record_time": Milliseconds(1)} for topic in topics
            ],
            samples.PARKED: [{"root": True, "events": 2}, {"root": False, "events": 3}],
            samples.STOPPED: [{"reason": "too many"}],
            CONNECTIONS: [{"allowed": 100, "reserved": 3, "taken": 40}],
            samples.STANDBYS: [{"standbys": 0}],
            samples.UNSETTLED: [{"oldest": None}],
        }

    def query(self, statement: str, **_: Any) -> list[dict[str, Any]]:
        self.asked[statement] += 1
        return self._rows.get(statement, [])


def test_what_costs_a_database_more_is_asked_less_often() -> None:
    database = FakeDatabase("order")
    sampler = samples.DatabaseSampler(cast(Any, database))
    first, second = sampler.sample(), sampler.sample()
    assert first == second
    asked = [database.asked[statement] for statement in (samples.POSITIONS, CONNECTIONS, samples.UNSETTLED)]
    assert asked == [2, 1, 1]


@pytest.mark.parametrize(("servers", "missing"), [(1, 0), (2, 1)])
def test_a_standby_that_does_not_follow_is_missing(servers: int, missing: int) -> None:
    database = FakeDatabase("payment", servers)
    assert samples.DatabaseSampler(cast(Any, database)).sample().standbys_missing == missing
    assert database.asked[samples.STANDBYS] == servers - 1


class FakeBroker:
    """Every topic has one partition with 10 records."""

    def ends(self) -> dict[Partition, int]:
        return {Partition(topic, 0): 10 for topic in READERS}

    def sample(self, positions: Any) -> samples.BrokerSample:
        return samples.BrokerSample(self.ends(), dict.fromkeys(READS, 1), {}, [], {}, {})


def test_the_page_and_the_metrics_share_one_reader() -> None:
    registry, flows = CollectorRegistry(), list[dict[str, Any]]()
    databases = {service: FakeDatabase(service) for service in GROUP_OF}

    def publish(kind: str, document: dict[str, Any], **_: Any) -> None:
        if kind == "flow":
            flows.append(document)

    page = SimpleNamespace(clients=1, publish=publish)
    instances = SimpleNamespace(scrape=list, close=lambda: None)
    poller = Poller(*cast(Any, (FakeBroker(), databases, instances, page, Gauges(registry))))

    def lag() -> float | None:
        return registry.get_sample_value("tandem_reader_lag_records", {"group": SAGA, "topic": "payments"})

    poller.start()
    eventually(lambda: flows and lag(), "the page and the metrics are told")
    poller.stop()
    assert (lag(), payment_arrow(flows[0])["lag_records"]) == (3, 3)
    assert (flows[0]["parked"]["payment"], flows[0]["stopped"]["payment"]) == (5, "too many")
    assert registry.get_sample_value("tandem_parked_events", {"group": SAGA, "as": "follower"}) == 3
    for service, database in databases.items():
        assert database.asked[samples.POSITIONS] == len(flows), service


def test_what_a_failed_read_leaves_in_a_cycle_is_freed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(FakeBroker):
        def ends(self) -> dict[Partition, int]:
            future: Future[dict[Partition, int]] = Future()
            left.append(weakref.ref(future))
            future.set_exception(Transient("away"))
            return future.result()  # the error has this frame, and the frame has the error

    left: list[weakref.ref[Any]] = []
    databases = {service: FakeDatabase(service) for service in GROUP_OF}
    page = SimpleNamespace(clients=1, publish=lambda *_, **__: None)
    instances = SimpleNamespace(scrape=list, close=lambda: None)
    poller = Poller(*cast(Any, (Refusing(), databases, instances, page, Gauges(CollectorRegistry()))))
    monkeypatch.setattr("ops.console.poller.COLLECT_EVERY_S", 0.0)
    gc.disable()
    try:
        for _ in range(3):
            poller.round(time.monotonic() + 60 * len(left))
        assert left[0]() is None
    finally:
        gc.enable()
        poller._pool.shutdown()
