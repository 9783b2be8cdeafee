"""How far each reader has come, and where the log begins and ends: what a record is judged by. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

from common.events import OUTCOMES, READERS, SAGA
from common.kafka.broker import Partition
from ops.verify.evidence.kinds import TOPICS

UNREAD: Final = "0"
PASSED: Final = "1"
"""Below the stored position: decided and stored."""
ANSWERED: Final = "2"
"""Below the committed offset as well: what it led to was published and acknowledged."""
APPLIED: Final = frozenset((PASSED, ANSWERED))
PARKED: Final = "p"
DISCARDED: Final = "d"
"""Given up, and that was published."""
DISCARDING: Final = "g"
"""Given up, and that is perhaps not published yet."""
GIVEN_UP: Final = frozenset((DISCARDED, DISCARDING))
REDRIVEN: Final = "r"

GroupPartition = tuple[str, str, int]
"""A consumer group, a topic, a partition number."""

HOLDERS: Final = {**READERS, OUTCOMES: (SAGA,)}
"""The groups whose databases hold what a record of each topic says. Those are its readers, and of an outcome the saga,
which stored it before it published it: its position there is where the topic ended before the snapshot."""


class Trimmed(NamedTuple):
    """Which logs no longer reach back to their first record."""

    orders: bool
    outcomes: bool
    payments: bool
    inventory: bool


class Behind(NamedTuple):
    """A reader that has not come to the end of a partition as it was read."""

    group: str
    partition: Partition
    position: int
    end: int

    def __str__(self) -> str:
        return f"{self.group} stands at offset {self.position} of {self.partition}, which was read up to {self.end}"


class Answered(NamedTuple):
    """The records of a partition that every reader has answered and none has parked."""

    below: int
    parked: frozenset[int]


@dataclass(frozen=True)
class Progress:
    """Positions, committed offsets and the parts of the log that were read. Positions are those of the snapshots;
    committed offsets were read before them, so a record below one was decided in every snapshot, and its results were
    published before the ends were read."""

    starts: Mapping[Partition, int]
    ends: Mapping[Partition, int]
    positions: Mapping[GroupPartition, int]
    committed: Mapping[GroupPartition, int]
    parked: Mapping[GroupPartition, Mapping[int, str]] = field(default_factory=dict)

    @cached_property
    def answered(self) -> dict[tuple[str, int], Answered]:
        answered: dict[tuple[str, int], Answered] = {}
        for partition in self.ends:
            readers = [(group, *partition) for group in HOLDERS[partition.topic]]
            below = min(min(self.positions.get(r, 0), self.committed.get(r, 0)) for r in readers)
            parked = frozenset().union(*(self.parked.get(r, ()) for r in readers))
            answered[partition] = Answered(below, parked)
        return answered

    def of(self, topic: str, number: int, offset: int) -> str:
        """A letter for each of the topic's `HOLDERS`: how far it has come with this record."""
        below, parked = self.answered.get((topic, number), _NOTHING_ANSWERED)
        if offset < below and offset not in parked:  # nearly every record
            return _ANSWERED_BY_ALL[topic]
        return "".join(self._of_reader((group, topic, number), offset) for group in HOLDERS[topic])

    def _of_reader(self, reader: GroupPartition, offset: int) -> str:
        if offset >= self.positions.get(reader, 0):
            return UNREAD
        if fate := self.parked.get(reader, {}).get(offset):
            return PASSED if fate == REDRIVEN else fate
        return ANSWERED if offset < self.committed.get(reader, 0) else PASSED

    def behind(self) -> list[Behind]:
        return [
            Behind(group, partition, at, end)
            for partition, end in sorted(self.ends.items())
            for group in READERS[partition.topic]
            if (at := self.positions.get((group, *partition), 0)) < end
        ]

    def trimmed(self, number: int | None) -> Trimmed:
        """For one partition number, or for any when it is not known."""
        return self._trimmed.get(number) or Trimmed(False, False, False, False)

    @cached_property
    def _trimmed(self) -> dict[int | None, Trimmed]:
        cut = [partition for partition, start in self.starts.items() if start > 0]
        return {
            n: Trimmed(*(any(p.topic == topic and n in (None, p.number) for p in cut) for topic in TOPICS))
            for n in {None, *(partition.number for partition in self.starts)}
        }

    def unlisted(self, partition: Partition, offset: int) -> list[str]:
        """The groups that have passed a record which cannot be an event, and do not list it as parked."""
        return [
            group
            for group in READERS[partition.topic]
            if offset < self.positions.get((group, *partition), 0)
            # A record that is no event cannot have been redriven: its row was deleted from the list.
            and self.parked.get((group, *partition), {}).get(offset, REDRIVEN) == REDRIVEN
        ]


_NOTHING_ANSWERED: Final = Answered(0, frozenset())
_ANSWERED_BY_ALL: Final = {topic: ANSWERED * len(groups) for topic, groups in HOLDERS.items()}
