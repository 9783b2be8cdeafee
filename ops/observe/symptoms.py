"""Every other alert: what is wrong, how long it must last, and the section of docs/OPERATIONS.md that helps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ops.observe.slos import DAY, HOUR, MINUTE, Severity

DISK_FREE_LOW: Final = 0.1
DISK_FREE_MIN: Final = 0.05
DEADLINE_S: Final = HOUR


@dataclass(frozen=True)
class Alert:
    """`expr` may contain `$age` for `age_s`, which a drill shortens with all other times. A `cause` explains other
    alerts, and so is reported without waiting for them."""

    name: str
    expr: str
    for_s: int
    severity: Severity
    section: str
    """The anchor in OPERATIONS."""
    summary: str
    cause: bool = False
    age_s: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


def _of_group(database_of: str = "group") -> dict[str, str]:
    """The labels by which one alert can inhibit another of the same service or database."""
    label = f"$labels.{database_of}"
    return {"service": f"{{{{ {label} }}}}", "database": f'{{{{ reReplaceAll "-.*" "" {label} }}}}'}


SYMPTOMS: Final = (
    Alert(
        "TandemKafkaAway", 'tandem_source_up{source="kafka"} == 0', MINUTE, "page", "the-broker-is-away",
        "Kafka does not answer", cause=True,
    ),
    Alert(
        "TandemDatabaseAway", 'tandem_source_up{source!="kafka"} == 0', MINUTE, "page", "a-database-is-away",
        "the {{ $labels.source }} database does not answer", cause=True, labels={"database": "{{ $labels.source }}"},
    ),
    Alert(
        "TandemApiDown",
        'sum(up{job="tandem", service="order-api"}) == 0 or absent(up{job="tandem", service="order-api"})', MINUTE,
        "page", "not-ready", "no instance of the order api answers", cause=True,
        labels={"service": "order-api", "database": "order"},
    ),
    Alert(
        "TandemConsumerGone", "tandem_group_members == 0", MINUTE, "page", "lag-grows",
        "the consumer group {{ $labels.group }} has no member", cause=True, labels=_of_group(),
    ),
    Alert(
        "TandemLossDetected",
        "max by (group) (tandem_loss_detected) == 1 or max by (group) (tandem_reader_past_end_records) > 0", 0, "page",
        "loss-detected", "{{ $labels.group }} has detected a loss and waits, or its positions are past the end of the "
        "log", cause=True, labels=_of_group(),
    ),
    Alert(
        "TandemWorkerEnded", "max by (group) (tandem_worker_ended) == 1", 0, "page", "not-ready",
        "{{ $labels.group }} has ended and waits for an operator", cause=True, labels=_of_group(),
    ),
    Alert(
        "TandemGroupStopped", "tandem_group_stopped == 1", 0, "page", "parked-events",
        "too many events were parked: {{ $labels.group }} waits for 'just dlq resume'", cause=True, labels=_of_group(),
    ),
    Alert(
        "TandemEventsParked", 'tandem_parked_events{as="root"} > 0', MINUTE, "ticket", "parked-events",
        "{{ $labels.group }} has {{ $value }} root events parked", labels=_of_group(),
    ),
    Alert(
        "TandemViolation", "max by (statement) (tandem_proof_violations) > 0", 0, "page",
        "verify-says-violated-or-unproven", "statement {{ $labels.statement }} is violated {{ $value }} times",
        cause=True,
    ),
    Alert(
        "TandemProofTooOld", "tandem_proof_age_seconds > $age", 5 * MINUTE, "ticket",
        "verify-says-violated-or-unproven", "not all statements have been proved for {{ $value | humanizeDuration }}",
        age_s=HOUR,
    ),
    Alert(
        "TandemConsoleDown", 'up{job="tandem-console"} == 0 or absent(up{job="tandem-console"})', 5 * MINUTE, "page",
        "metrics-and-alerts", "the console does not answer, so the alerts about lag, parked events, databases, Kafka "
        "and the proof are blind", cause=True,
    ),
    Alert(
        "TandemDiskFull", f"tandem_disk_free_bytes < {DISK_FREE_MIN} * tandem_disk_size_bytes", 0, "page",
        "the-disk-is-full", "less than 5 % of a broker's disk is free", cause=True,
    ),
    Alert(
        "TandemDiskFilling", f"tandem_disk_free_bytes < {DISK_FREE_LOW} * tandem_disk_size_bytes", 5 * MINUTE, "ticket",
        "the-disk-is-full", "less than 10 % of a broker's disk is free",
    ),
    Alert(
        "TandemCopiesMissing", "tandem_partitions_lacking_copies > 0", 5 * MINUTE, "ticket", "three-brokers",
        "{{ $value }} partitions of Kafka have fewer copies than they should: a broker is away, or has not caught up",
    ),
    Alert(
        "TandemStandbyMissing", "tandem_database_standbys_missing > 0", 5 * MINUTE, "ticket", "failover",
        "no standby follows the {{ $labels.database }} database: there is one copy of it, and with STANDBYS=1 its "
        "commits wait",
    ),
    Alert(
        "TandemInstanceDown", 'up{job="tandem"} == 0', 2 * MINUTE, "ticket", "not-ready",
        "{{ $labels.instance }} of {{ $labels.service }} does not answer",
    ),
    Alert(
        "TandemNotReady", "tandem_ready == 0", 2 * MINUTE, "page", "not-ready",
        "{{ $labels.instance }} of {{ $labels.service }} is not ready; its /readyz says why",
    ),
    Alert(
        "TandemDegraded", "tandem_degraded > 0", 2 * MINUTE, "ticket", "not-ready",
        "{{ $labels.instance }} of {{ $labels.service }} is degraded; its /readyz says why",
    ),
    Alert(
        "TandemLagging", "max by (group) (tandem_reader_lag_seconds) > 60", 5 * MINUTE, "page", "lag-grows",
        "{{ $labels.group }} is {{ $value | humanizeDuration }} behind the log", labels=_of_group(),
    ),
    Alert(
        "TandemOrderStuck", f"tandem_oldest_unsettled_seconds > {DEADLINE_S + 300}", 5 * MINUTE, "page",
        "an-order-is-stuck",
        "an order has been open for {{ $value | humanizeDuration }}, which is past the deadline",
    ),
    Alert(
        "TandemSaturated", "tandem_pool_in_use > 0.9 * tandem_pool_limit", 5 * MINUTE, "ticket", "scaling",
        "{{ $labels.instance }}: the pool {{ $labels.pool }} is nearly used up",
    ),
    Alert(
        "TandemConnectionsLow", "tandem_database_connections > 0.9 * tandem_database_connections_limit", 5 * MINUTE,
        "ticket", "scaling", "PostgreSQL has hardly a connection left for {{ $labels.database }}",
    ),
    Alert(
        "TandemClientsRefused", 'increase(tandem_http_connections_shed_total{reason="refused"}[$age]) > 0', 0, "ticket",
        "connections", "{{ $labels.instance }} refuses connections for lack of room", age_s=5 * MINUTE,
    ),
    Alert(
        "TandemCertificateExpires",
        "tandem_certificate_expiry_timestamp_seconds - time() < $age", 0, "ticket", "a-certificate-expires",
        "{{ $labels.instance }}: the certificate {{ $labels.certificate }} expires in {{ $value | humanizeDuration }}",
        age_s=14 * DAY,
    ),
    Alert(
        "TandemCertificateEnds",
        "tandem_certificate_expiry_timestamp_seconds - time() < $age", 0, "page", "a-certificate-expires",
        "{{ $labels.instance }}: the certificate {{ $labels.certificate }} expires in {{ $value | humanizeDuration }}, "
        "and then nobody connects", cause=True, age_s=2 * DAY,
    ),
    Alert(
        "TandemTablesGrow", "max by (group) (tandem_database_oldest_transaction_seconds) > 60", 5 * MINUTE, "ticket",
        "tables-grow", "a transaction is open for {{ $value | humanizeDuration }}", labels=_of_group(),
    ),
    Alert(
        "TandemBug", 'sum by (service, route) (increase(tandem_http_requests_total{status="500"}[$age])) > 0', 0,
        "ticket", "log-lines", "requests to {{ $labels.route }} of {{ $labels.service }} ended with 500: a bug",
        age_s=5 * MINUTE,
    ),
)  # fmt: skip

SLOW: Final = ("TandemAcceptErrors", "TandemAcceptSlow", "TandemSettleSlow", "TandemOrderStuck", "TandemProofTooOld")
"""What follows from any cause, wherever it lies."""
_OF_SERVICE: Final = ("TandemInstanceDown", "TandemNotReady", "TandemDegraded", "TandemLagging")

INHIBITIONS: Final = (
    (("TandemCertificateEnds",), ("TandemCertificateExpires",), ("instance", "certificate")),
    (
        ("TandemDiskFull",),
        ("TandemDiskFilling", "TandemKafkaAway", "TandemDatabaseAway", "TandemCopiesMissing", "TandemStandbyMissing"),
        (),
    ),
    (("TandemDiskFull", "TandemKafkaAway"), (*_OF_SERVICE, "TandemConsumerGone", *SLOW), ()),
    (("TandemDatabaseAway",), (*_OF_SERVICE, "TandemConsumerGone", "TandemStandbyMissing"), ("database",)),
    (("TandemLossDetected", "TandemWorkerEnded"), ("TandemConsumerGone", *_OF_SERVICE), ("service",)),
    (("TandemApiDown", "TandemConsumerGone", "TandemGroupStopped"), _OF_SERVICE, ("service",)),
    (("TandemGroupStopped",), ("TandemEventsParked",), ("service",)),
    (
        (
            "TandemDatabaseAway", "TandemLossDetected", "TandemWorkerEnded", "TandemApiDown", "TandemConsumerGone",
            "TandemGroupStopped",
        ),
        SLOW,
        (),
    ),
    (("TandemViolation", "TandemConsoleDown", "TandemEventsParked"), ("TandemProofTooOld",), ()),
)  # fmt: skip
"""Causes, what they explain, and the labels that both must share."""
