"""What every process counts. Names follow Prometheus' conventions: base units, `_total` for counters."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

STAGE_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

batches = Counter("tandem_batches_total", "Batches committed.", ["group"])
records = Counter("tandem_records_total", "Records processed, by whether they were new or repeats.", ["group", "kind"])
parked = Counter("tandem_parked_total", "Events parked, as root causes or behind one.", ["group", "as"])
published = Counter("tandem_published_total", "Records published and acknowledged.", ["group"])
stage_seconds = Histogram(
    "tandem_batch_stage_seconds", "Time a batch spends in a stage.", ["group", "stage"], buckets=STAGE_BUCKETS_S
)
failures = Counter("tandem_failures_total", "Failures of a batch or of a thread, by class.", ["group", "failure"])
lag = Gauge("tandem_lag_records", "Records in the log that this instance has yet to process.", ["group", "topic"])
http_requests = Counter("tandem_http_requests_total", "Responses, by route and status.", ["method", "route", "status"])
oldest_snapshot_s = Gauge(
    "tandem_database_oldest_transaction_seconds", "Age of the oldest open transaction in the database.", ["group"]
)
