"""A producer that asks a broker once for all partitions that it leads, which librdkafka does not (its issue 1700)."""
