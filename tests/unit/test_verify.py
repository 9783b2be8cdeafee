"""The judgement of an order: which rows and records are right, which breach a statement, and which cannot be judged
yet."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import msgspec
import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import CollectorRegistry, make_wsgi_app
from psycopg.conninfo import conninfo_to_dict

from common.config.kafka import Brokers
from common.consume.positions import Stored
from common.errors import Fatal, Transient
from common.events import READERS, TOPICS_OF, AnyOrderEvent, type_of
from common.http.heads import Hosts
from common.kafka.broker import Partition
from common.postgres import KEEPALIVES
from ops import log
from ops.log import Log
from ops.observe.gauges import ProofGauges
from ops.verify import proof, watch
from ops.verify.evidence.buckets import digits_for
from ops.verify.evidence.kinds import KINDS_OF, TOPICS
from ops.verify.evidence.lines import Evidence, ordered, read
from ops.verify.evidence.progress import HOLDERS, GroupPartition, Progress
from ops.verify.judge import audit
from ops.verify.judge.audit import audit_waiting
from ops.verify.judge.order import is_right, judge
from ops.verify.judge.states import Verdict
from ops.verify.report import LINE_CHARS, Report
from ops.verify.sources.databases import Row, Snapshot, mismatches, progress_of
from ops.verify.sources.log import event_of, record_line, salvaged, whole_line
from ops.verify.statements import Finding, Statement, Unproven
from ops.verify.waiting import Settings

ORDER = "01997c00-0000-7000-8000-000000000001"
KEY = b"a"
END = 100


def line_of(topic: str, number: int, offset: int, value: bytes) -> str | None:
    """The line of a record that is written by itself."""
    read = event_of(KINDS_OF[topic], value)
    if read is None:
        return salvaged(topic, number, offset, KEY, value)
    kind, data = read
    return record_line(data.order_id, number, (TOPICS.index(topic), kind, offset, 0, data, ""))


def progress(behind: Mapping[GroupPartition, int] | None = None, **changed: Any) -> Progress:
    """All readers have read and answered all of partition 0, except those in `behind`."""
    ends = {(group, topic, 0): END for topic, groups in HOLDERS.items() for group in groups}
    defaults: dict[str, Any] = {
        "starts": {Partition(topic, 0): 0 for topic in TOPICS},
        "ends": {Partition(topic, 0): END for topic in TOPICS},
        "positions": ends | dict(behind or {}),
        "committed": ends,
    }
    return Progress(**(defaults | changed))


CONFIRMED = """
L|p|0|10|0||cust-1|300|EUR|[{"product_id":"sku-1","quantity":2,"unit_price":100},{"product_id":"sku-2","quantity":1,"unit_price":100}]
L|C|0|10|0|cust-1|300|EUR
L|S|0|10|0|cust-1|sku-1:2,sku-2:1
L|k|0|11|0|cust-1
O|cust-1|0|confirmed|completed|reserved|t|||300|EUR|[{"product_id":"sku-1","quantity":2,"unit_price":100},{"product_id":"sku-2","quantity":1,"unit_price":100}]
P|cust-1|completed|300|EUR
G|capture|cust-1|300|EUR
R|cust-1|reserved|[{"product_id":"sku-1","quantity":2},{"product_id":"sku-2","quantity":1}]
M|reserve|sku-1|2
M|reserve|sku-2|1
"""
CANCELLED = """
L|p|0|10|0||cust-1|300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]
L|C|0|10|0|cust-1|300|EUR
L|S|0|10|0|cust-1|sku-1:3
L|k|0|11|0|cust-1
L|q|0|12|0|cust-1
L|x|0|13|0|cust-1
L|y|0|12|0|cust-1
L|R|0|11|0|cust-1|300|EUR
L|L|0|11|0|cust-1|sku-1:3
O|cust-1|0|cancelled|refunded|released|t|||300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]
P|cust-1|refunded|300|EUR
G|capture|cust-1|300|EUR
G|refund|cust-1|300|EUR
R|cust-1|released|[{"product_id":"sku-1","quantity":3}]
M|reserve|sku-1|3
M|release|sku-1|3
"""
FORMERLY = [CONFIRMED.replace("L|k", "L|c"), CANCELLED.replace("L|k", "L|c").replace("L|y|0|12|0|cust-1\n", "")]
"""As older versions wrote them, without the topic of outcomes."""


def evidence(text: str) -> Evidence:
    return read(text.strip())


def verdict(text: str, readers: Progress | None = None) -> Verdict:
    return judge(evidence(text), readers or progress())


def without(text: str, *beginnings: str) -> str:
    return "\n".join(line for line in text.strip().splitlines() if not line.startswith(beginnings))


def statements(text: str, readers: Progress | None = None) -> set[int]:
    return {int(finding.statement) for finding in verdict(text, readers).findings}


@pytest.mark.parametrize("history", [CONFIRMED, CANCELLED, *FORMERLY])
def test_a_settled_order_is_right(history: str) -> None:
    assert verdict(history) == Verdict((), False)


@pytest.mark.parametrize("history", [CONFIRMED, CANCELLED, *FORMERLY])
def test_every_event_may_come_again(history: str) -> None:
    records = [line for line in history.strip().splitlines() if line.startswith("L|")]
    again = [line.replace("|0|1", "|0|2", 1) for line in records]
    assert verdict("\n".join([history.strip(), *again])) == Verdict((), False)


@pytest.mark.parametrize(
    ("history", "gone", "breached"),
    [
        (CONFIRMED, "O|", {1}),
        (CONFIRMED, "P|", {1, 2}),
        (CONFIRMED, "R|", {1, 3}),
        (CONFIRMED, "G|", {2}),
        (CONFIRMED, "M|reserve|sku-2", {3}),
        (CANCELLED, "G|refund", {2}),
        (CANCELLED, "M|release", {3}),
        (CONFIRMED, "L|p", {1}),
        (CONFIRMED, "L|C", {4, 6}),
        (CONFIRMED, "L|k", {6}),
        (FORMERLY[0], "L|c", {6}),
        (CANCELLED, "L|R", {4, 6}),
        (CANCELLED, "L|x", {4, 6}),
    ],
)
def test_a_missing_row_or_record_is_noticed(history: str, gone: str, breached: set[int]) -> None:
    assert statements(without(history, gone)) >= breached


@pytest.mark.parametrize(
    ("history", "old", "new", "breached"),
    [
        (CONFIRMED, "P|cust-1|completed|300", "P|cust-1|completed|301", {2, 4}),
        (CONFIRMED, "P|cust-1|completed", "P|cust-1|refunded", {2, 4}),
        (CONFIRMED, "P|cust-1|completed", "P|cust-1|declined", {2, 4, 5}),
        (CONFIRMED, "G|capture|cust-1|300", "G|capture|cust-1|299", {2}),
        (CONFIRMED, "G|capture|cust-1|300", "G|capture|cust-2|300", {2}),
        (
            CONFIRMED,
            "O|cust-1|0|confirmed|completed|reserved|t|||300",
            "O|cust-1|0|confirmed|completed|reserved|t|||1",
            {1},
        ),
        (CONFIRMED, "O|cust-1|0|confirmed|completed|reserved|t", "O|cust-1|0|confirmed|completed|reserved|f", {4}),
        (CONFIRMED, "O|cust-1|0|confirmed|completed|reserved", "O|cust-1|0|pending|completed|reserved", {4}),
        (CONFIRMED, "O|cust-1|0|confirmed", "O|cust-1|0|rejected", {4}),
        (CONFIRMED, "M|reserve|sku-1|2", "M|reserve|sku-1|3", {3}),
        (CONFIRMED, '"product_id":"sku-1","quantity":2}', '"product_id":"sku-1","quantity":1}', {3, 4}),
        (
            CONFIRMED,
            '||cust-1|300|EUR|[{"product_id":"sku-1","quantity":2',
            '||cust-1|300|EUR|[{"product_id":"sku-1","quantity":1',
            {1, 4},
        ),
        (CANCELLED, "P|cust-1|refunded", "P|cust-1|completed", {2, 4}),
        (CANCELLED, "R|cust-1|released", "R|cust-1|reserved", {3, 4}),
        (CANCELLED, "M|release|sku-1|3", "M|release|sku-1|2", {3}),
        (CANCELLED, "M|release|sku-1|3", "M|release|sku-9|3", {3}),
    ],
)
def test_an_altered_row_or_record_is_noticed(history: str, old: str, new: str, breached: set[int]) -> None:
    assert old in history
    assert statements(history.replace(old, new)) >= breached


@pytest.mark.parametrize(
    ("history", "extra", "breached"),
    [
        (CANCELLED, "G|refund|cust-1|300|EUR", {2, 5}),
        (CONFIRMED, "G|capture|cust-1|300|EUR", {2, 5}),
        (CONFIRMED, "M|reserve|sku-1|2", {3, 5}),
        (CONFIRMED, "P|cust-1|completed|300|EUR", {5}),
        (CONFIRMED, "L|D|0|12|0|cust-1|300|EUR", {5}),
        (CONFIRMED, "L|C|0|12|0|cust-1|400|EUR", {5}),
        (CONFIRMED, "L|J|0|12|0|cust-1|", {5}),
        (CONFIRMED, "L|j|0|12|0|cust-1", {4, 5}),
        (CONFIRMED, "L|n|0|12|0|cust-1", {4, 5}),
        (CONFIRMED, "L|y|0|12|0|cust-1", {4}),
        (CONFIRMED, 'L|p|0|12|0||cust-1|100|EUR|[{"product_id":"sku-1","quantity":1,"unit_price":100}]', {1}),
        (CONFIRMED, "L|R|0|12|0|cust-1|300|EUR", {5}),
    ],
)
def test_a_forged_row_or_record_is_noticed(history: str, extra: str, breached: set[int]) -> None:
    assert statements(f"{history.strip()}\n{extra}") >= breached


def running() -> Iterator[tuple[str, Progress]]:
    """A running order: what each snapshot can hold while records are unread."""
    placed = 'L|p|0|50|0||cust-1|300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]'
    nobody: dict[GroupPartition, int] = {
        ("order-saga", "orders", 0): 50,
        ("payment", "orders", 0): 50,
        ("inventory", "orders", 0): 50,
    }
    yield placed, progress(nobody)
    # Decided by payment after the snapshots: its event is in the log, its row is not in the snapshot.
    yield f"{placed}\nL|C|0|50|0|cust-1|300|EUR", progress(nobody | {("order-saga", "payments", 0): 50})
    # Confirmed in the first snapshot, cancelled and refunded before the second one.
    later = without(CANCELLED, "O|", "R|", "M|release") + (
        '\nO|cust-1|0|confirmed|completed|reserved|t|||300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]'
        '\nR|cust-1|reserved|[{"product_id":"sku-1","quantity":3}]'
    )
    yield (
        later,
        progress(
            {
                ("order-saga", "orders", 0): 12,
                ("order-saga", "outcomes", 0): 12,
                ("order-saga", "payments", 0): 11,
                ("order-saga", "inventory", 0): 11,
                ("inventory", "orders", 0): 13,
            }
        ),
    )


@pytest.mark.parametrize(("history", "readers"), list(running()))
def test_an_order_at_work_is_waiting_and_not_wrong(history: str, readers: Progress) -> None:
    assert verdict(history, readers) == Verdict((), True)


def test_an_outcome_is_stored_before_it_is_published() -> None:
    pending = CONFIRMED.replace("O|cust-1|0|confirmed|completed|reserved|t", "O|cust-1|0|pending|||f")
    unread = {("order-saga", topic, 0): 10 for topic in ("payments", "inventory")}
    assert statements(pending, progress(unread)) == {4}, "it was in the log before the snapshot"
    assert statements(pending, progress(unread | {("order-saga", "outcomes", 0): 11})) == set()


@pytest.mark.parametrize(("committed", "below"), [(7, 20), (9, 0)])
def test_no_outcome_counts_as_stored_when_the_database_went_back(committed: int, below: int) -> None:
    reader = ("order-saga", "orders", 0)
    order: Any = SimpleNamespace(parked=dict, positions={reader: Stored("id", 8)})
    bounds = dict.fromkeys((Partition("orders", 0), Partition("outcomes", 0)), 20)
    found = progress_of([order], dict.fromkeys(bounds, 0), bounds, {reader: committed}, {Partition("outcomes", 0): 20})
    assert found.positions["order-saga", "outcomes", 0] == below


@pytest.mark.parametrize("trimmed", ["orders", "outcomes"])
def test_a_trim_excuses_no_outcome_of_an_order_that_is_kept(trimmed: str) -> None:
    assert statements(without(CONFIRMED, "L|k"), progress(starts={Partition(trimmed, 0): 5})) == {6}


def test_an_outcome_belongs_to_an_order_whatever_was_trimmed() -> None:
    trimmed = progress(starts={Partition("orders", 0): 20})
    assert statements("L|k|0|11|0|cust-1", trimmed) == {1}
    after_the_snapshot = progress({("order-saga", "outcomes", 0): 11}, starts={Partition("orders", 0): 20})
    assert statements("L|k|0|11|0|cust-1", after_the_snapshot) == set()


def test_an_order_has_one_last_outcome() -> None:
    assert statements(f"{CANCELLED.strip()}\nL|n|0|20|0|cust-1") == {5}


def test_a_record_elsewhere_does_not_move_the_order() -> None:
    assert statements(f"L|k|1|3|0|cust-1\n{CONFIRMED.strip()}", progress()) == {1}


def test_unread_records_do_not_excuse_records_below_the_position() -> None:
    half_read = progress({("order-saga", "orders", 0): 11})
    assert (
        Finding(Statement.DECIDED, "payment has passed the order and has no row for it")
        in verdict(without(CONFIRMED, "P|"), half_read).findings
    )


def test_an_answer_is_due_only_once_the_offset_is_committed() -> None:
    said_nothing = (
        without(CONFIRMED, "L|C", "L|k")
        .replace("|completed|reserved|t", "||reserved|f")
        .replace("confirmed", "pending")
    )
    assert statements(said_nothing) == {6}
    assert statements(said_nothing, progress(committed={})) == set()


def test_a_parked_order_has_no_effect_and_is_no_breach() -> None:
    group_partitions: list[GroupPartition] = [(group, "orders", 0) for group in READERS["orders"]]
    parked = progress(parked={reader: {10: "p"} for reader in group_partitions})
    placed = 'L|p|0|10|0||cust-1|300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]'
    assert verdict(placed, parked) == Verdict((), False)
    assert statements(placed) == {1, 6}, "silently deleted from the list"


@pytest.mark.parametrize("line", ["L|C|0|10|0|cust-1|300|EUR", "L|c|0|10|0|cust-1"])
def test_a_foreign_event_about_no_order_is_no_breach_while_it_is_parked(line: str) -> None:
    topic = {"C": "payments", "c": "orders"}[line[2]]
    parked = progress(parked={(group, topic, 0): {10: "p"} for group in READERS[topic]})
    assert verdict(line, parked) == Verdict((), False)
    assert 1 in statements(line), "passed by its readers"


def test_a_discarded_order_is_declined() -> None:
    group_partitions: list[GroupPartition] = [(group, "orders", 0) for group in READERS["orders"]]
    discarded = progress(parked={reader: {10: "d"} for reader in group_partitions})
    log = "L|p|0|10|0||!\nL|j|0|11|0|cust-1\nL|D|0|10|0|cust-1||\nL|J|0|10|0|cust-1|"
    rows = "O|cust-1|0|discarded|declined|rejected|t|||||[]\nP|cust-1|declined||\nR|cust-1|rejected|[]"
    assert verdict(f"{log}\n{rows}", discarded) == Verdict((), False)


DISCARDED_BY_SAGA = """
L|p|0|10|0||cust-1|300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]
L|C|0|10|0|cust-1|300|EUR
L|S|0|10|0|cust-1|sku-1:3
L|j|0|13|0|cust-1
L|R|0|11|0|cust-1|300|EUR
L|L|0|11|0|cust-1|sku-1:3
O|cust-1|0|discarded|refunded|released|t|||||[]
P|cust-1|refunded|300|EUR
G|capture|cust-1|300|EUR
G|refund|cust-1|300|EUR
R|cust-1|released|[{"product_id":"sku-1","quantity":3}]
M|reserve|sku-1|3
M|release|sku-1|3
"""


@pytest.mark.parametrize(
    ("old", "new", "breached"),
    [
        ("O|cust-1|0|discarded|refunded|released|t|||||[]\n", "", {1}),
        ("O|cust-1|0|discarded", "O|cust-1|0|cancelled", {4, 6}),
        ("O|cust-1|0|discarded|refunded|released|t", "O|cust-1|0|pending|refunded|released|f", {4}),
        ("O|cust-1|0|discarded|refunded|released|t", "O|cust-1|0|rejected|completed|released|f", {4}),
        ("O|cust-1", "O|cust-2", {4}),
        ("L|j|0|13|0|cust-1\n", "", {4, 6}),
        ("P|cust-1|refunded|300|EUR\nG|capture|cust-1|300", "P|cust-1|refunded|999|EUR\nG|capture|cust-1|999", {2, 4}),
        ('"sku-1","quantity":3}]\n', '"sku-2","quantity":3}]\n', {3, 4}),
    ],
)
def test_an_order_that_the_saga_discarded_keeps_its_row_and_is_undone(old: str, new: str, breached: set[int]) -> None:
    discarded = progress(parked={("order-saga", "orders", 0): {10: "d"}})
    assert verdict(DISCARDED_BY_SAGA, discarded) == Verdict((), False)
    assert old in DISCARDED_BY_SAGA
    before, rows = DISCARDED_BY_SAGA.rsplit("L|L", 1)
    altered = f"{before}L|L{rows.replace(old, new)}" if old in rows else DISCARDED_BY_SAGA.replace(old, new)
    assert statements(altered, discarded) >= breached


def test_an_order_that_one_reader_has_parked_is_charged_as_it_was_placed() -> None:
    saga = {("order-saga", topic, 0): 5 for topic in ("payments", "inventory")}
    parked = progress(saga, parked={("order-saga", "orders", 0): {10: "p"}})
    history = without(CONFIRMED, "L|k", "O|")
    assert verdict(history, parked).findings == ()
    assert 4 in statements(history.replace("cust-1|completed|300", "cust-1|completed|999"), parked)
    assert 4 in statements(history.replace("R|cust-1|reserved", "R|cust-2|reserved"), parked)


def test_an_order_that_came_again_after_it_was_discarded_stays_discarded() -> None:
    fates = {reader: {10: "d", 12: "r"} for reader in [(group, "orders", 0) for group in READERS["orders"]]}
    placed = 'L|p|0|10|0||cust-1|300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]'
    log = f"{placed}\n{placed.replace('|10|', '|12|')}\nL|j|0|11|0|cust-1\nL|D|0|10|0|cust-1||\nL|J|0|10|0|cust-1|"
    rows = "O|cust-1|0|discarded|declined|rejected|t|||||[]\nP|cust-1|declined||\nR|cust-1|rejected|[]"
    assert verdict(f"{log}\n{rows}", progress(parked=fates)) == Verdict((), False)


def test_an_order_is_cancelled_only_by_a_request_or_a_deadline() -> None:
    """Its own outcome in the log is no reason for it."""
    assert statements(without(CANCELLED, "L|q")) == {4}
    assert statements(CANCELLED.replace("L|q", "L|t")) == set()


def test_an_order_is_rejected_only_if_a_side_refused_it_or_it_was_discarded() -> None:
    """Its own outcome in the log is no reason for it."""
    rejected = (
        without(CANCELLED, "L|q", "L|k")
        .replace("L|x", "L|j")
        .replace("L|y", "L|n")
        .replace("O|cust-1|0|cancelled", "O|cust-1|0|rejected")
    )
    assert statements(rejected) == {4}
    restored = rejected.replace("O|cust-1|0|rejected", "O|cust-1|0|discarded")
    assert statements(restored) == set(), "the operator's act was lost with the database, the outcome is in the log"


@pytest.mark.parametrize(("record", "group"), [("L|C|0|20|0|!", "order-saga"), ("L|c|0|20|0|!", "payment")])
def test_a_broken_event_about_an_order_must_be_parked_by_all_that_passed_it(record: str, group: str) -> None:
    history, topic = f"{CONFIRMED.strip()}\n{record}", {"C": "payments", "c": "orders"}[record[2]]
    everybody = {(reader, topic, 0): {20: "p"} for reader in READERS[topic]}
    assert statements(history, progress(parked=everybody)) == set()
    assert statements(history, progress(parked=everybody | {(group, topic, 0): {20: "r"}})) == {6}
    del everybody[group, topic, 0]
    [finding] = verdict(history, progress(parked=everybody)).findings
    assert finding == Finding(
        Statement.WAITING, f"{topic}/0@20 is not an event, and {group} does not list it as parked"
    )


@pytest.mark.parametrize("history", [CONFIRMED, CANCELLED])
def test_an_order_that_came_again_after_the_log_was_trimmed_is_no_breach(history: str) -> None:
    """A client may send it again, under its key, long after it was settled: the api may publish it once more."""
    trimmed = progress(starts={Partition(topic, 0): 20 for topic in TOPICS})
    [placed] = [line for line in history.splitlines() if line.startswith("L|p")]
    again = f"{without(history, 'L|')}\n{placed.replace('|0|10|', '|0|50|')}\nT"
    answers = "L|C|0|60|0|cust-1|300|EUR" if history is CONFIRMED else "L|R|0|60|0|cust-1|300|EUR"
    answers += "\nL|S|0|60|0|cust-1|sku-1:2,sku-2:1" if history is CONFIRMED else "\nL|L|0|60|0|cust-1|sku-1:3"
    assert verdict(f"{again}\n{answers}", trimmed) == Verdict((), False)


def test_a_trimmed_log_is_no_breach() -> None:
    trimmed = progress(starts={Partition(topic, 0): 50 for topic in TOPICS})
    rows = f"{without(CONFIRMED, 'L|')}\nT"
    assert verdict(rows, trimmed) == Verdict((), False)
    assert statements(without(rows, "P|"), trimmed) == {1, 2}
    assert statements(without(rows, "T"), trimmed) == {1}, "its row must name a record that was trimmed"
    assert 1 in statements(rows.replace("|t|||300|EUR|", "|t|||||"), trimmed), "its row is all that says what it cost"


def test_an_order_parked_everywhere_cannot_have_been_decided() -> None:
    """A forged parked event in each database, of an order whose rows were deleted."""
    parked = progress(parked={(group, "orders", 0): {10: "p"} for group in READERS["orders"]})
    log = "\n".join(line for line in CONFIRMED.strip().splitlines() if line.startswith("L|"))
    assert [problem for of, problem in verdict(log, parked).findings if of == Statement.DECIDED] == [
        "payment published payment.completed, and has no row",
        "inventory published inventory.reserved, and has no row",
        "the saga has passed a decision about it and has no row for it",
    ]
    everything = {("order-saga", topic, 0): {10: "p"} for topic in ("payments", "inventory")}
    assert statements(log, progress(parked={**parked.parked, **everything})) == {1}
    outcome = without(log, "L|C", "L|S")
    assert statements(outcome, parked) == {1}, "an outcome of an order that was never processed"


def test_a_redrive_under_way_is_no_forgery() -> None:
    """Parked in the snapshots, decided and published before the ends were read."""
    group_partitions: list[GroupPartition] = [(group, "orders", 0) for group in READERS["orders"]]
    half_read = progress({("order-saga", "payments", 0): 10}, parked={reader: {10: "p"} for reader in group_partitions})
    placed = 'L|p|0|10|0||cust-1|300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]'
    assert verdict(f"{placed}\nL|C|0|10|0|cust-1|300|EUR", half_read).findings == ()


def test_a_discarded_order_has_a_published_refusal() -> None:
    group_partitions: list[GroupPartition] = [(group, "orders", 0) for group in READERS["orders"]]
    rows = "O|cust-1|0|discarded|||f|||||[]\nP|cust-1|declined||\nR|cust-1|rejected|[]"
    placed = 'L|p|0|10|0||cust-1|300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]'
    assert statements(f"{placed}\n{rows}", progress(parked={reader: {10: "d"} for reader in group_partitions})) == {6}
    assert statements(f"{placed}\n{rows}", progress(parked={reader: {10: "g"} for reader in group_partitions})) == set()


PENDING = """
L|p|0|10|5000||cust-1|300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]
O|cust-1|0|pending|||f|5000||300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]
"""


def test_an_order_at_work_looks_no_younger_than_the_log_says() -> None:
    nobody: dict[GroupPartition, int] = {(group, "orders", 0): 5 for group in ("payment", "inventory")}
    assert statements(PENDING, progress(nobody)) == set()
    assert statements(PENDING.replace("|f|5000|", "|f|7000|"), progress(nobody)) == {6}
    decided = (
        without(CANCELLED, "L|R", "G|refund", "P|")
        .replace("|0|13|0|", "|0|13|9000|")
        .replace("cancelled|refunded|released|t||", "cancelled|completed|released|f|5000|9000")
    )
    at_work = f"{decided}\nP|cust-1|completed|300|EUR"
    behind = progress({("payment", "orders", 0): 12})
    assert statements(at_work, behind) == set()
    assert statements(at_work.replace("|5000|9000", "|5000|90000"), behind) == {6}


@pytest.mark.parametrize(
    ("row", "breached"),
    [
        ("G|deposit|cust-1|300|EUR", {2}),
        ("M|restock|sku-1|3", {3}),
        ("Q|00", {5}),
    ],
)
def test_a_row_that_does_not_belong_to_its_order_is_noticed(row: str, breached: set[int]) -> None:
    assert statements(f"{CONFIRMED.strip()}\n{row}") == breached


def test_the_event_stored_under_a_key_is_the_one_in_the_log() -> None:
    published = CONFIRMED.replace("|10|0||cust-1", "|10|0|abcd|cust-1").strip()
    assert statements(f"{published}\nQ|abcd") == set()
    assert statements(f"{published}\nQ|abce") == {5}
    assert statements(f"{published}\nQ|abcd\nQ|abcd") == {5}, "two keys for one order"
    assert statements("Q|abcd") == set(), "its process died before it published"


@pytest.mark.parametrize(
    ("old", "new", "breached"),
    [
        ("O|cust-1|0|", "O|cust-1|1|", {4}),
        ("L|k|0|11|0|cust-1", "L|k|0|11|0|cust-2", {1}),
        ("|t|||300|EUR|", "|t|||||", {1}),
        ("O|cust-1|0|confirmed", "O|cust-1|0|", {4}),
    ],
)
def test_a_row_without_its_constraints_is_noticed(old: str, new: str, breached: set[int]) -> None:
    assert old in CONFIRMED
    assert statements(CONFIRMED.replace(old, new)) == breached


RECORDS = {
    "confirmed": [
        (
            "orders",
            "order.placed",
            '"items":[{"product_id":"sku-1","quantity":3,"unit_price":100}],"amount":300,"currency":"EUR"',
        ),
        ("outcomes", "order.confirmed", '"reason":null'),
        ("payments", "payment.completed", '"amount":300,"currency":"EUR","reason":null'),
        ("inventory", "inventory.reserved", '"items":[{"product_id":"sku-1","quantity":3}],"reason":null'),
    ],
}
RECORDS["cancelled"] = [
    *RECORDS["confirmed"],
    ("orders", "order.cancel_requested", '"reason":"customer"'),
    ("orders", "order.cancelled", '"reason":"customer"'),
    ("outcomes", "order.cancelled", '"reason":"customer"'),
    ("payments", "payment.refunded", '"amount":300,"currency":"EUR","reason":"customer"'),
    ("inventory", "inventory.released", '"items":[{"product_id":"sku-1","quantity":3}],"reason":"customer"'),
]
ROWS = {
    "confirmed": """R|cust-1|reserved|[{"product_id":"sku-1","quantity":3}]
M|reserve|sku-1|3
O|cust-1|0|confirmed|completed|reserved|t|||300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]
P|cust-1|completed|300|EUR
G|capture|cust-1|300|EUR""",
    "cancelled": """R|cust-1|released|[{"product_id":"sku-1","quantity":3}]
M|reserve|sku-1|3
M|release|sku-1|3
O|cust-1|0|cancelled|refunded|released|t|||300|EUR|[{"product_id":"sku-1","quantity":3,"unit_price":100}]
P|cust-1|refunded|300|EUR
G|capture|cust-1|300|EUR
G|refund|cust-1|300|EUR""",
}


def whole(outcome: str, altered: int = -1, old: str = "", new: str = "") -> str | None:
    """The line of an order's log, with something altered in one of its records."""
    seen = []
    for place, (topic, kind, members) in enumerate(RECORDS[outcome]):
        value = f'{{"type":"{kind}","data":{{"order_id":"{ORDER}","customer_id":"cust-1",{members}}}}}'
        if place == altered:
            assert old in value
            value = value.replace(old, new)
        read = event_of(KINDS_OF[topic], value.encode())
        assert read is not None
        seen.append((TOPICS.index(topic), read[0], 10 + place, 0, read[1], ""))
    return whole_line(ORDER, 0, seen)


def usual(outcome: str) -> str:
    line = whole(outcome)
    assert line is not None
    return f"{ROWS[outcome]}\n{line[len(ORDER) + 1 :]}"


@pytest.mark.parametrize("outcome", ROWS)
def test_the_fast_path_agrees_with_the_full_judgement_on_a_usual_order(outcome: str) -> None:
    assert is_right(usual(outcome), None, progress())
    assert verdict(usual(outcome)) == Verdict((), False)


@pytest.mark.parametrize("outcome", ROWS)
def test_the_fast_path_overlooks_nothing(outcome: str) -> None:
    """It fails for every altered character, and for every line that is missing or comes twice."""
    text, everybody = usual(outcome), progress()
    rows, log = ROWS[outcome], text[len(ROWS[outcome]) :]
    for place in range(len(rows)):
        assert not is_right(f"{rows[:place]}~{rows[place + 1 :]}{log}", None, everybody), rows[place:]
    lines = text.split("\n")
    for place, line in enumerate(lines):
        assert not is_right("\n".join(lines[:place] + lines[place + 1 :]), None, everybody), line
        assert not is_right("\n".join([*lines[:place], line, *lines[place:]]), None, everybody), line


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        (0, '"amount":300', '"amount":301'),
        (0, '"quantity":3', '"quantity":2'),
        (0, "cust-1", "cust-2"),
        (1, "cust-1", "cust-2"),
        (1, "order.confirmed", "order.rejected"),
        (2, '"amount":300', '"amount":299'),
        (2, '"EUR"', '"USD"'),
        (2, "cust-1", "cust-2"),
        (3, '"quantity":3', '"quantity":4'),
        (3, "sku-1", "sku-2"),
        (3, "inventory.reserved", "inventory.rejected"),
    ],
)
def test_a_log_that_contradicts_itself_is_not_usual(place: int, old: str, new: str) -> None:
    line = whole("confirmed", place, old, new)
    text = None if line is None else f"{ROWS['confirmed']}\n{line[len(ORDER) + 1 :]}"
    assert text is None or not is_right(text, None, progress())


def test_every_event_about_an_order_is_known_on_its_topic() -> None:
    """`verify` would otherwise take a correct event for one that cannot be read."""
    listed = {(topic, name) for topic, kinds in KINDS_OF.items() for name in kinds}
    published = {(topic, type_of(event)) for event in get_args(AnyOrderEvent) for topic in TOPICS_OF[event]}
    assert listed == published | {("orders", "order.confirmed")}  # as older versions wrote it
    letters = [letter for kinds in KINDS_OF.values() for letter in kinds.values()]
    assert len(set(letters)) == len(letters)  # each has one of its own


def test_an_accepted_order_must_be_in_the_log() -> None:
    assert statements("A") == {1}
    assert statements(f"{CONFIRMED.strip()}\nA") == set()


def test_a_reader_behind_the_ends_is_named() -> None:
    [behind] = progress({("payment", "orders", 0): 40}).behind()
    assert str(behind) == "payment stands at offset 40 of orders/0, which was read up to 100"


def test_databases_of_another_stack_are_recognised() -> None:
    ids = dict.fromkeys(TOPICS, "here")
    ends = {Partition(topic, 0): END for topic in TOPICS}
    assert mismatches({("payment", "orders", 0): Stored("here", END)}, ids, ends) == []
    assert "another topic" in mismatches({("payment", "orders", 0): Stored("there", 5)}, ids, ends)[0]
    assert "records are gone" in mismatches({("payment", "orders", 0): Stored("here", END + 1)}, ids, ends)[0]
    assert (
        "has positions in 1"
        in mismatches({("payment", "orders", 0): Stored("here", 5)}, ids, ends | {Partition("orders", 1): 0})[0]
    )


@pytest.mark.parametrize(
    "value",
    [
        b"", b"{", b"[" * 10**6, b"null", b'{"type":"order.placed"}', b'{"type":"nobody.knows","data":{}}',
        b'{"type":"order.placed","data":{"order_id":"x","customer_id":"c"}}',
        b'{"type":"payment.void","data":{"order_id":"' + ORDER.encode() + b'","customer_id":"c"}}',
    ],
)  # fmt: skip
def test_a_record_that_is_no_event_of_its_topic_has_no_line(value: bytes) -> None:
    assert line_of("orders", 0, 1, value) is None


def test_an_order_of_no_customer_has_no_line() -> None:
    """Its readers park it, and discard it without a decision."""
    value = f'{{"type":"order.placed","data":{{"order_id":"{ORDER}","customer_id":"a b","items":[],"amount":0}}}}'
    assert line_of("orders", 0, 10, value.encode()) is None


@pytest.mark.parametrize("customer", ["b", "a|b"])
def test_a_broken_event_whose_customer_is_not_its_key_is_about_no_order(customer: str) -> None:
    value = f'{{"type":"order.placed","data":{{"order_id":"{ORDER}","customer_id":"{customer}","amount":"1"}}}}'
    assert line_of("orders", 0, 1, value.encode()) is None
    assert line_of("orders", 0, 1, value.replace(customer, "a").encode()) == f"{ORDER}|L|p|0|1|0||!"


def test_a_line_cannot_be_forged_by_the_content_of_an_event() -> None:
    value = f'{{"type":"order.placed","data":{{"order_id":"{ORDER}","customer_id":"a","amount":1,"currency":"E|R"}}}}'
    assert line_of("orders", 0, 1, value.encode()) == f"{ORDER}|L|p|0|1|0||!"


def test_items_are_summed_by_product() -> None:
    placed = [("b", 1, 5), ("a:b", 2, 10), ("b", 3, 5)]
    due = ordered(json.dumps([{"product_id": p, "quantity": q, "unit_price": u} for p, q, u in placed]))
    assert (due.lines, due.amount) == ("a:b:2,b:4", "40")
    assert due.published == b'[{"product_id":"b","quantity":4},{"product_id":"a:b","quantity":2}]'


def test_items_beyond_all_numbers_cannot_be_read() -> None:
    with pytest.raises(msgspec.ValidationError):
        ordered(f'[{{"product_id":"a","quantity":{2**64},"unit_price":1}}]')


@pytest.mark.parametrize(("records", "digits"), [(0, 0), (30_000, 0), (500_000, 2), (4_000_000, 2), (10**8, 3)])
def test_buckets_grow_in_number_not_in_size(records: int, digits: int) -> None:
    assert digits_for(records) == digits


def test_the_exit_code_tells_a_violation_from_a_doubt() -> None:
    report = Report()
    assert report.exit_code == 0
    report.doubt(Statement.DECIDED, "a reader is behind")
    assert report.exit_code == 2
    report.violate("order 1", Finding(Statement.ONCE, "refunded twice"))
    assert report.exit_code == 1


def test_a_reason_for_several_statements_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.doubt_all("Kafka is away")
    report.doubt(Statement.ONCE, "payment is behind")
    report.show()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("unproven ")] == [
        "unproven 1, 2, 3, 4, 5, 6: Kafka is away",
        "unproven 5: payment is behind",
    ]


def test_a_long_key_does_not_fill_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report, key = Report(), "k\x1b" * 100_000
    report.violate(f"account {key}", Finding(Statement.MONEY, "below zero"), {"rows": [{"customer_id": key}]})
    place = {"service": "payment", "topic": "orders", "partition": 3, "offset": 17}
    report.parked.append({**place, "customer": key, "state": "parked", "error": "not an event"})
    report.show()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= LINE_CHARS + len("  rows: ")
    assert not any("\x1b" in line for line in lines)
    [parked] = [line for line in lines if line.startswith("  payment: orders/3@17 ")]
    assert parked.endswith("… parked: not an event")


@pytest.mark.parametrize(("checked", "extent"), [(0, "but nothing could"), (1, "but not everything could")])
def test_an_unproven_verdict_says_how_much(checked: int, extent: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.checked[Statement.MONEY] += checked
    report.doubt_all("Kafka is away")
    report.show()
    assert f"{extent} be checked" in capsys.readouterr().out.splitlines()[-1]


def test_records_that_every_reader_skipped_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offset 7 is a marker, 8 and 9 are gone."""
    monkeypatch.setattr(proof, "offsets_without_record", lambda *_: {7: 0})
    partition, report = Partition("orders", 3), Report()
    under_way = proof._Proof(Settings(Brokers("127.0.0.1:9"), {}, deadline_s=1), report, tmp_path, lambda _: None)
    under_way._check_gap(partition, range(7, 8), set())
    assert (report.exit_code, report.notes) == (0, [])
    under_way._check_gap(partition, range(7, 10), {(partition, 8), (partition, 9)})
    assert report.exit_code == 0
    assert "2 records of orders/3, from offset 8 to 9, are gone" in report.notes[0]
    under_way._check_gap(partition, range(7, 10), {(partition, 8)})
    assert report.exit_code == 1


def test_a_broker_that_is_away_is_named_with_the_way_out() -> None:
    with pytest.raises(Fatal, match=r"Kafka does not answer at 127.0.0.1:1; is it up\? 'just start kafka'"):
        Log(Brokers("127.0.0.1:1"), "verify").wait(0.2)


def test_the_watch_shows_the_result_of_the_last_proof() -> None:
    registry = CollectorRegistry()
    gauges = ProofGauges(registry)
    report = Report()
    report.violate("order 1", Finding(Statement.ONCE, "refunded twice"))
    watch.show(gauges, report, 0.0)
    assert registry.get_sample_value("tandem_proof_violations", {"statement": "5"}) == 1
    assert registry.get_sample_value("tandem_proof_violations", {"statement": "1"}) == 0
    age = registry.get_sample_value("tandem_proof_age_seconds")
    assert age is not None
    assert age < 60, "a violated proof does not count, so the age is that of the start"
    watch.show(gauges, Report(), time.monotonic() - 100.0)
    assert (registry.get_sample_value("tandem_proof_age_seconds") or 0.0) >= 100.0


SETTINGS = Settings(Brokers("nowhere:1"), {}, deadline_s=3_600)


class Overdue(Snapshot):
    """An order database in which these orders have waited too long."""

    def __init__(self, *orders: Row) -> None:
        self._orders = orders

    def query(self, statement: str, **parameters: Any) -> list[Row]:
        if statement == audit.SQL["unsettled"]:
            return [{"orders": len(self._orders), "oldest_s": 9_999.0}]
        assert statement == audit.SQL["overdue"]
        assert parameters["blocked"] == ["cust-1"]
        return list(self._orders)


def overdue(customer: str, waited_s: float | None = 9_999.0) -> Row:
    return {
        "order_id": f"{customer}s-order",
        "customer_id": customer,
        "status": "pending",
        "payment": None,
        "inventory": None,
        "waited_s": waited_s,
    }


PARKED: list[Row] = [
    {"service": "payment", "customer": None, "topic": "orders", "partition": 3, "offset": 16},
    {"service": "payment", "customer": "cust-1", "topic": "orders", "partition": 3, "offset": 17},
    {"service": "payment", "customer": "cust-1", "topic": "orders", "partition": 3, "offset": 18},
]


def test_an_order_that_waits_behind_a_parked_event_is_a_doubt_which_names_it() -> None:
    report = Report()
    audit_waiting(Overdue(overdue("cust-1")), report, 3_600, PARKED)
    assert (report.exit_code, report.unproven[Statement.WAITING]) == (2, 1)
    [reason] = report.reasons[Statement.WAITING]
    assert "cust-1s-order" in reason
    assert "orders/3@17 of its customer cust-1 is parked by payment" in reason


@pytest.mark.parametrize("order", [overdue("cust-2"), overdue("cust-1", None), overdue("cust-1", -9_999.0)])
def test_a_parked_event_excuses_no_other_customer_and_no_impossible_time(order: Row) -> None:
    report = Report()
    audit_waiting(Overdue(order), report, 3_600, PARKED)
    assert report.violations[Statement.WAITING] == 1


def test_all_orders_behind_parked_events_are_counted() -> None:
    report = Report()
    audit_waiting(Overdue(*[{**overdue("cust-1"), "order_id": str(n)} for n in range(50)]), report, 3_600, PARKED)
    assert report.unproven[Statement.WAITING] == 50


class Ended(BaseException):
    """The test has seen enough."""


def test_the_watch_goes_on_after_a_proof_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: Iterator[Report | BaseException] = iter([OSError(28, "No space left on device"), Report(), Ended()])
    taken: list[Report] = []

    def prove(_: Settings) -> Report:
        outcome = next(outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(watch, "prove", prove)
    monkeypatch.setattr(watch, "start_http_server", lambda *_: (SimpleNamespace(set_app=lambda _: None), None))
    monkeypatch.setattr(watch, "show", lambda _, report, __: taken.append(report))
    with pytest.raises(Ended):
        watch.watch(SETTINGS, every_s=0, hosts=Hosts("nowhere"), port=1)
    assert [report.exit_code for report in taken] == [2, 0]
    assert all("No space left" in taken[0].reasons[statement][0] for statement in Statement)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"HTTP_HOST": "localhost:8085"}, "200 OK"),
        ({"HTTP_HOST": "evil.example"}, "421 Misdirected request"),
        ({"HTTP_HOST": "localhost:8085", "HTTP_ORIGIN": "https://evil.example"}, "403 Foreign origin"),
        ({}, "400 Malformed request"),
    ],
)
def test_the_metrics_of_a_watch_are_for_its_own_host_alone(asked: dict[str, str], status: str) -> None:
    said: list[str] = []

    def start_response(status: str, *_: object) -> Callable[[bytes], object]:
        said.append(status)
        return bytes

    app = watch.guarded(make_wsgi_app(CollectorRegistry()), Hosts())
    list(
        app({"SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": "/metrics", "REQUEST_METHOD": "GET", **asked}, start_response)
    )
    assert said == [status]


def test_a_failed_query_for_an_offset_does_not_mean_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(NamedTuple):
        topic: str
        partition: int
        offset: int
        error: KafkaError | None

    class Consumer:
        def __init__(self, _: Any) -> None: ...

        def committed(self, partitions: list[Any], _: float) -> list[Answer]:
            return [Answer(tp.topic, tp.partition, -1001, KafkaError(KafkaError.NOT_COORDINATOR)) for tp in partitions]

        def close(self) -> None: ...

    monkeypatch.setattr(log, "Consumer", Consumer)
    monkeypatch.setattr(log, "COORDINATOR_S", 0.1)
    with pytest.raises((KafkaException, Transient)):
        Log(Brokers("127.0.0.1:1"), "verify").committed("payment", [Partition("orders", 0)])


def test_a_database_that_falls_silent_ends_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has become half-open would keep it, and the console's standing proof, waiting for hours."""
    given: list[Mapping[str, object]] = []

    def connect(conninfo: str, **_: object) -> None:
        given.append(conninfo_to_dict(conninfo))
        raise psycopg.OperationalError("refused")

    monkeypatch.setattr(psycopg, "connect", connect)
    with pytest.raises(Unproven, match="the order database cannot be reached: refused"):
        Snapshot("order", "postgresql://127.0.0.1:1/d")
    assert given[0].items() >= {name: str(value) for name, value in KEEPALIVES.items()}.items()
