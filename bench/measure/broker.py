"""Two loads on the broker alone: the warm-up before a run, and the ceiling that the log is compared with."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from msgspec import Struct

from bench.stack import processes
from bench.stack.private import System
from common.codec import encode
from common.events import Item, Milliseconds, OrderPlaced, PlacedData, make
from common.kafka.clients import producer_config

TOPIC: Final = "bench"
PARTITIONS: Final = 12
"""The topic is made for these loads, so that the number of requests does not depend on Tandem's partitions."""
TIMEOUT_S: Final = 60.0
FROM_THE_START: Final = [TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)]
READ_AT_ONCE: Final = 10_000
LINGER_MS: Final = 5
KEYS: Final = 10_000

SECONDS_MAX: Final = 60.0
PRODUCERS: Final = 3
ROUNDS_A_WINDOW: Final = 110
WINDOW_REQUESTS: Final = ROUNDS_A_WINDOW * PRODUCERS * PARTITIONS
REQUESTS_MIN: Final = 28_000
"""Before this, two windows may agree by chance while much of the broker is not compiled yet."""
ALIKE: Final = 0.15


class Warmth(Struct, frozen=True, kw_only=True):
    """How warm the broker has become."""

    seconds: float
    cpu_us: list[float]
    """The broker's CPU a request, in windows of `WINDOW_REQUESTS`."""
    warm: bool

    def __str__(self) -> str:
        windows = ", ".join(f"{us:.0f}" for us in self.cpu_us)
        return (
            f"{len(self.cpu_us) * WINDOW_REQUESTS:,} small requests in {self.seconds:.0f} s; "
            f"the broker's CPU by {WINDOW_REQUESTS:,} of them: {windows} us each"
        )


class Rates(Struct, frozen=True, kw_only=True):
    """Records a second, and the broker's CPU microseconds a record."""

    record_bytes: int
    produced_per_s: float
    produce_cpu_us: float
    consumed_per_s: float
    consume_cpu_us: float


def is_warm(windows: Sequence[float]) -> bool:
    """Whether enough requests were handled, and the last two windows differ by less than `ALIKE`."""
    enough = len(windows) * WINDOW_REQUESTS >= REQUESTS_MIN
    return enough and abs(windows[-1] / windows[-2] - 1) < ALIKE


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


@contextmanager
def own_topic(servers: str) -> Iterator[Consumer]:
    """A topic that exists for the load only, and a consumer to be assigned to it."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(TIMEOUT_S)
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": TOPIC, "auto.offset.reset": "error", "fetch.queue.backoff.ms": 2}
    )
    try:
        yield consumer
    finally:
        consumer.close()
        admin.delete_topics([TOPIC])[TOPIC].result(TIMEOUT_S)


def warm_up(system: System, seconds_max: float = SECONDS_MAX) -> Warmth:
    """Send small requests until the broker is warm, or for `seconds_max`.

    A JVM gets warm by requests handled, not by time or records: its compilers need tens of thousands of calls and about
    30 s of CPU until a request costs a tenth of the first ones. Orders would take long, since everything else has to
    follow. Here every record is a produce request of its own and wakes a fetch, until the broker's CPU a request has
    stopped falling.
    """
    value, broker_pid = placed_event(), system.layout.pids["kafka"]
    producers = [Producer(producer_config(system.kafka, TOPIC, linger_ms=0)) for _ in range(PRODUCERS)]
    windows: list[float] = []
    began = time.monotonic()
    with own_topic(system.kafka) as consumer:
        consumer.assign(FROM_THE_START)
        while time.monotonic() - began < seconds_max and not is_warm(windows):
            before_s = processes.tree_cpu_s(broker_pid)
            for _ in range(ROUNDS_A_WINDOW):
                # A partition's next record is sent when its last one is acknowledged, so no two share a request.
                for producer in producers:
                    for partition in range(PARTITIONS):
                        producer.produce(TOPIC, value, partition=partition)
                for producer in producers:
                    assert producer.flush(TIMEOUT_S) == 0, "the broker did not take all records"
                consumer.consume(READ_AT_ONCE, 0)
            windows.append((processes.tree_cpu_s(broker_pid) - before_s) / WINDOW_REQUESTS * 1e6)
    return Warmth(seconds=time.monotonic() - began, cpu_us=windows, warm=is_warm(windows))


def rates(system: System, records: int) -> Rates:
    """Produce records of a placed order's size with the services' settings, then read them all back."""
    value = placed_event()
    keys = [f"cust-{number:06}".encode() for number in range(KEYS)]
    producer = Producer(producer_config(system.kafka, TOPIC, linger_ms=LINGER_MS))
    broker_pid = system.layout.pids["kafka"]
    clocks = []

    def read_clocks() -> None:
        clocks.append((time.perf_counter(), processes.tree_cpu_s(broker_pid)))

    with own_topic(system.kafka) as consumer:
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
        consumer.assign(FROM_THE_START)
        left = records
        while left > 0:
            messages = consumer.consume(min(READ_AT_ONCE, left), TIMEOUT_S)
            assert messages, f"{left} of {records} records did not arrive"
            left -= len(messages)
        read_clocks()
    (began, cpu), (produced, produced_cpu), (consumed, consumed_cpu) = clocks
    return Rates(
        record_bytes=len(value),
        produced_per_s=records / (produced - began),
        produce_cpu_us=(produced_cpu - cpu) / records * 1e6,
        consumed_per_s=records / (consumed - produced),
        consume_cpu_us=(consumed_cpu - produced_cpu) / records * 1e6,
    )
