"""The development stack: PostgreSQL, Kafka and the services, run natively or by Docker Compose."""
