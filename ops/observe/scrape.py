"""What Prometheus scrapes, and what Grafana is told: the files that Compose mounts, and those of the native stack."""

from typing import Any, Final

from common.events import SAGA
from ops.observe.rules import duration
from ops.secrets.holders import SHARED_HOST

DATABASE_OF: Final = {"order-api": "order", SAGA: "order", "payment": "payment", "inventory": "inventory"}
"""The database of each service."""
SCRAPE_EVERY_S: Final = 15
ADMIN_PORT: Final = 9000
CONSOLE: Final = "console"
ALERTMANAGER: Final = "alertmanager:9095"
PROMETHEUS: Final = "http://prometheus:9090"


def prometheus_native(
    *, targets: str, console: str, alertmanager: str, every_s: float, authority: str | None = None
) -> dict[str, Any]:
    """Prometheus beside the native stack. `targets` is the file with the admin ports of the instances; `authority` that
    by which their certificates are verified, without which they serve plain HTTP."""
    secure = {"scheme": "https", "tls_config": {"ca_file": authority}} if authority else {}
    instances = {"job_name": "tandem", "file_sd_configs": [{"files": [targets], "refresh_interval": "2s"}], **secure}
    return _prometheus([instances, _console(_static(console) | secure)], alertmanager, every_s)


def prometheus_compose(*, secure: bool = False) -> dict[str, Any]:
    """Prometheus in Compose, where a name has an address for each instance."""
    tls = {"ca_file": "/secrets/ca.pem", "server_name": SHARED_HOST}
    scheme = {"scheme": "https", "tls_config": tls} if secure else {}
    instances = {
        "job_name": "tandem",
        **scheme,
        **_by_name(*DATABASE_OF),
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
    kafka = {"job_name": "kafka", **_static("kafka-exporter:9308")}
    return _prometheus([instances, _console(_by_name(CONSOLE) | scheme), kafka], ALERTMANAGER, SCRAPE_EVERY_S)


def _console(where: dict[str, Any]) -> dict[str, Any]:
    labels = [{"target_label": label, "replacement": CONSOLE} for label in ("service", "instance")]
    return {"job_name": "tandem-console", **where, "relabel_configs": labels}


def _by_name(*names: str) -> dict[str, Any]:
    """The addresses of these names. A service knows no host of the name of its container, but answers to its address
    (see ALLOWED_HOSTS)."""
    return {"dns_sd_configs": [{"names": list(names), "type": "A", "port": ADMIN_PORT, "refresh_interval": "5s"}]}


def _static(target: str) -> dict[str, Any]:
    return {"static_configs": [{"targets": [target]}]}


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
    "providers": [
        {"name": "tandem", "folder": "Tandem", "type": "file", "options": {"path": "/var/lib/grafana/dashboards"}}
    ],
}
