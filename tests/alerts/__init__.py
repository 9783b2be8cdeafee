"""The alerts, tried with a real Prometheus and Alertmanager: each fault raises exactly its alert."""
