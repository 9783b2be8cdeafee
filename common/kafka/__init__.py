"""The clients of Kafka: how they are set up, how to publish, what to ask the broker."""
