"""What a producer's error says about the record: whether the log may have it."""

import pytest
from confluent_kafka import KafkaError

from common.kafka.clients import Delivery, delivery_of


@pytest.mark.parametrize(
    ("code", "delivery"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, Delivery.REFUSED),
        (KafkaError.INVALID_RECORD, Delivery.REFUSED),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Delivery.REFUSED),
        (KafkaError._QUEUE_FULL, Delivery.NOT_TAKEN),
        (KafkaError._UNKNOWN_TOPIC, Delivery.NOT_TAKEN),
        (KafkaError._MSG_TIMED_OUT, Delivery.UNKNOWN),
        (KafkaError._PURGE_INFLIGHT, Delivery.UNKNOWN),
        (KafkaError.REQUEST_TIMED_OUT, Delivery.UNKNOWN),
        (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, Delivery.UNKNOWN),
        (KafkaError.KAFKA_STORAGE_ERROR, Delivery.UNKNOWN),
        (KafkaError._FATAL, Delivery.UNKNOWN),
    ],
)
def test_only_a_refusal_says_that_the_log_does_not_have_it(code: int, delivery: Delivery) -> None:
    assert delivery_of(KafkaError(code)) is delivery
