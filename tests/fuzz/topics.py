"""Mutated events in the real topics: consumers park them, and everything else goes on.

Only what a decoder refuses is sent: a forged event that is well formed is a decision, which `verify` would rightly call
a violation. The keys are few, so that most events follow a root: a hundred roots would pass for a bad deployment, and
stop the consumer.
"""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Final

from confluent_kafka import Producer

from common.codec import encode
from common.consume.records import Record, decode
from common.errors import Poison
from common.events import INVENTORY, ORDERS, PAYMENTS
from common.kafka.broker import Partition
from common.kafka.clients import producer_config
from order.api.place.ids import new_order_id
from tests.fuzz import events
from tests.stack import Stack
from tests.waiting import eventually

KEYS: Final = 25
KEYLESS: Final = 5
PARKED_S: Final = 120.0
READERS: Final = {"payment": (ORDERS,), "inventory": (ORDERS,), "order": (ORDERS, PAYMENTS, INVENTORY)}


class Poisoned:
    """Sends mutated events to a stack, and waits for what becomes of them."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._seed = seed
        self._sent: Counter[str] = Counter()
        config = producer_config(stack.brokers, "fuzz", linger_ms=5)
        self._producer = Producer({**config, "log_level": 0})
        self._customers = [f"poisoned-{number:02}" for number in range(KEYS)]

    def send(self, count: int) -> None:
        """Append so many mutated events, each refused by its topic's decoder."""
        for number in itertools.count():
            if self._sent.total() == count:
                break
            drawn = random.Random(f"{self._seed}/topics/{number}")
            customer_id = drawn.choice(self._customers)
            event = drawn.choice(events.valid_events(new_order_id(), customer_id))
            value = events.mutated_event(drawn, encode(event))
            key = None if self._sent.total() < KEYLESS else customer_id.encode()
            for topic in events.topics_with(event):
                record = Record(Partition(topic, 0), 0, events.AT, key, value)
                if topic in READERS["order"] and _refused(record):
                    self._producer.produce(topic, value, key)
                    self._producer.poll(0)
                    self._sent[topic] += 1
        self._producer.flush(30)

    def await_parked(self) -> dict[str, tuple[int, int]]:
        """Wait until each service has parked what came to it; returns by service how many, and how many were roots."""
        return {service: self._await_parked(service, topics) for service, topics in READERS.items()}

    def _await_parked(self, service: str, topics: Sequence[str]) -> tuple[int, int]:
        expected = sum(self._sent[topic] for topic in topics)
        counted = "SELECT count(*), count(*) FILTER (WHERE root) FROM parked_events WHERE state = 'parked'"

        def all_parked() -> tuple[int, int] | None:
            [(parked, roots)] = self._stack.query(service, counted)
            return (parked, roots) if parked == expected else None

        return eventually(all_parked, f"{expected} events are parked in {service}", PARKED_S)


def _refused(record: Record) -> bool:
    try:
        decode(record)
    except Poison:
        return True
    return False
