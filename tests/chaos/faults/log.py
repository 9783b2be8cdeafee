"""Faults in the log: rubbish, and events that come a second time."""

import random
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from common.events import READERS
from common.kafka.broker import Partition, log_bounds
from common.kafka.clients import client_config, producer_config
from dev.settings import SERVICES
from tests.chaos.arena import BALANCE, Arena
from tests.chaos.faults.fault import Injected
from tests.chaos.schedule import Fault
from tests.waiting import eventually

AGAIN: Final = 300
REWOUND: Final = 300
READ_S: Final = 10.0
_PARKED: Final = "SELECT topic, partition, \"offset\" FROM parked_events WHERE key = %s AND root AND state = 'parked'"
_OPEN: Final = "SELECT count(*) FROM parked_events WHERE key = %s AND state <> 'done'"
_DATABASE: Final = {service.name: service.database for service in SERVICES}


def _config(arena: Arena) -> dict[str, Any]:
    return client_config(arena.brokers, "chaos")


def _producer(arena: Arena) -> Producer:
    return Producer(producer_config(arena.brokers, "chaos", linger_ms=5))


@contextmanager
def poison(arena: Arena, fault: Fault) -> Injected:
    """A truncated event, with an order of the same customer behind it. An operator discards it."""
    customer = f"poisoned-{fault.seed}"
    key = customer.encode()
    arena.account(customer, BALANCE)
    producer = _producer(arena)
    producer.produce(fault.target, b'{"specversion":"1.0","type":"order.placed","subject":', key)
    producer.flush(READ_S)
    readers = [_DATABASE[group] for group in READERS[fault.target]]
    order_id = eventually(lambda: _place(arena, customer), "an order behind the poison is accepted")
    for database in readers:
        eventually(lambda d=database: arena.query(d, _PARKED, (key,)) != [], f"the poison is parked in {database}")  # type: ignore[misc]
    yield lambda: f"parked by {len(readers)}"
    for database in readers:
        for topic, partition, offset in arena.query(database, _PARKED, (key,)):
            place = f"{topic}/{partition}@{offset}"
            arena.run_tool("ops.dead_letters", "discard", place, "--service", database, "--why", "chaos")
    arena.run_tool("ops.dead_letters", "redrive", "--customer", customer, "--why", "chaos")
    for database in readers:
        eventually(lambda d=database: arena.query(d, _OPEN, (key,)) == [(0,)], f"nothing is parked in {database}")  # type: ignore[misc]
    arena.await_settled(order_id)


def _place(arena: Arena, customer: str) -> str | None:
    answer = arena.post({"customer_id": customer, "product_id": "sku-0", "quantity": 1})
    return str(answer.json()["order_id"]) if answer.status_code == 202 else None


@contextmanager
def events_again(arena: Arena, fault: Fault) -> Injected:
    """Events are written a second time, some of the newest and some of the oldest, byte for byte."""
    draw = random.Random(fault.seed)
    records = _read(arena, fault.target, newest=draw.random() < 0.5)
    producer = _producer(arena)
    for message in records:
        producer.produce(fault.target, message.value(), message.key(), message.partition() or 0)
    producer.flush(READ_S)
    yield lambda: f"{len(records)} events"


def _read(arena: Arena, topic: str, *, newest: bool) -> list[Message]:
    consumer = Consumer({**_config(arena), "group.id": "chaos", "enable.auto.commit": False})
    try:
        bounds = _bounds(arena, topic)
        each = AGAIN // len(bounds)
        consumer.assign([TopicPartition(*p, max(0, end - each) if newest else 0) for p, (_, end) in bounds.items()])
        count = sum(min(each, end) for _, end in bounds.values())
        return [m for m in consumer.consume(count, READ_S) if m.error() is None]
    finally:
        consumer.close()


def _bounds(arena: Arena, topic: str) -> Mapping[Partition, tuple[int, int]]:
    count = int(arena.variables["TOPIC_PARTITIONS"])
    return log_bounds(AdminClient(_config(arena)), [Partition(topic, number) for number in range(count)])


@contextmanager
def offsets_rewound(arena: Arena, fault: Fault) -> Injected:
    """The group's committed offsets are set back: everything since is delivered again."""
    hit = arena.named(fault.target)
    for instance in hit:
        instance.stop()
    try:
        stored = arena.query(_DATABASE[fault.target], "SELECT topic, partition, next_offset FROM positions")
        _rewind(arena, fault.target, [TopicPartition(t, p, max(0, offset - REWOUND)) for t, p, offset in stored])
        yield lambda: f"by {REWOUND} in each partition"
    finally:
        for instance in hit:
            instance.launch()


def _rewind(arena: Arena, group: str, offsets: list[TopicPartition]) -> None:
    admin = AdminClient(_config(arena))
    rewound_offsets = ConsumerGroupTopicPartitions(group, offsets)

    def rewound() -> bool:
        """Not before the broker has seen the last member leave."""
        [future] = admin.alter_consumer_group_offsets([rewound_offsets]).values()
        return future.exception() is None

    eventually(rewound, f"the offsets of {group} are set back")
