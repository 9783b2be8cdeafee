"""What became of the orders, read from the log itself.

While a load runs, only the ends of the topic are asked for: acknowledged orders and records together give the number of
outcomes, for a few microseconds. Afterwards the stretch of the log is read once, and each order is matched by its id:
placed when, decided how, readable when, by the broker's own clock (LogAppendTime). With one replica a record can be
read as soon as it is appended. That clock has whole milliseconds; each is counted to its end, so a time to the outcome
is up to 1 ms too long, never too short.
"""

from typing import Any, Final, Literal

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from msgspec import Struct

ORDERS: Final = "orders"
READ_AT_ONCE: Final = 10_000
READ_TIMEOUT_S: Final = 20.0
# A broker that is stopped at the end of a run is not worth a line on the terminal.
_SETTINGS: Final = {"log_level": 0, "client.id": "bench"}


class Seen(Struct, frozen=True):
    """As much of an event as matters here."""

    type: str
    subject: str


class Outcome(Struct):
    """What the log says of one order; times in milliseconds since the epoch, 0 as long as there is none."""

    placed_ms: int = 0
    decided_ms: int = 0
    status: Literal["", "confirmed", "rejected", "cancelled"] = ""
    placed: int = 0
    decided: int = 0
    """How many records of either kind there are: one each, unless something is wrong (or was published again)."""


class OrdersLog:
    """A topic of one broker; `orders` unless another one is to be counted."""

    def __init__(self, bootstrap_servers: str, topic: str = ORDERS) -> None:
        self._topic = topic
        self._settings: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, **_SETTINGS}
        self._admin = AdminClient(self._settings)
        self._partitions = sorted(self._admin.list_topics(topic, 10).topics[topic].partitions)

    def ends(self) -> dict[int, int]:
        """For each partition, the offset its next record will get."""
        wanted = {TopicPartition(self._topic, number): OffsetSpec.latest() for number in self._partitions}  # type: ignore[no-untyped-call]
        futures = self._admin.list_offsets(wanted, request_timeout=10)
        return {tp.partition: future.result().offset for tp, future in futures.items()}

    def records(self) -> int:
        """How many there are."""
        return sum(self.ends().values())

    def read(self, starts: dict[int, int], ends: dict[int, int]) -> dict[str, Outcome]:
        """Each order of a stretch of the log, by id. Raises `TimeoutError` if the log does not go on."""
        found: dict[str, Outcome] = {}
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
        decode = msgspec.json.Decoder(Seen).decode
        try:
            consumer.assign([TopicPartition(self._topic, number, starts[number]) for number in ends if ends[number]])
            while left > 0:
                messages = consumer.consume(
                    min(READ_AT_ONCE, left), READ_TIMEOUT_S
                )  # waits until all of them are there
                if not messages:
                    raise TimeoutError(f"the log of {self._topic} stopped {left} records before its end")
                for message in messages:
                    if (error := message.error()) is not None:
                        raise KafkaException(error)
                    if message.offset() >= ends[message.partition()]:  # type: ignore[operator,index]
                        continue
                    left -= 1
                    note(found, decode(message.value()), message.timestamp()[1])  # type: ignore[arg-type]
        finally:
            consumer.close()
        return found


def note(found: dict[str, Outcome], event: Seen, at_ms: int) -> None:
    """Enter one event. The first outcome counts: a later one of a repeat says the same, a cancel comes after."""
    outcome = found.get(event.subject)
    if outcome is None:
        outcome = found[event.subject] = Outcome()
    match event.type:
        case "order.placed":
            outcome.placed += 1
            outcome.placed_ms = outcome.placed_ms or at_ms
        case "order.confirmed" | "order.rejected" | "order.cancelled":
            outcome.decided += 1
            if not outcome.decided_ms:
                outcome.decided_ms = at_ms
                outcome.status = event.type.removeprefix("order.")  # type: ignore[assignment]
