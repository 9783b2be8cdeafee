"""Metrics that page: what is sampled beside the services, the SLOs, the alerts and the dashboards.

`samples` reads the databases and the broker, `gauges` shows what they said and how the proof stands; the console does
both, and serves them. `rules`, `scrape`, `dashboards` and `reference` are what Prometheus, Alertmanager, Grafana and
docs/OPERATIONS.md are made from: `python -m ops.observe` writes their files, and a test keeps them fresh.
"""
