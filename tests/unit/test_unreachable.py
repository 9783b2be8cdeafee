"""Why the api can send nothing: the broker is away, or the topic is missing."""

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from common.kafka.async_publisher import AsyncPublisher


def asked(error: KafkaError | None, *, away: bool = False) -> str:
    def list_topics(topic: str, _: float) -> Any:
        if away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error)})

    publisher = AsyncPublisher.__new__(AsyncPublisher)
    publisher._producer = SimpleNamespace(list_topics=list_topics)  # type: ignore[assignment]
    return publisher.unreachable("orders", 1.0)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "Kafka has no topic 'orders': 'just topics create' makes it"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "Kafka does not give access to topic 'orders': "),
    ],
)
def test_a_topic_that_is_missing_is_not_taken_for_a_broker_that_is_away(code: int, words: str) -> None:
    assert words in asked(KafkaError(code))


def test_a_broker_that_is_away_is_said_to_be() -> None:
    assert asked(None, away=True) == "Kafka cannot be reached"
    assert asked(None) == ""
