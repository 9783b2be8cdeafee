"""The clients of Kafka: their settings, publishing, and queries to the broker."""
