"""The samples and the proof as metrics."""

import threading
import time
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from common.events import READS, now
from ops.observe.samples import BrokerSample, DatabaseSample, lag, oldest_unsettled_s, positions_of
from ops.tool import GROUP_OF

STALE_S: Final = 10.0
"""A source that has not answered for this long is down."""
KAFKA: Final = "kafka"


class Gauges:
    """Shows the newest sample of each source. Of a source that is away, the last one stands."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        self._up = gauge("tandem_source_up", "Whether the console reaches a database or Kafka: 1 or 0.", ["source"])
        self._lag = gauge(
            "tandem_reader_lag_records", "Records that a group has yet to process, by its stored positions.",
            ["group", "topic"],
        )  # fmt: skip
        self._lag_s = gauge(
            "tandem_reader_lag_seconds", "Age of the first record that a group has yet to process.", ["group", "topic"]
        )
        self._past_end = gauge(
            "tandem_reader_past_end_records", "Records by which a group's positions are past the end of the log.",
            ["group", "topic"],
        )  # fmt: skip
        self._members = gauge("tandem_group_members", "Instances in the consumer group, as the broker says.", ["group"])
        self._stopped = gauge(
            "tandem_group_stopped", "Whether the group waits for 'just dlq resume': 1 or 0.", ["group"]
        )
        self._parked = gauge("tandem_parked_events", "Parked events that are not done.", ["group", "as"])
        self._unsettled = gauge(
            "tandem_oldest_unsettled_seconds", "Age of the oldest order that is not settled; 0 if there is none."
        )
        self._connections = gauge(
            "tandem_database_connections", "Connections to the PostgreSQL server of a database.", ["database"]
        )
        self._connections_max = gauge(
            "tandem_database_connections_limit", "How many it allows to ordinary roles.", ["database"]
        )
        self._standbys_missing = gauge(
            "tandem_database_standbys_missing",
            "Standbys of a database, by its URL, that do not follow it.",
            ["database"],
        )
        self._lacking_copies = gauge(
            "tandem_partitions_lacking_copies",
            "Partitions of Kafka with too few copies that are up to date.",
        )
        self._disk = gauge("tandem_disk_size_bytes", "Size of the fullest volume on which a broker keeps its topics.")
        self._disk_free = gauge("tandem_disk_free_bytes", "What is free on it.")
        self._lock = threading.Lock()
        self._databases: dict[str, DatabaseSample] = {}
        self._broker: BrokerSample | None = None
        self._answered_s: dict[str, float] = {}
        for source in (*GROUP_OF, KAFKA):
            self._up.labels(source).set_function(partial(self._is_up, source))

    def _is_up(self, source: str) -> bool:
        return time.monotonic() - self._answered_s.get(source, -STALE_S) < STALE_S

    def take_database(self, database: str, sample: DatabaseSample) -> None:
        group = GROUP_OF[database]
        self._stopped.labels(group).set(sample.stopped is not None)
        for root, kind in ((True, "root"), (False, "follower")):
            self._parked.labels(group, kind).set(sample.parked.get(root, 0))
        self._connections.labels(database).set(sample.connections["taken"])
        self._connections_max.labels(database).set(sample.connections["allowed"] - sample.connections["reserved"])
        self._standbys_missing.labels(database).set(sample.standbys_missing)
        with self._lock:
            self._databases[database] = sample
            self._answered_s[database] = time.monotonic()
            self._show_lag()

    def take_broker(self, sample: BrokerSample) -> None:
        for group, members in sample.members.items():
            self._members.labels(group).set(members)
        self._lacking_copies.set(sample.lacking_copies)
        if known := [folder for folder in sample.folders if folder.size > 0]:
            fullest = min(known, key=lambda folder: folder.usable / folder.size)
            self._disk.set(fullest.size)
            self._disk_free.set(fullest.usable)
        with self._lock:
            self._broker = sample
            self._answered_s[KAFKA] = time.monotonic()
            self._show_lag()

    def databases(self) -> dict[str, DatabaseSample]:
        with self._lock:
            return dict(self._databases)

    def _show_lag(self) -> None:
        if self._broker is None or len(self._databases) < len(READS):
            return
        at = now()
        lags = lag(positions_of(self._databases), self._broker, at)
        for (group, topic), behind in lags.items():
            self._lag.labels(group, topic).set(behind.records)
            self._lag_s.labels(group, topic).set(behind.seconds)
            self._past_end.labels(group, topic).set(behind.past_end)
        self._unsettled.set(oldest_unsettled_s(self._databases["order"], lags, at))


class ProofGauges:
    """How the six statements stand. Gauges, since a repaired violation no longer counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge, by_statement = partial(Gauge, registry=registry), ["statement"]
        self._violations = gauge("tandem_proof_violations", "Violations that the proof found.", by_statement)
        self._unproven = gauge("tandem_proof_unproven", "What the proof could not prove.", by_statement)
        self._checked = gauge("tandem_proof_checked", "What the proof has checked.", by_statement)
        age = gauge("tandem_proof_age_seconds", "Time since all six statements were proved; since the start if never.")
        self._proved_s = time.monotonic()
        age.set_function(lambda: time.monotonic() - self._proved_s)

    def take(self, statement: int, *, violations: int, unproven: int, checked: int) -> None:
        name = str(statement)
        self._violations.labels(name).set(violations)
        self._unproven.labels(name).set(unproven)
        self._checked.labels(name).set(checked)

    def set_age(self, seconds: float) -> None:
        """All statements were proved so long ago: a proof says nothing about moments after its beginning."""
        self._proved_s = time.monotonic() - seconds
