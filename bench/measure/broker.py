"""Two loads on the broker alone: the warm-up before a run, and the ceiling that the log is compared with."""

import time
from typing import Final

from confluent_kafka import Producer
from msgspec import Struct

from bench.stack import processes
from bench.stack.private import System
from common.kafka import warmth
from common.kafka.clients import producer_config
from common.kafka.warmth import READ_AT_ONCE, SECONDS_MAX, TIMEOUT_S, Warmth, own_topic, placed_event, read

TOPIC: Final = "bench"
LINGER_MS: Final = 5
KEYS: Final = 10_000


class Rates(Struct, frozen=True, kw_only=True):
    """Records a second, and the broker's CPU microseconds a record."""

    record_bytes: int
    produced_per_s: float
    produce_cpu_us: float
    consumed_per_s: float
    consume_cpu_us: float


def warm_up(system: System, seconds_max: float = SECONDS_MAX) -> Warmth:
    """Warm the system's broker, see `common.kafka.warmth`."""
    return warmth.warm_up(system.brokers, lambda: cpu_s(system), seconds_max)


def cpu_s(system: System) -> float:
    """The CPU seconds of all brokers."""
    pids = [pid for name, pid in system.layout.pids.items() if processes.group_of(name) == "broker"]
    return sum(map(processes.tree_cpu_s, pids))


def rates(system: System, records: int) -> Rates:
    """Produce records of a placed order's size with the services' settings, then read them all back."""
    value = placed_event()
    keys = [f"cust-{number:06}".encode() for number in range(KEYS)]
    producer = Producer(producer_config(system.brokers, TOPIC, linger_ms=LINGER_MS))
    clocks = []

    def read_clocks() -> None:
        clocks.append((time.perf_counter(), cpu_s(system)))

    with own_topic(system.brokers, TOPIC) as [consumer]:
        read_clocks()
        for number in range(records):
            while True:
                try:
                    producer.produce(TOPIC, value, keys[number % KEYS])
                    break
                except BufferError:
                    producer.poll(0.05)
        assert producer.flush(TIMEOUT_S) == 0, "the broker did not take all records"
        read_clocks()
        left = records
        while left > 0:
            arrived = read(consumer, min(READ_AT_ONCE, left), TIMEOUT_S)
            assert arrived, f"{left} of {records} records did not arrive"
            left -= arrived
        read_clocks()
    (began, cpu), (produced, produced_cpu), (consumed, consumed_cpu) = clocks
    return Rates(
        record_bytes=len(value),
        produced_per_s=records / (produced - began),
        produce_cpu_us=(produced_cpu - cpu) / records * 1e6,
        consumed_per_s=records / (consumed - produced),
        consume_cpu_us=(consumed_cpu - produced_cpu) / records * 1e6,
    )
