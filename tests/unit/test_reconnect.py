"""How often a client tries to reach a broker that is away. The brokers are librdkafka's mock."""

import ctypes
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from confluent_kafka import OFFSET_INVALID, TopicPartition, cimpl
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from common.config.kafka import Brokers
from common.kafka.clients import client_config
from common.kafka.identity import AdminClient

TOPIC: Final = "orders"
WAIT_S: Final = 0.5
ATTEMPTS_MAX: Final = 20
"""With the pauses of `client_config`, there are up to three within `WAIT_S`; without pauses, 500 and more."""


class MockBrokers:
    """Two brokers, each of which leads a partition. The Python library has no call that takes a broker down."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(cimpl.__file__)  # it has the functions of what it is linked with: librdkafka
        for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        problem = ctypes.create_string_buffer(512)
        config = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._library.rd_kafka_conf_set(config, b"log_level", b"0", problem, len(problem))
        self._owner = ctypes.c_void_p(self._library.rd_kafka_new(0, config, problem, len(problem)))
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._owner, 2))
        self._library.rd_kafka_mock_topic_create(self._cluster, TOPIC.encode(), 2, 1)
        for number in range(2):
            self._library.rd_kafka_mock_partition_set_leader(self._cluster, TOPIC.encode(), number, number + 1)
        self.brokers = Brokers(self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    def take_first_down(self) -> None:
        """It closes every connection at once. The other broker answers too late to say that it is gone."""
        self._library.rd_kafka_mock_broker_set_rtt(self._cluster, 2, 60_000)
        self._library.rd_kafka_mock_broker_set_down(self._cluster, 1)

    def close(self) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._owner)


@pytest.fixture
def mock() -> Iterator[MockBrokers]:
    mock = MockBrokers()
    yield mock
    mock.close()


def test_a_client_pauses_between_attempts_while_a_request_waits_for_a_broker(mock: MockBrokers) -> None:
    first: dict[str, Any] = {"state": "UP"}
    """What the client says of the first broker."""

    def note(statistics: str) -> None:
        for each in json.loads(statistics)["brokers"].values():
            if each["nodeid"] == 1:
                first.update(each)

    admin = AdminClient({**client_config(mock.brokers, "test"), "statistics.interval.ms": 50, "stats_cb": note})
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    for answer in admin.list_offsets({TopicPartition(TOPIC, number): latest for number in range(2)}).values():
        assert answer.result(10.0).offset == 0
    mock.take_first_down()
    while first["state"] == "UP":
        admin.poll(1.0)
    [answer] = admin.list_offsets({TopicPartition(TOPIC, 0): latest}, request_timeout=WAIT_S).values()
    assert answer.result(10.0).offset == OFFSET_INVALID  # so it says that there was no answer in time
    del first["connects"]
    while "connects" not in first:
        admin.poll(1.0)
    assert first["connects"] <= ATTEMPTS_MAX
