"""The warm-up of a broker stops when orders arrive, and leaves nothing behind."""

import math
from typing import Final

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from common.kafka import warmth
from common.kafka.clients import client_config
from dev.servers.warmth import broker_process
from tests.servers import topic_names
from tests.stack import Stack
from tests.waiting import eventually


@pytest.fixture
def admin(stack: Stack) -> AdminClient:
    return stack.admin


CHECKS_A_WINDOW: Final = warmth.ROUNDS_A_WINDOW // warmth.ASK_EVERY_ROUNDS


@pytest.mark.parametrize(("checks", "windows"), [(10, 0), (CHECKS_A_WINDOW + 10, 1)])
def test_it_ends_when_it_is_no_longer_wanted(stack: Stack, admin: AdminClient, checks: int, windows: int) -> None:
    wanted = iter([True] * checks)
    broker = broker_process(stack.kafka.port)
    result = warmth.warm_up(
        stack.brokers, lambda: sum(broker.cpu_times()[:2]), math.inf, wanted=lambda: next(wanted, False)
    )
    assert len(result.cpu_us) == windows
    assert all(cost > 0 for cost in result.cpu_us)
    assert not result.warm
    eventually(lambda: warmth.NAME not in topic_names(admin), "the topic is deleted")
    assert warmth.NAME not in {group.group_id for group in admin.list_consumer_groups().result().valid}


def test_the_topic_that_an_interrupted_warm_up_left_is_used_from_its_end(stack: Stack, admin: AdminClient) -> None:
    admin.create_topics([NewTopic(warmth.NAME, warmth.PARTITIONS, 1)])[warmth.NAME].result()
    producer = Producer(client_config(stack.brokers, "test"))
    for number in range(warmth.PARTITIONS):  # which also waits until every partition has its leader
        producer.produce(warmth.NAME, b"left", partition=number)
    assert producer.flush(30) == 0
    with warmth.own_topic(stack.brokers, warmth.NAME) as [consumer]:
        assert [p.offset for p in consumer.assignment()] == [1] * warmth.PARTITIONS
    eventually(lambda: warmth.NAME not in topic_names(admin), "the topic is deleted")


def test_a_broker_of_nobody_is_a_clear_error() -> None:
    with pytest.raises(LookupError, match="no process of this user listens on port 1"):
        broker_process(1)
