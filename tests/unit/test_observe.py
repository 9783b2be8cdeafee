"""Metrics, rules, dashboards and the tables of OPERATIONS fit together. What Prometheus itself makes of the rules is
tested where its promtool is installed.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from common.events import INVENTORY, ORDERS, PAYMENTS, SAGA, Milliseconds
from common.kafka.broker import Partition
from common.kafka.identity import Consumer
from common.metrics import BatchHistogram
from dev.settings import SERVICES
from ops.console.metrics import NAMES
from ops.observe import files, reference, scrape
from ops.observe.dashboards import DASHBOARDS
from ops.observe.rules import RUNBOOKS, Pace, duration, routes, rules
from ops.observe.samples import (
    LAGGARD_MS,
    BrokerSample,
    DatabaseSample,
    Lag,
    Position,
    first_times,
    lacking_copies,
    lag,
    oldest_unsettled_s,
    settled_upto,
)
from ops.observe.slos import DAY, SLOS
from ops.observe.symptoms import INHIBITIONS, SYMPTOMS
from tests.unit.test_docs import ROOT, anchors

PROMTOOL = shutil.which("promtool")
AT = Milliseconds(1_000_000)


def alerting() -> list[dict[str, str]]:
    return [rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]


# The files


@pytest.mark.parametrize("path", files.texts())
def test_a_made_file_is_fresh(path: str) -> None:
    assert (ROOT / path).read_text() == files.texts()[path], "run 'python -m ops.observe'"


def test_no_made_file_is_left_over() -> None:
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / files.FOLDER).rglob("*") if path.is_file()}
    assert there == {path for path in files.texts() if path.startswith(files.FOLDER)}


def test_every_alert_leads_to_a_section_of_operations() -> None:
    sections = anchors(ROOT / RUNBOOKS)
    runbooks = {rule["alert"]: rule["annotations"]["runbook"] for rule in alerting()}  # type: ignore[index]
    lost = {alert: link for alert, link in runbooks.items() if link.removeprefix(f"{RUNBOOKS}#") not in sections}
    assert lost == {}


def test_inhibitions_name_alerts() -> None:
    named = {name for causes, symptoms, _ in INHIBITIONS for name in (*causes, *symptoms)}
    assert named <= {rule["alert"] for rule in alerting()}


def test_no_alert_silences_one_that_silences_it() -> None:
    pairs = {(cause, symptom) for causes, symptoms, _ in INHIBITIONS for cause in causes for symptom in symptoms}
    assert {pair for pair in pairs if pair[::-1] in pairs} == set()


def test_rules_and_dashboards_use_only_metrics_that_there_are() -> None:
    tables = "\n".join([*reference.metrics_table(), *reference.console_table()])
    known = set(re.findall(r"^\| `(\w+)`", tables, re.MULTILINE))
    exprs = [str(rule["expr"]) for group in rules()["groups"] for rule in group["rules"]]
    exprs += [query.expr for dashboard in DASHBOARDS for panel in dashboard.panels for query in panel.queries]
    used = {re.sub("_(bucket|count|sum)$", "", name) for expr in exprs for name in re.findall(r"\btandem_\w+", expr)}
    assert used - known == set()


def test_the_console_shows_only_metrics_that_there_are() -> None:
    known = re.findall(r"^\| `tandem_(\w+)`", "\n".join(reference.metrics_table()), re.MULTILINE)
    assert {re.sub("_(bucket|sum)$", "", name) for name in NAMES} <= set(known)


def test_compose_scrapes_every_service_and_mounts_files_that_there_are() -> None:
    assert {service.name: service.database for service in SERVICES} == scrape.DATABASE_OF
    compose = (ROOT / "docker-compose.yml").read_text()
    mounted = re.findall(r"- \./(ops/observe/files/[\w./-]+):", compose)
    assert mounted
    assert [path for path in mounted if not (ROOT / path).exists()] == []
    assert re.findall(r"image: \S+:latest|image: [^\s:]+$", compose.replace("image: tandem\n", ""), re.MULTILINE) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.5, "500ms"), (5, "5s"), (60, "1m"), (90, "90s"), (3600, "1h"), (259_200, "3d")]
)
def test_a_duration_is_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_drill_shortens_every_window() -> None:
    shortened = str(rules(Pace(60, 20, 2)))
    assert not re.findall(r"\[\d+[hd]\]", shortened)
    assert "[5s]" in shortened


def test_yaml_is_what_json_says() -> None:
    content = {"a": [{"b": 'x: "y"', "c": []}, ["d", 1]], "e": {"f": None, "g": True}}
    assert files.yaml(content).splitlines() == [
        "a:", '  - b: "x: \\"y\\""', "    c: []", '  - - "d"', "    - 1", "e:", "  f: null", "  g: true",
    ]  # fmt: skip


# The samples


def broker(
    ends: Mapping[Partition, int],
    first_unread: Mapping[tuple[str, Partition], int],
    past_end: Mapping[tuple[str, Partition], int] = MappingProxyType({}),
) -> BrokerSample:
    times = {where: Milliseconds(at) for where, at in first_unread.items()}
    return BrokerSample(ends, {}, {}, [], times, past_end)


def test_lag_is_the_age_of_the_first_unread_record() -> None:
    first, second = Partition(ORDERS, 0), Partition(ORDERS, 1)
    positions = {
        ("payment", first): Position(5, Milliseconds(1)),
        ("payment", second): Position(7, Milliseconds(1)),
        ("inventory", first): Position(9, None),
    }
    sample = broker({first: 9, second: 8}, {("payment", first): AT - 3_000, ("payment", second): AT - 8_000})
    lags = lag(positions, sample, AT)
    assert lags["payment", ORDERS] == Lag(5, 8.0)
    assert lags["inventory", ORDERS] == Lag(0, 0.0)
    assert set(lags) == {("payment", ORDERS), ("inventory", ORDERS)} | {
        (SAGA, t) for t in (ORDERS, PAYMENTS, INVENTORY)
    }


def test_positions_past_the_end_are_no_negative_lag() -> None:
    first, second = Partition(ORDERS, 0), Partition(ORDERS, 1)
    positions = {("payment", first): Position(9, None), ("payment", second): Position(3, Milliseconds(AT - 1_000))}
    sample = broker({first: 5, second: 4}, {}, {("payment", first): 4})
    assert lag(positions, sample, AT)["payment", ORDERS] == Lag(1, 1.0, 4)


class Reader:
    """Two records of each partition come at once, those of the second partition later. Like a client of Kafka it gives
    up a partition once."""

    def __init__(self) -> None:
        self.assigned: set[int] = set()
        self._batches = [[(0, 5), (0, 6)], [(1, 7), (1, 8)]]

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = {each.partition for each in partitions}

    def consume(self, most: int, timeout_s: float) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(
                topic=lambda: ORDERS,
                partition=lambda p=partition: p,
                error=lambda: None,
                timestamp=lambda at=at: (1, at),
            )
            for partition, at in self._batches.pop(0)
        ]

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        [partition] = [each.partition for each in partitions]
        if partition not in self.assigned:
            raise KafkaException(f"partition {partition} is not assigned")
        self.assigned.remove(partition)

    def unassign(self) -> None:
        self.assigned.clear()


def test_a_second_record_of_a_partition_ends_no_search_for_the_first_of_another() -> None:
    offsets = {Partition(ORDERS, 0): 0, Partition(ORDERS, 1): 0}
    assert first_times(cast(Consumer, Reader()), offsets) == {Partition(ORDERS, 0): 5, Partition(ORDERS, 1): 7}


def test_where_the_first_unread_record_is_not_known_the_last_one_read_bounds_its_age() -> None:
    partition = Partition(ORDERS, 0)
    positions = {("payment", partition): Position(5, Milliseconds(AT - 60_000))}
    assert lag(positions, broker({partition: 6}, {}), AT)["payment", ORDERS] == Lag(1, 60.0)


@pytest.mark.parametrize(
    ("stored", "unread_s", "age_s"),
    [(None, 0.0, 0.0), (AT - 5_000, 0.0, 5.0), (AT - 5_000, 9.0, 9.0), (None, 9.0, 9.0)],
)
def test_an_order_that_the_saga_has_not_read_is_unsettled_too(
    stored: int | None, unread_s: float, age_s: float
) -> None:
    oldest = None if stored is None else Milliseconds(stored)
    database = DatabaseSample({}, {}, None, {}, oldest)
    assert oldest_unsettled_s(database, {(SAGA, ORDERS): Lag(1, unread_s)}, AT) == age_s


@pytest.mark.parametrize(
    ("known", "read", "oldest", "upto"),
    [
        (0, [], None, 0),
        (0, [AT, AT - 5], None, AT - LAGGARD_MS),
        (0, [AT], AT - 2 * LAGGARD_MS, AT - 2 * LAGGARD_MS),
        (AT - 5, [AT], None, AT - 5),
    ],
)
def test_the_search_for_unsettled_orders_begins_at_the_oldest_or_shortly_before_what_is_read(
    known: int, read: list[int], oldest: int | None, upto: int
) -> None:
    found = None if oldest is None else Milliseconds(oldest)
    assert settled_upto(Milliseconds(known), map(Milliseconds, read), found) == upto


def test_partitions_with_fewer_copies_than_they_should_have_are_counted() -> None:
    def topic(*copies: tuple[int, int]) -> SimpleNamespace:
        partitions = [SimpleNamespace(replicas=[*range(should)], isrs=[*range(have)]) for should, have in copies]
        return SimpleNamespace(partitions=dict(enumerate(partitions)))

    topics = {"orders": topic((3, 3), (3, 2)), "products": topic((3, 1)), "alone": topic((1, 1))}
    assert lacking_copies(cast(ClusterMetadata, SimpleNamespace(topics=topics))) == 2


def test_a_batch_histogram_shows_what_a_histogram_shows() -> None:
    values, buckets = [0.0, 0.25, 0.25, 0.5, 3.0, 99.0], (0.25, 0.375, 5.0)
    plain, batch = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("t_seconds", "Times.", buckets=buckets, registry=plain)
    for value in values:
        histogram.observe(value)
    batches = BatchHistogram("t_seconds", "Times.", buckets, batch)
    batches.observe_all(values[:2])
    batches.observe(values[2])
    batches.observe_all(values[3:])
    assert generate_latest(batch) == generate_latest(plain)


# What Prometheus makes of the rules

promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="THE RULES WERE NOT TRIED: promtool is not installed (Prometheus)"
)


def run_promtool(*arguments: str | Path) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_promtool_accepts_the_files() -> None:
    run_promtool("check", "config", ROOT / files.FOLDER / "prometheus.yml")


@promtool
def test_alertmanager_accepts_its_file(tmp_path: Path) -> None:
    amtool = shutil.which("amtool")
    assert amtool is not None, "it comes with Alertmanager, beside promtool"
    for name, pace in {"real": Pace(), "drill": Pace(60, 20, 2)}.items():
        (tmp_path / name).write_text(files.yaml(routes(pace=pace)))
        subprocess.run([amtool, "check-config", tmp_path / name], check=True, capture_output=True)


API = 'up{job="tandem",service="order-api",instance="%s"}'
OK = {'up{job="tandem-console"}': "1", API % "a": "1"}
PLACED = 'tandem_http_requests_total{method="POST",route="/api/v1/orders",status="%s"}'
EXPIRY = 'tandem_certificate_expiry_timestamp_seconds{certificate="http",instance="a"}'
FIRING: dict[str, dict[str, str]] = {
    "TandemKafkaAway": {'tandem_source_up{source="kafka"}': "0"},
    "TandemDatabaseAway": {'tandem_source_up{source="order"}': "0", 'tandem_source_up{source="kafka"}': "1"},
    "TandemConsumerGone": {
        'tandem_group_members{group="payment"}': "0",
        'tandem_group_members{group="inventory"}': "1",
    },
    "TandemLossDetected": {
        'tandem_loss_detected{group="payment",instance="a"}': "1",
        'tandem_loss_detected{group="x"}': "0",
        'tandem_reader_past_end_records{group="payment",topic="orders"}': "0",
    },
    "TandemWorkerEnded": {'tandem_worker_ended{group="payment"}': "1"},
    "TandemGroupStopped": {'tandem_group_stopped{group="payment"}': "1"},
    "TandemEventsParked": {
        'tandem_parked_events{as="root",group="a"}': "1",
        'tandem_parked_events{as="follower",group="b"}': "9",
    },
    "TandemViolation": {'tandem_proof_violations{statement="2"}': "1", 'tandem_proof_violations{statement="1"}': "0"},
    "TandemProofTooOld": {"tandem_proof_age_seconds": "3601"},
    "TandemDiskFilling": {"tandem_disk_free_bytes": "9", "tandem_disk_size_bytes": "100"},
    "TandemCopiesMissing": {"tandem_partitions_lacking_copies": "3"},
    "TandemStandbyMissing": {
        'tandem_database_standbys_missing{database="order"}': "1",
        'tandem_database_standbys_missing{database="payment"}': "0",
    },
    "TandemInstanceDown": {'up{job="tandem",service="payment"}': "0"},
    "TandemNotReady": {"tandem_ready": "0"},
    "TandemDegraded": {"tandem_degraded": "1"},
    "TandemLagging": {'tandem_reader_lag_seconds{group="payment"}': "61"},
    "TandemOrderStuck": {"tandem_oldest_unsettled_seconds": "3901"},
    "TandemSaturated": {'tandem_pool_in_use{pool="a"}': "10", 'tandem_pool_limit{pool="a"}': "10"},
    "TandemConnectionsLow": {"tandem_database_connections": "95", "tandem_database_connections_limit": "97"},
    "TandemCertificateExpires": {EXPIRY: f"{13 * DAY}"},
    "TandemClientsRefused": {'tandem_http_connections_shed_total{reason="refused"}': "0+1"},
    "TandemTablesGrow": {"tandem_database_oldest_transaction_seconds": "61"},
    "TandemBug": {'tandem_http_requests_total{status="500",route="/x"}': "0+1"},
}
"""What makes each alert fire, and no other: values that stay, or start and step a minute."""
QUIET: dict[str, dict[str, str]] = {
    "an old proof": {"tandem_proof_age_seconds": "3600"},
    "a certificate for two weeks": {EXPIRY: f"{14.5 * DAY:.0f}"},
    "some disk": {"tandem_disk_free_bytes": "10", "tandem_disk_size_bytes": "100"},
    "errors within the budget": {PLACED % 202: "0+10000", PLACED % 503: "0+5"},
    "few errors": {PLACED % 202: "0+0.03", PLACED % 503: "0+0.03"},
    "connections that gave way": {'tandem_http_connections_shed_total{reason="gave_way"}': "0+1"},
}
DISK = {"tandem_disk_free_bytes": "4", "tandem_disk_size_bytes": "100"}
LINES = 'tandem_order_batch_lines_total{status="%s"}'
BOTH: dict[str, tuple[dict[str, str], dict[str, int]]] = {
    "past the end": (
        {'tandem_reader_past_end_records{group="payment",topic="orders"}': "9"}, {"TandemLossDetected": 1}
    ),
    "a certificate of yesterday": (
        {EXPIRY: f"{1.9 * DAY:.0f}"}, {"TandemCertificateEnds": 1, "TandemCertificateExpires": 1}
    ),
    "full": (DISK, {"TandemDiskFull": 1, "TandemDiskFilling": 1}),
    "api": ({API % "a": "0", API % "b": "0"}, {"TandemApiDown": 1, "TandemInstanceDown": 2}),
    "2 % errors": ({PLACED % 202: "0+980", PLACED % 503: "0+20"}, {"TandemAcceptErrors": 3}),
    "0.8 % errors": ({PLACED % 202: "0+992", PLACED % 503: "0+8"}, {"TandemAcceptErrors": 2}),
    "0.3 % errors": ({PLACED % 202: "0+997", PLACED % 503: "0+3"}, {"TandemAcceptErrors": 1}),
    "slow to accept": (
        {"tandem_order_accept_seconds_count": "0+100", 'tandem_order_accept_seconds_bucket{le="0.05"}': "0+80"},
        {"TandemAcceptSlow": 3},
    ),
    "slow to settle": (
        {"tandem_order_settle_seconds_count": "0+100", 'tandem_order_settle_seconds_bucket{le="2.0"}': "0+80"},
        {"TandemSettleSlow": 3},
    ),
    "lines of batches": (
        {LINES % 202: "0+980", LINES % 503: "0+20", PLACED % 202: "0+1"},
        {"TandemAcceptErrors": 3},
    ),
}  # fmt: skip


def rule_test(series: Mapping[str, str], expected: Mapping[str, int], minutes: int = 240) -> dict[str, object]:
    """A test of promtool: with these series, as many alerts fire after so many minutes as expected."""
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": f"{value}x{minutes}" if "+" in value else f"{value}+0x{minutes}"}
            for name, value in (OK | dict(series)).items()
        ],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": n} for name, n in expected.items()],
            }
        ],
    }


@promtool
def test_each_alert_fires_for_what_it_names_and_for_nothing_else(tmp_path: Path) -> None:
    tried = {*FIRING, *(name for _, expected in BOTH.values() for name in expected)}
    assert tried | {"TandemConsoleDown"} == {alert.name for alert in SYMPTOMS} | {slo.alert for slo in SLOS}
    gone = rule_test({}, {"TandemConsoleDown": 1, "TandemApiDown": 1}, minutes=20)
    gone["input_series"] = []
    (tmp_path / "rules.yml").write_text(files.yaml(rules()))
    lasting = [rule_test(series, {}) for series in QUIET.values()]
    lasting += [rule_test(series, expected) for series, expected in BOTH.values()]
    brief = [rule_test(series, {name: 1}, minutes=20) for name, series in FIRING.items()]
    for every, tests in {"1m": [*brief, gone], "10m": lasting}.items():
        content = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": tests}
        (tmp_path / f"{every}.yml").write_text(files.yaml(content))
        run_promtool("test", "rules", tmp_path / f"{every}.yml")
