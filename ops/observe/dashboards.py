"""Grafana's dashboards, made from a list of panels: what users see, the consumers, the resources, and Kafka itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ops.observe.rules import recorded_name
from ops.observe.slos import HOUR, SLOS

WIDTH: Final = 24
HEIGHT: Final = 8
SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}


class Query(NamedTuple):
    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """`unit` is Grafana's name of one: s, reqps, short, bytes, percentunit. `of` is `timeseries` or `stat`."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    of: str = "timeseries"
    width: int = 8
    limit: float | None = None
    """The value from which on a panel is red."""


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    panels: Sequence[Panel]


def quantiles(histogram: str, by: str = "") -> list[Query]:
    """p50, p95 and p99 of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        Query(
            f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket[$__rate_interval])))",
            f"p{q * 100:g}{legend}",
        )
        for q in (0.5, 0.95, 0.99)
    ]


def rate(counter: str, by: str, selector: str = "") -> Query:
    return Query(f"sum by ({by}) (rate({counter}{selector}[$__rate_interval]))", f"{{{{{by}}}}}")


ORDERS: Final = '{route=~"/api/v1/orders(/batch)?"}'

DASHBOARDS: Final = (
    Dashboard(
        "tandem-overview", "Tandem: overview",
        (
            *(
                Panel(slo.summary, [Query(f'1 - {recorded_name(HOUR)}{{slo="{slo.name}"}}')], "percentunit", "stat")
                for slo in SLOS
            ),
            Panel("violations", [Query("sum(tandem_proof_violations)")], of="stat", width=4, limit=1),
            Panel("age of the last proof", [Query("tandem_proof_age_seconds")], "s", "stat", 4, HOUR),
            Panel("oldest unsettled order", [Query("tandem_oldest_unsettled_seconds")], "s", "stat", 4, HOUR),
            Panel("parked events", [Query("sum(tandem_parked_events)")], of="stat", width=4, limit=1),
            Panel("sources up", [Query("sum(tandem_source_up)")], of="stat", width=4),
            Panel("instances ready", [Query("sum(tandem_ready)")], of="stat", width=4),
            Panel("requests by status", [rate("tandem_http_requests_total", "status", ORDERS)], "reqps"),
            Panel("accepting an order", quantiles("tandem_order_accept_seconds"), "s", limit=0.05),
            Panel("settling an order", quantiles("tandem_order_settle_seconds"), "s", limit=2.0),
            Panel(
                "lag in seconds",
                [Query("max by (group, topic) (tandem_reader_lag_seconds)", "{{group}} {{topic}}")], "s", width=12,
            ),
            Panel(
                "lag in records",
                [Query("sum by (group, topic) (tandem_reader_lag_records)", "{{group}} {{topic}}")], width=12,
            ),
        ),
    ),
    Dashboard(
        "tandem-consumers", "Tandem: consumers",
        (
            Panel("records processed", [rate("tandem_records_total", "group")], "reqps"),
            Panel("records published", [rate("tandem_published_total", "group")], "reqps"),
            Panel("batches", [rate("tandem_batches_total", "group")], "reqps"),
            Panel("repeats", [rate("tandem_records_total", "group", '{kind="repeat"}')], "reqps"),
            Panel("storing a batch", quantiles("tandem_batch_stage_seconds", "group"), "s"),
            Panel(
                "time by stage",
                [Query(
                    "sum by (group, stage) (rate(tandem_batch_stage_seconds_sum[$__rate_interval]))",
                    "{{group}} {{stage}}",
                )], "percentunit",
            ),
            Panel("members of the groups", [Query("tandem_group_members", "{{group}}")]),
            Panel("stopped", [Query("tandem_group_stopped", "{{group}}")]),
            Panel("parked events", [Query("tandem_parked_events", "{{group}} {{as}}")]),
            Panel("backlog in orders", [Query("max by (reader) (tandem_backlog_orders)", "{{reader}}")]),
            Panel("wait for the slowest reader", [Query("max(tandem_backlog_wait_seconds)")], "s"),
            Panel("linger", [Query("max by (instance) (tandem_order_linger_seconds)", "{{instance}}")], "s"),
        ),
    ),
    Dashboard(
        "tandem-resources", "Tandem: resources",
        (
            Panel(
                "pools, used share", [Query("tandem_pool_in_use / tandem_pool_limit", "{{instance}} {{pool}}")],
                "percentunit", width=12, limit=0.9,
            ),
            Panel(
                "connections of PostgreSQL, used share",
                [Query("tandem_database_connections / tandem_database_connections_limit", "{{database}}")],
                "percentunit", width=12, limit=0.9,
            ),
            Panel("CPU by service", [rate("process_cpu_seconds_total", "service", '{job="tandem"}')], "percentunit"),
            Panel(
                "resident memory",
                [Query('process_resident_memory_bytes{job="tandem"}', "{{service}} {{instance}}")], "bytes",
            ),
            Panel("open files", [Query('process_open_fds{job="tandem"}', "{{service}} {{instance}}")]),
            Panel(
                "oldest transaction",
                [Query("max by (group) (tandem_database_oldest_transaction_seconds)", "{{group}}")], "s", limit=60,
            ),
            Panel("free disk of the broker", [Query("tandem_disk_free_bytes / tandem_disk_size_bytes")], "percentunit"),
            Panel(
                "copies that are missing",
                [
                    Query("tandem_partitions_lacking_copies", "partitions of Kafka"),
                    Query("tandem_database_standbys_missing", "standbys of {{database}}"),
                ], limit=1,
            ),
        ),
    ),
    Dashboard(
        "tandem-kafka", "Tandem: Kafka (by kafka-exporter, in Compose)",
        (
            Panel("brokers", [Query("kafka_brokers")], of="stat"),
            Panel(
                "records appended", [Query(
                    "sum by (topic) (rate(kafka_topic_partition_current_offset[$__rate_interval]))", "{{topic}}"
                )], "reqps",
            ),
            Panel(
                "partitions without enough replicas", [Query("sum(kafka_topic_partition_under_replicated_partition)")],
                of="stat", limit=1,
            ),
            Panel(
                "lag by committed offsets",
                [Query(
                    "sum by (consumergroup, topic) (clamp_min(kafka_consumergroup_lag, 0))",  # -1: nothing committed
                    "{{consumergroup}} {{topic}}",
                )], width=WIDTH,
            ),
        ),
    ),
)  # fmt: skip


def as_json(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana reads it from a file."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["tandem"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "panels": list(_placed(dashboard.panels)),
    }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    x = y = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WIDTH:
            x, y = 0, y + HEIGHT
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if panel.limit is not None:
            steps.append({"color": "red", "value": panel.limit})
        yield {
            "id": number,
            "type": panel.of,
            "title": panel.title,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHT},
            "fieldConfig": {
                "defaults": {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}},
                "overrides": [],
            },
            "targets": [
                {
                    "refId": chr(65 + i),
                    "datasource": SOURCE,
                    "expr": query.expr,
                    "legendFormat": query.legend or "__auto",
                }
                for i, query in enumerate(panel.queries)
            ],
        }
        x += panel.width
