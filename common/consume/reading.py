"""A partition that an instance reads: the next offset, and arrivals for offsets without a record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from confluent_kafka import Message

from common.consume.records import Arrival, arrival_of, hole, within_range
from common.errors import LossDetected
from common.events import Milliseconds, now
from common.kafka.broker import Partition

WithoutRecord = Callable[[Partition, int, int], Mapping[int, Milliseconds]]
"""Given a partition, a first offset and an end: the offsets between them at which there never was a record, with their
times. See `common.kafka.holes`."""


@dataclass(slots=True)
class Reading:
    partition: Partition
    expected: int
    """The offset that comes next."""
    skipped: Mapping[int, str]
    """Offsets that an operator has had this service skip: by whom, and why."""

    def holes_before(self, end: int, position: int, without_record: WithoutRecord, arrived_s: float) -> list[Arrival]:
        """Arrivals for the offsets before `end` at which no record came, from the stored `position` on. Reading goes on
        at `end`. Raises `LossDetected` if an offset has no record for an unknown reason."""
        missing = range(max(self.expected, position), end)
        unknown = [offset for offset in missing if offset not in self.skipped]
        times = without_record(self.partition, unknown[0], end) if unknown else {}
        unknown = [offset for offset in unknown if offset not in times]
        if unknown or end < self.expected:
            pass_one = f"; 'just dlq skip {self.partition}@{unknown[0]}' passes one of them" if unknown else ""
            raise LossDetected(
                f"{self.partition}: the log continues at offset {end} instead of {self.expected}: records are missing, "
                f"and no transaction explains it{pass_one}"
            )
        self.expected = end
        return [hole(self.partition, n, within_range(times.get(n, now())), arrived_s) for n in missing]

    def arrival_of(self, message: Message, offset: int, arrived_s: float) -> Arrival:
        """The record's arrival. One that an operator has skipped arrives without an event, to be parked."""
        arrived = arrival_of(message, self.partition, offset, arrived_s)
        if (why := self.skipped.get(offset)) is None:
            return arrived
        return Arrival(arrived.record, None, f"skipped by {why}", arrived_s)
