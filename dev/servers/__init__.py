"""The servers of the native stack: PostgreSQL, Kafka, and one process of a service."""
