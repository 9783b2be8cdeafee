"""Warms the broker up with many small requests. `python -m bench.stack.warm SERVERS BROKER-PID SECONDS-MAX`

A JVM gets warm by requests handled, not by time or records: its compilers take the tens of thousands of calls to a
method, and about 30 s of CPU, until a request costs a tenth of the first ones. Orders would be a slow way there, since
everything else has to follow. Here every record is a produce request of its own and wakes a fetch, on a topic that is
deleted afterwards, until the broker's CPU a request has stopped falling. Prints `Warmth` as JSON.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from msgspec import Struct

from bench.stack.broker import placed_event
from bench.stack.processes import tree_cpu_s
from bench.stack.system import System
from common.kafka.clients import producer_config

TOPIC: Final = "bench-warm-up"
PRODUCERS: Final = 3
ROUNDS_A_WINDOW: Final = 110
PARTITIONS: Final = 12  # of a topic of its own: whatever the orders have, it makes as many requests
WINDOW_REQUESTS: Final = ROUNDS_A_WINDOW * PRODUCERS * PARTITIONS
# Before, two windows are alike now and then although much is not compiled yet.
REQUESTS_MIN: Final = 28_000
ALIKE: Final = 0.15
READ_AT_ONCE: Final = 1_000


class Warmth(Struct, frozen=True, kw_only=True):
    """How warm the broker has become."""

    requests: int
    """Produce requests of one record; each was followed by a fetch."""
    seconds: float
    broker_cpu_us: list[float]
    """A request, in windows of `WINDOW_REQUESTS`."""
    warm: bool
    """Whether the last two windows agree."""


def is_warm(windows: Sequence[float]) -> bool:
    """Whether enough was handled, and the last two windows differ by less than `ALIKE`."""
    enough = len(windows) * WINDOW_REQUESTS >= REQUESTS_MIN
    return enough and abs(windows[-1] / windows[-2] - 1) < ALIKE


def warm_up(servers: str, broker_pid: int, seconds_max: float) -> Warmth:
    """Until the broker is warm, or for so long."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    [created] = admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)]).values()
    created.result(20)
    value = placed_event()
    producers = [Producer(producer_config(servers, "bench", linger_ms=0)) for _ in range(PRODUCERS)]
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "bench", "auto.offset.reset": "error", "fetch.queue.backoff.ms": 2}
    )
    consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)])
    windows: list[float] = []
    began = time.monotonic()
    try:
        while time.monotonic() - began < seconds_max:
            before_s = tree_cpu_s(broker_pid)
            for _ in range(ROUNDS_A_WINDOW):
                # Nothing is batched: a partition's next record is handed over when its last one is acknowledged.
                for producer in producers:
                    for partition in range(PARTITIONS):
                        producer.produce(TOPIC, value, partition=partition)
                for producer in producers:
                    assert producer.flush(20) == 0, "the broker did not take all records"
                consumer.consume(READ_AT_ONCE, 0)
            windows.append((tree_cpu_s(broker_pid) - before_s) / WINDOW_REQUESTS * 1e6)
            if is_warm(windows):
                break
    finally:
        consumer.close()
        for future in admin.delete_topics([TOPIC]).values():
            future.result(20)
    return Warmth(
        requests=len(windows) * WINDOW_REQUESTS,
        seconds=time.monotonic() - began,
        broker_cpu_us=windows,
        warm=is_warm(windows),
    )


def line(warmth: Warmth) -> str:
    """What became of it, for people."""
    windows = ", ".join(f"{us:.0f}" for us in warmth.broker_cpu_us)
    return (
        f"{warmth.requests:,} small requests in {warmth.seconds:.0f} s cost the broker "
        f"{windows} us each, by {WINDOW_REQUESTS:,}"
    )


def broker_of(system: System, seconds_max: float) -> Warmth:
    """Warm a stack's broker up from a process of its own, whose clients end with it."""
    servers = system.layout.variables["KAFKA_BOOTSTRAP_SERVERS"]
    command = [sys.executable, "-m", "bench.stack.warm", servers, str(system.layout.pids["kafka"]), str(seconds_max)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=Warmth)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(warm_up(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
