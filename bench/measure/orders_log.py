"""What became of the orders, read from the log itself.

While a load runs, only the ends of the topic are queried. Acknowledged orders and records together give the number of
outcomes, for a few microseconds. Afterwards that stretch of the log is read once, and each order is matched by its id:
when it was placed, how it was decided and when the decision could be read, by the broker's own clock (LogAppendTime).
With one replica a record can be read as soon as it is appended. That clock has whole milliseconds; each is counted to
its end, so a time to the outcome is up to 1 ms too long, never too short.
"""

from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from msgspec import Struct

ORDERS: Final = "orders"
OUTCOMES: Final = ("order.confirmed", "order.rejected", "order.cancelled")
READ_AT_ONCE: Final = 10_000
READ_TIMEOUT_S: Final = 20.0
ADMIN_TIMEOUT_S: Final = 10


class Event(Struct, frozen=True):
    """The fields of an event that the bench reads."""

    type: str
    subject: str


class Outcome(Struct):
    """What the log says about one order. Times in milliseconds since the epoch; 0 before there is one."""

    placed_ms: int = 0
    decided_ms: int = 0
    status: str = ""
    """Empty, confirmed, rejected or cancelled."""
    decisions: int = 0
    """How many records decide it: one, unless something is wrong or was published again."""


class OrdersLog:
    """A topic of one broker: `orders`, unless another one is named."""

    def __init__(self, bootstrap_servers: str, topic: str = ORDERS) -> None:
        self._topic = topic
        # At the end of a run the broker is stopped, which is not worth a line on the terminal.
        self._settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": "bench",
            "log_level": 0,
        }
        self._admin = AdminClient(self._settings)
        self._partitions = sorted(self._admin.list_topics(topic, ADMIN_TIMEOUT_S).topics[topic].partitions)

    def ends(self) -> dict[int, int]:
        """For each partition, the offset that its next record will get."""
        latest = {TopicPartition(self._topic, number): OffsetSpec.latest() for number in self._partitions}  # type: ignore[no-untyped-call]
        futures = self._admin.list_offsets(latest, request_timeout=ADMIN_TIMEOUT_S)
        return {partition.partition: future.result().offset for partition, future in futures.items()}

    def records(self) -> int:
        """The number of records in the log."""
        return sum(self.ends().values())

    def read(self, starts: dict[int, int], ends: dict[int, int]) -> dict[str, Outcome]:
        """Each order of a stretch of the log, by id. Raises `TimeoutError` if records are missing."""
        outcomes: dict[str, Outcome] = {}
        left = sum(ends[number] - starts[number] for number in ends)
        consumer = Consumer(
            {
                **self._settings,
                "group.id": "bench-reads-without-a-group",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": 65_536,
                "fetch.queue.backoff.ms": 5,
            }
        )
        decode = msgspec.json.Decoder(Event).decode
        try:
            consumer.assign([TopicPartition(self._topic, number, starts[number]) for number in ends if ends[number]])
            while left > 0:
                messages = consumer.consume(min(READ_AT_ONCE, left), READ_TIMEOUT_S)  # returns when all have arrived
                if not messages:
                    raise TimeoutError(f"reading {self._topic} stopped {left} records before the end")
                for message in messages:
                    if (error := message.error()) is not None:
                        raise KafkaException(error)
                    if message.offset() >= ends[message.partition()]:  # type: ignore[operator,index]
                        continue
                    left -= 1
                    add_event(outcomes, decode(message.value()), message.timestamp()[1])  # type: ignore[arg-type]
        finally:
            consumer.close()
        return outcomes


def add_event(outcomes: dict[str, Outcome], event: Event, at_ms: int) -> None:
    """Add one event to its order. The first decision counts: a repeat says the same, and a cancel comes after it."""
    outcome = outcomes.get(event.subject)
    if outcome is None:
        outcome = outcomes[event.subject] = Outcome()
    if event.type == "order.placed":
        outcome.placed_ms = outcome.placed_ms or at_ms
    elif event.type in OUTCOMES:
        outcome.decisions += 1
        if not outcome.decided_ms:
            outcome.decided_ms = at_ms
            outcome.status = event.type.removeprefix("order.")
