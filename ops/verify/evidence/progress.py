"""How far each reader has come, and where the log begins and ends: what a record is judged by. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from common.events import INVENTORY, ORDERS, PAYMENTS, READERS, SAGA
from common.kafka.broker import Partition

TOPICS: Final = (ORDERS, PAYMENTS, INVENTORY)
DATABASE_OF: Final[Mapping[str, str]] = {SAGA: "order", "payment": "payment", "inventory": "inventory"}

UNREAD: Final = "0"
PASSED: Final = "1"
"""Below the stored position: decided and stored."""
ANSWERED: Final = "2"
"""Below the committed offset as well: what it led to was published and acknowledged."""
PARKED: Final = "p"
DISCARDED: Final = "d"
"""Given up, and that was published."""
DISCARDING: Final = "g"
"""Given up, and that is perhaps not published yet."""
GIVEN_UP: Final = frozenset((DISCARDED, DISCARDING))
REDRIVEN: Final = "r"

Place = tuple[str, str, int]
"""A consumer group, a topic, a partition number."""


class Trimmed(NamedTuple):
    """Which logs no longer reach back to their first record."""

    orders: bool
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


@dataclass(frozen=True)
class Marks:
    """Positions, committed offsets and the parts of the log that were read. Positions are of the snapshots; committed
    offsets were read before them, so that what lies below one was decided in every snapshot and published before the
    ends were read."""

    starts: Mapping[Partition, int]
    ends: Mapping[Partition, int]
    positions: Mapping[Place, int]
    committed: Mapping[Place, int]
    parked: Mapping[Place, Mapping[int, str]] = field(default_factory=dict)

    def behind(self) -> list[Behind]:
        return [
            Behind(group, partition, at, end)
            for partition, end in sorted(self.ends.items())
            for group in READERS[partition.topic]
            if (at := self.positions.get((group, *partition), 0)) < end
        ]

    def trimmed(self, number: int | None) -> Trimmed:
        """Of one partition number, or of any when it is not known."""
        return Trimmed(
            *(
                any(start > 0 for p, start in self.starts.items() if p.topic == topic and number in (None, p.number))
                for topic in TOPICS
            )
        )

    def progress(self, topic: str, number: int, offset: int) -> str:
        """A letter for each reader of the record's topic: how far it has come with this record."""
        return "".join(self._of_reader((group, topic, number), offset) for group in READERS[topic])

    def _of_reader(self, place: Place, offset: int) -> str:
        if offset >= self.positions.get(place, 0):
            return UNREAD
        if fate := self.parked.get(place, {}).get(offset):
            return PASSED if fate == REDRIVEN else fate
        return ANSWERED if offset < self.committed.get(place, 0) else PASSED

    def unlisted(self, topic: str, number: int, offset: int) -> list[str]:
        """The groups that have passed a record which cannot be an event, and do not list it as parked."""
        return [
            group
            for group in READERS[topic]
            if offset < self.positions.get((group, topic, number), 0)
            # What is no event cannot have been redriven: somebody took it off the list.
            and self.parked.get((group, topic, number), {}).get(offset, REDRIVEN) == REDRIVEN
        ]


class Quiet(NamedTuple):
    """Which records of a partition are behind everybody: every reader has answered them, and nobody parked them."""

    below: int
    parked: frozenset[int]

    def covers(self, offset: int) -> bool:
        return offset < self.below and offset not in self.parked


def quiet(marks: Marks) -> dict[Partition, Quiet]:
    """For each partition."""
    found = {}
    for partition in marks.ends:
        places = [(group, *partition) for group in READERS[partition.topic]]
        below = min(min(marks.positions.get(p, 0), marks.committed.get(p, 0)) for p in places)
        found[partition] = Quiet(below, frozenset().union(*(marks.parked.get(p, ()) for p in places)))
    return found


class Progress:
    """`Marks.progress` made fast: nearly every record is behind everybody."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._trimmed: dict[int | None, Trimmed] = {}
        self._quiet = {(p.topic, p.number): q for p, q in quiet(marks).items()}
        self._answered = {topic: ANSWERED * len(groups) for topic, groups in READERS.items()}

    def of(self, topic: str, number: int, offset: int) -> str:
        """How far each reader of the topic has come with this record."""
        found = self._quiet.get((topic, number))
        if found is not None and found.covers(offset):
            return self._answered[topic]
        return self._marks.progress(topic, number, offset)

    def trimmed(self, number: int | None) -> Trimmed:
        if number not in self._trimmed:
            self._trimmed[number] = self._marks.trimmed(number)
        return self._trimmed[number]
