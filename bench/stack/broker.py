"""What the broker does for a client that does nothing else. `python -m bench.stack.broker SERVERS BROKER-PID MESSAGES`

Produces events of a placed order's size into a topic of its own, with the services' producer settings, then reads them
all back, and prints rates and CPU as JSON.
"""

import os
import sys
import time
from typing import Final

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from msgspec import Struct

from bench.stack.processes import own_cpu_s, tree_cpu_s
from common.events import Item, Milliseconds, OrderPlaced, PlacedData, encode, make
from common.kafka.clients import producer_config
from dev.settings import TOPIC_PARTITIONS

TOPIC: Final = "bench-ceiling"
LINGER_MS: Final = 5
READ_AT_ONCE: Final = 10_000
READ_TIMEOUT_S: Final = 20.0


class BrokerRates(Struct, frozen=True, kw_only=True):
    """Records a second, and CPU microseconds a record of either side."""

    record_bytes: int
    produced_per_s: float
    produce_broker_cpu_us: float
    produce_client_cpu_us: float
    consumed_per_s: float
    consume_broker_cpu_us: float
    consume_client_cpu_us: float


def placed_event() -> bytes:
    """A placed order as the api writes it."""
    data = PlacedData(
        order_id="01997c00-0000-7000-8000-000000000000",
        customer_id="cust-000001",
        items=(Item("sku-0001", 1, 1_999),),
        amount=1_999,
        currency="EUR",
    )
    return encode(make(OrderPlaced, data, at=Milliseconds(0), traceparent="00-" + "1" * 32 + "-" + "1" * 16 + "-01"))


class Clocks:
    """Wall time and the CPU of both sides, from when it is made."""

    def __init__(self, broker_pid: int) -> None:
        self._broker_pid = broker_pid
        self._began = self._read()

    def _read(self) -> tuple[float, float, float]:
        return time.perf_counter(), tree_cpu_s(self._broker_pid), own_cpu_s(os.getpid())

    def since(self, records: int) -> tuple[float, float, float]:
        """Records a second, CPU microseconds a record of the broker and of this client."""
        elapsed_s, broker_s, client_s = (now - then for now, then in zip(self._read(), self._began, strict=True))
        return records / elapsed_s, broker_s / records * 1e6, client_s / records * 1e6


def measure(servers: str, broker_pid: int, messages: int) -> BrokerRates:
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    [created] = admin.create_topics([NewTopic(TOPIC, TOPIC_PARTITIONS, 1)]).values()
    created.result(20)
    value = placed_event()
    producer = Producer(producer_config(servers, "bench", linger_ms=LINGER_MS))
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench", "auto.offset.reset": "error"})
    try:
        keys = [f"cust-{number:06}".encode() for number in range(10_000)]
        clocks = Clocks(broker_pid)
        for number in range(messages):
            while True:
                try:
                    producer.produce(TOPIC, value, keys[number % len(keys)])
                    break
                except BufferError:
                    producer.poll(0.05)
        assert producer.flush(60) == 0, "the broker did not take all records"
        produced = clocks.since(messages)
        clocks = Clocks(broker_pid)
        consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(TOPIC_PARTITIONS)])
        left = messages
        while left > 0:
            found = consumer.consume(min(READ_AT_ONCE, left), READ_TIMEOUT_S)
            assert found, f"{left} records did not come"
            left -= len(found)
        consumed = clocks.since(messages)
    finally:
        consumer.close()
        for future in admin.delete_topics([TOPIC]).values():
            future.result(20)
    return BrokerRates(
        record_bytes=len(value),
        produced_per_s=produced[0],
        produce_broker_cpu_us=produced[1],
        produce_client_cpu_us=produced[2],
        consumed_per_s=consumed[0],
        consume_broker_cpu_us=consumed[1],
        consume_client_cpu_us=consumed[2],
    )


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
