"""What Prometheus scrapes, and what Grafana is told: the files that Compose mounts, and those of the native stack."""

from typing import Any, Final

from common.events import SAGA
from ops.observe.rules import duration

DATABASE_OF: Final = {"order-api": "order", SAGA: "order", "payment": "payment", "inventory": "inventory"}
"""The database of each service."""
SCRAPE_EVERY_S: Final = 15
ADMIN_PORT: Final = 9000
WATCH: Final = "watch:8085"
ALERTMANAGER: Final = "alertmanager:9095"
PROMETHEUS: Final = "http://prometheus:9090"


def prometheus_native(*, watch: str, alertmanager: str, every_s: float = SCRAPE_EVERY_S) -> dict[str, Any]:
    """Prometheus beside the native stack, whose instances stand in `targets.json` (`dev.observe`)."""
    instances = {"job_name": "tandem", "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "2s"}]}
    return _prometheus([instances, _static("tandem-watch", watch)], alertmanager, every_s)


def prometheus_compose() -> dict[str, Any]:
    """Prometheus in Compose, where a name has an address for each instance."""
    instances = {
        "job_name": "tandem",
        "dns_sd_configs": [{"names": list(DATABASE_OF), "type": "A", "port": ADMIN_PORT, "refresh_interval": "5s"}],
        "relabel_configs": [
            {"source_labels": ["__meta_dns_name"], "target_label": "service"},
            {
                "source_labels": ["__meta_dns_name"],
                "regex": "([a-z]+).*",
                "target_label": "database",
                "replacement": "$1",
            },
        ],
    }
    # The names of containers are no hosts that a service knows: it answers to its address (see ALLOWED_HOSTS).
    watch = {"job_name": "tandem-watch", "dns_sd_configs": [{"names": ["watch"], "type": "A", "port": 8085}]}
    kafka = _static("kafka", "kafka-exporter:9308")
    return _prometheus([instances, watch, kafka], ALERTMANAGER, SCRAPE_EVERY_S)


def _static(job: str, target: str) -> dict[str, Any]:
    return {"job_name": job, "static_configs": [{"targets": [target]}]}


def _prometheus(jobs: list[dict[str, Any]], alertmanager: str, every_s: float) -> dict[str, Any]:
    every = duration(every_s)
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": jobs,
    }


GRAFANA_SOURCE: Final = {
    "apiVersion": 1,
    "datasources": [
        {"name": "Prometheus", "uid": "prometheus", "type": "prometheus", "url": PROMETHEUS, "isDefault": True},
        {"name": "Jaeger", "uid": "jaeger", "type": "jaeger", "url": "http://jaeger:16686"},
    ],
}
GRAFANA_DASHBOARDS: Final = {
    "apiVersion": 1,
    "providers": [{"name": "tandem", "folder": "Tandem", "options": {"path": "/var/lib/grafana/dashboards"}}],
}
