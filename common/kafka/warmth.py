"""The warm-up of a broker that has just started: by itself, while nobody waits.

A JVM gets warm by the requests it handles, not by time or records: its compilers need thousands of calls and several
seconds of CPU, and until then a request costs up to ten times as much. If the first orders have to do that, their CPU
doubles. An archive of an earlier run's profiles (JEP 515) does not help, since the compilers' work remains.

What is compiled rests on what was seen: C2 leaves out branches that were never taken, and compiles a method anew when
one is. So this sends what services send: requests for one or several partitions, from several clients, that wake the
fetches of several readers. And it begins again and again, with a new topic, new clients and a new group.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from typing import Any, Final

import uvloop
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from msgspec import Struct

from common.codec import encode
from common.config.kafka import Brokers
from common.errors import Transient
from common.events import ORDERS, Item, Milliseconds, OrderPlaced, PlacedData, make
from common.kafka.access import WARM_UP
from common.kafka.async_publisher import AsyncPublisher
from common.kafka.broker import REQUEST_TIMEOUT_S, Partition, committed_offsets, topic_ends
from common.kafka.clients import ADMIN, FETCH_QUEUE_BACKOFF_MS, client_config

NAME: Final = WARM_UP
PARTITIONS: Final = 12
"""The topic is made for this, so that the number of requests does not depend on Tandem's partitions."""
TIMEOUT_S: Final = 60.0
READ_AT_ONCE: Final = 10_000

SECONDS_MAX: Final = 60.0
PUBLISHERS: Final = 3
READERS: Final = 3
RECORDS: Final = (1, 1, 2, 3, 6, 30)
"""How many records a publisher sends together, to random partitions: few as the api, many as a consumer."""
ROUNDS_A_WINDOW: Final = 800
SENDS_A_WINDOW: Final = ROUNDS_A_WINDOW * PUBLISHERS
"""Without a linger, what is sent together is one request to each leader of its partitions."""
ASK_EVERY_ROUNDS: Final = 4
SENDS_MIN: Final = 12_000
"""Before this, two windows may agree by chance while much of the broker is not compiled yet."""
ALIKE: Final = 0.15

CPU: Final = "the broker's CPU"


class Warmth(Struct, frozen=True, kw_only=True):
    """How warm the broker has become."""

    seconds: float
    cpu_us: list[float]
    """What a send and all that follows from it costs, in windows of `SENDS_A_WINDOW`: the broker's CPU, or the time it
    takes."""
    warm: bool
    measured: str = CPU

    def __str__(self) -> str:
        if not self.cpu_us:
            return f"ended after {self.seconds:.0f} s, before {SENDS_A_WINDOW:,} sends"
        windows = ", ".join(f"{us:.0f}" for us in self.cpu_us)
        return (
            f"{len(self.cpu_us) * SENDS_A_WINDOW:,} small sends in {self.seconds:.0f} s; "
            f"{self.measured} by {SENDS_A_WINDOW:,} of them: {windows} us each"
        )


def is_warm(windows: Sequence[float]) -> bool:
    """Whether enough was sent, and the last two windows differ by less than `ALIKE`."""
    enough = len(windows) * SENDS_A_WINDOW >= SENDS_MIN
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
def own_topic(brokers: Brokers, topic: str, readers: int = 1) -> Iterator[list[Consumer]]:
    """A topic that exists for a load only, and consumers that each read all of it from its end.

    If an earlier load was interrupted, its topic is used. Raises `KafkaException` and `Transient`.
    """
    admin = _admin(brokers)
    starts = dict.fromkeys(range(PARTITIONS), 0)
    copies = len(admin.list_topics(timeout=TIMEOUT_S).brokers)
    try:
        admin.create_topics([NewTopic(topic, PARTITIONS, copies)], request_timeout=REQUEST_TIMEOUT_S)[topic].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        starts = {partition.number: end for partition, end in topic_ends(admin, [topic]).items()}
    config = {
        **client_config(brokers, NAME),
        "group.id": topic,
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "fetch.queue.backoff.ms": FETCH_QUEUE_BACKOFF_MS,
    }
    with ExitStack() as opened:
        opened.enter_context(_afterwards(lambda: _delete_topic(admin, topic)))
        consumers = []
        for _ in range(readers):
            consumers.append(Consumer(config))
            opened.callback(consumers[-1].close)
            consumers[-1].assign([TopicPartition(topic, number, start) for number, start in starts.items()])
        yield consumers


def read(consumer: Consumer, records: int, timeout_s: float) -> int:
    """How many records came, of so many at most. Raises `KafkaException` if one cannot be read."""
    messages = consumer.consume(records, timeout_s)
    for message in messages:
        if (error := message.error()) is not None:
            raise KafkaException(error)
    return len(messages)


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
    longer, since everything else has to follow. It ends when a send has stopped becoming cheaper. Raises
    `KafkaException`, `Transient` or `Fatal` if the broker cannot be reached or refuses.
    """
    windows: list[float] = []
    began = time.monotonic()

    def goes_on() -> bool:
        return time.monotonic() - began < seconds_max and wanted()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while not is_warm(windows):
            window_s = runner.run(_window(brokers, cost_s, goes_on))
            if window_s is None:
                break
            windows.append(window_s / SENDS_A_WINDOW * 1e6)
    return Warmth(seconds=time.monotonic() - began, cpu_us=windows, warm=is_warm(windows), measured=measured)


async def _window(brokers: Brokers, cost_s: Callable[[], float], goes_on: Callable[[], bool]) -> float | None:
    """Send and read the records of one window. Returns what it has cost, or None if it was to end before.

    Between two rounds nothing is in flight, so what blocks then keeps nothing waiting.
    """
    # The same rounds in every window, so that these can be compared.
    value, chosen = placed_event(), random.Random(0)
    admin = _admin(brokers)
    received = [0] * READERS
    async with AsyncExitStack() as opened:
        opened.enter_context(_afterwards(lambda: _delete_group(admin)))
        readers = opened.enter_context(own_topic(brokers, NAME, READERS))
        publishers = [AsyncPublisher(brokers, NAME, linger_s=0.0, deadline_s=TIMEOUT_S) for _ in range(PUBLISHERS)]
        for publisher in publishers:
            opened.push_async_callback(publisher.close)
        before_s = cost_s()
        for number in range(ROUNDS_A_WINDOW):
            sent = [
                publisher.send(NAME, b"", value, chosen.randrange(PARTITIONS))
                for publisher in publishers
                for _ in range(chosen.choice(RECORDS))
            ]
            await asyncio.gather(*sent)
            for index, reader in enumerate(readers):
                received[index] += read(reader, READ_AT_ONCE, 0)
            # Not before the first round, when not every broker may know the topic yet.
            if number % ASK_EVERY_ROUNDS == 0:
                if not goes_on():
                    return None
                _ask_all_else(readers[0], admin)
        cost = cost_s() - before_s
    if not all(received):
        raise Transient(f"a reader of topic {NAME!r} got no record")
    return cost


def _ask_all_else(consumer: Consumer, admin: AdminClient) -> None:
    """Some of what else a service asks the broker for, now and then. It is compiled by being asked, too."""
    # This waits for the group's coordinator, which a broker that has just started may not have yet.
    committed_offsets(consumer, [Partition(NAME, number) for number in range(PARTITIONS)])
    if positions := [place for place in consumer.position(consumer.assignment()) if place.offset >= 0]:
        consumer.commit(offsets=positions, asynchronous=False)
    topic_ends(admin, [NAME])


def _admin(brokers: Brokers) -> AdminClient:
    config: dict[str, Any] = {**client_config(brokers, NAME), **ADMIN, "log_level": 0}
    return AdminClient(config)


@contextmanager
def _afterwards(clean_up: Callable[[], None]) -> Iterator[None]:
    """Clean up at the end. If something has failed before, that is raised, and not what fails because of it."""
    try:
        yield
    except BaseException:
        with suppress(KafkaException):
            clean_up()
        raise
    clean_up()


def _delete_topic(admin: AdminClient, topic: str) -> None:
    admin.delete_topics([topic], request_timeout=REQUEST_TIMEOUT_S)[topic].result()


def _delete_group(admin: AdminClient) -> None:
    """Delete the group, if there is one: it is made by the first offset that is committed."""
    try:
        admin.delete_consumer_groups([NAME], request_timeout=REQUEST_TIMEOUT_S)[NAME].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise


def warm_up_until_orders_come(brokers: Brokers, cost_s: Callable[[], float], measured: str = CPU) -> Warmth:
    """The same, but end when the log gets orders: they warm the broker themselves, and want the cores."""
    admin = _admin(brokers)

    def records() -> int:
        return sum(topic_ends(admin, [ORDERS]).values())

    before = records()
    return warm_up(brokers, cost_s, wanted=lambda: records() == before, measured=measured)
