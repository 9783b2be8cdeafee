"""Why the api can send nothing: the brokers are away, or the topic is missing."""

import asyncio

import pytest
from confluent_kafka import KafkaError

from common.config.kafka import Brokers as Address
from common.kafka.async_publisher import AsyncPublisher
from tests.unit.kafka_brokers import TOPIC, Brokers

ANSWER_S = 10.0


def asked(topic: str, error: int = 0, *, away: bool = False) -> str:
    brokers = Brokers({0: 1})
    brokers.topics[topic] = error

    async def main() -> str:
        async with brokers.running() as servers:
            if away:
                brokers.stop(1)
            publisher = AsyncPublisher(Address(servers), "test", linger_s=0, deadline_s=1)
            answer = await asyncio.to_thread(publisher.unreachable, topic, ANSWER_S)
            await publisher.close()
            return answer

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, f"Kafka has no topic {TOPIC!r}: 'just topics create' makes it"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, f"Kafka does not give access to topic {TOPIC!r}: "),
    ],
)
def test_a_topic_that_is_missing_is_not_taken_for_brokers_that_are_away(code: int, words: str) -> None:
    assert words in asked(TOPIC, code)


def test_brokers_that_are_away_are_said_to_be() -> None:
    assert asked(TOPIC, away=True) == "Kafka cannot be reached"
    assert asked(TOPIC) == ""
