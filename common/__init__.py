"""What every Tandem process shares: events, the batch loop, clients of Kafka and PostgreSQL, errors, logs, metrics."""
