"""What became of the orders, read from the log itself.

While a load runs, only the ends of the topics are queried. Acknowledged orders and records together give the number of
outcomes, for a few microseconds. Afterwards that stretch of the log is read once, and each order is matched by its id:
when it was placed, how it was decided and when the decision could be read, by the broker's own clock (LogAppendTime).
With one replica a record can be read as soon as it is appended. That clock has whole milliseconds; each is counted to
its end, so a time to the outcome is up to 1 ms too long, never too short.
"""

import time
from typing import Final

import msgspec
from msgspec import Struct

from common.backoff import delays_s
from common.config.kafka import Brokers
from common.errors import Transient
from common.events import ORDERS, OUTCOMES
from common.kafka.broker import Partition, all_partitions, log_ends
from ops.log import ANSWER_S, Log

NO_PROGRESS_S: Final = 15.0
POLL_S: Final = 0.1
AWAY_S: Final = 30.0
PLACED: Final = "order.placed"
OUTCOME_TYPES: Final = ("order.confirmed", "order.rejected", "order.cancelled")


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
    """The orders and their outcomes at one broker, or one topic that is named. Its methods raise `Transient`.

    Revisions before the contract's v3, which `--against` may measure, have no topic of outcomes: these are in `orders`.
    """

    def __init__(self, brokers: Brokers, topic: str | None = None) -> None:
        self._log = Log(brokers, "bench")
        known = self._log.admin.list_topics(timeout=ANSWER_S).topics
        self._decided_in = OUTCOMES if OUTCOMES in known else ORDERS
        names = {ORDERS, self._decided_in} if topic is None else {topic}
        self._partitions = all_partitions(self._log.topics(sorted(names)).values())
        self._decode = msgspec.json.Decoder(Event).decode

    def ends(self) -> dict[Partition, int]:
        """For each partition, the offset that its next record will get."""
        until, delays = time.monotonic() + AWAY_S, delays_s()
        while True:
            try:
                return log_ends(self._log.admin, self._partitions)
            except Transient:  # a broker was killed, and its partitions have no other leader yet
                if time.monotonic() > until:
                    raise
                time.sleep(next(delays))

    def records(self) -> int:
        """The number of records in the log: two an order, and another one if it was refused or cancelled."""
        return sum(self.ends().values())

    def await_records(self, count: int) -> tuple[int, float]:
        """Wait until the log has `count` records, or has not grown for `NO_PROGRESS_S`.

        Returns how many it has, and since when by the monotonic clock.
        """
        records, since = self.records(), time.monotonic()
        while records < count and time.monotonic() - since < NO_PROGRESS_S:
            time.sleep(POLL_S)
            if (now := self.records()) > records:
                records, since = now, time.monotonic()
        return records, since

    def outcomes_since(self, starts: dict[Partition, int]) -> dict[str, Outcome]:
        """Each order of the log from these offsets on, by id."""
        outcomes: dict[str, Outcome] = {}
        for message in self._log.read({partition: (starts[partition], end) for partition, end in self.ends().items()}):
            event = self._decode(message.value() or b"")
            if event.type == PLACED or message.topic() == self._decided_in:
                add_event(outcomes, event, message.timestamp()[1])
        return outcomes


def add_event(outcomes: dict[str, Outcome], event: Event, at_ms: int) -> None:
    """Add one event to its order. The first decision counts: a repeat says the same, and a cancel comes after it."""
    outcome = outcomes.get(event.subject)
    if outcome is None:
        outcome = outcomes[event.subject] = Outcome()
    if event.type == PLACED:
        outcome.placed_ms = outcome.placed_ms or at_ms
    elif event.type in OUTCOME_TYPES:
        outcome.decisions += 1
        if not outcome.decided_ms:
            outcome.decided_ms = at_ms
            outcome.status = event.type.removeprefix("order.")
