"""The warm-up of a broker that has just started: by itself, while nobody waits.

A JVM gets warm by the requests it handles, not by time or records: its compilers need tens of thousands of calls and
about 7 s of CPU, and until then a request costs up to ten times as much. If the first orders have to do that, their CPU
doubles. An archive of an earlier run's profiles (JEP 515) does not help, since the compilers' work remains.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from msgspec import Struct

from common.codec import encode
from common.config.kafka import Brokers
from common.events import ORDERS, Item, Milliseconds, OrderPlaced, PlacedData, make
from common.kafka.access import WARM_UP
from common.kafka.broker import Partition, committed_offsets, topic_ends
from common.kafka.clients import client_config, producer_config

NAME: Final = WARM_UP
PARTITIONS: Final = 12
"""The topic is made for this, so that the number of requests does not depend on Tandem's partitions."""
TIMEOUT_S: Final = 60.0
READ_AT_ONCE: Final = 10_000

SECONDS_MAX: Final = 60.0
PRODUCERS: Final = 3
ROUNDS_A_WINDOW: Final = 110
WINDOW_REQUESTS: Final = ROUNDS_A_WINDOW * PRODUCERS * PARTITIONS
REQUESTS_MIN: Final = 28_000
"""Before this, two windows may agree by chance while much of the broker is not compiled yet."""
ALIKE: Final = 0.15


CPU: Final = "the broker's CPU"


class Warmth(Struct, frozen=True, kw_only=True):
    """How warm the broker has become."""

    seconds: float
    cpu_us: list[float]
    """What a request costs, in windows of `WINDOW_REQUESTS`: the broker's CPU, or the time it takes."""
    warm: bool
    measured: str = CPU

    def __str__(self) -> str:
        windows = ", ".join(f"{us:.0f}" for us in self.cpu_us)
        return (
            f"{len(self.cpu_us) * WINDOW_REQUESTS:,} small requests in {self.seconds:.0f} s; "
            f"{self.measured} by {WINDOW_REQUESTS:,} of them: {windows} us each"
        )


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
def own_topic(brokers: Brokers, topic: str) -> Iterator[Consumer]:
    """A topic that exists for a load only, and a consumer that reads it from its end.

    If an earlier load was interrupted, its topic is used. Raises `KafkaException` and `Transient`.
    """
    admin = AdminClient({**client_config(brokers, NAME), "log_level": 0})
    starts = dict.fromkeys(range(PARTITIONS), 0)
    copies = len(admin.list_topics(timeout=TIMEOUT_S).brokers)
    try:
        admin.create_topics([NewTopic(topic, PARTITIONS, copies)])[topic].result(TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        starts = {partition.number: end for partition, end in topic_ends(admin, [topic]).items()}
    consumer = Consumer(
        {
            **client_config(brokers, NAME),
            "group.id": topic,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.queue.backoff.ms": 2,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
        yield consumer
    finally:
        consumer.close()
        admin.delete_topics([topic])[topic].result(TIMEOUT_S)


def warm_up(
    brokers: Brokers,
    cost_s: Callable[[], float],
    seconds_max: float = SECONDS_MAX,
    *,
    wanted: Callable[[], bool] = lambda: True,
    measured: str = CPU,
) -> Warmth:
    """Send small requests until the broker is warm, is not to be warmed any more (`wanted`), or for `seconds_max`.

    `cost_s` is what the broker has used, and `measured` says of what: seconds of CPU, or of time. Orders would take
    longer, since everything else has to follow. Here every record is a produce request of its own and wakes a fetch,
    until a request has stopped becoming cheaper. Raises `KafkaException`, `Transient` or `Fatal` if the broker cannot
    be reached or refuses.
    """
    value = placed_event()
    admin = AdminClient({**client_config(brokers, NAME), "log_level": 0})
    producers = [Producer(producer_config(brokers, NAME, linger_ms=0)) for _ in range(PRODUCERS)]
    windows: list[float] = []
    began = time.monotonic()
    with own_topic(brokers, NAME) as consumer:
        while time.monotonic() - began < seconds_max and wanted() and not is_warm(windows):
            before_s = cost_s()
            for _ in range(ROUNDS_A_WINDOW):
                # A partition's next record is sent when its last one is acknowledged, so no two share a request.
                for producer in producers:
                    for partition in range(PARTITIONS):
                        producer.produce(NAME, value, partition=partition)
                for producer in producers:
                    assert producer.flush(TIMEOUT_S) == 0, "the broker did not take all records"
                consumer.consume(READ_AT_ONCE, 0)
                _ask_all_else(consumer, admin)
            windows.append((cost_s() - before_s) / WINDOW_REQUESTS * 1e6)
    for future in admin.delete_consumer_groups([NAME]).values():
        _await_gone(future)
    return Warmth(seconds=time.monotonic() - began, cpu_us=windows, warm=is_warm(windows), measured=measured)


def _ask_all_else(consumer: Consumer, admin: AdminClient) -> None:
    """What else a service asks the broker for, now and then. It is compiled by being asked, too."""
    # This waits for the group's coordinator, which a broker that has just started may not have yet.
    committed_offsets(consumer, [Partition(NAME, number) for number in range(PARTITIONS)])
    if read := [place for place in consumer.position(consumer.assignment()) if place.offset >= 0]:
        consumer.commit(offsets=read, asynchronous=False)
    topic_ends(admin, [NAME])


def _await_gone(future: "Future[None]") -> None:
    """The group is gone, or there was none: nothing was committed."""
    try:
        future.result(TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise


def warm_up_until_orders_come(brokers: Brokers, cost_s: Callable[[], float], measured: str = CPU) -> Warmth:
    """The same, but end when the log gets orders: they warm the broker themselves, and want the cores."""
    admin = AdminClient({**client_config(brokers, NAME), "log_level": 0})

    def records() -> int:
        return sum(topic_ends(admin, [ORDERS]).values())

    before = records()
    return warm_up(brokers, cost_s, wanted=lambda: records() == before, measured=measured)
