"""How far the readers have come, put together from the snapshots, and whether these belong to this log."""

from collections.abc import Mapping, Sequence

from common.consume.positions import Stored
from common.events import READERS
from common.kafka.broker import Partition
from ops.verify.evidence.kinds import TOPICS
from ops.verify.evidence.progress import GroupPartition, Progress
from ops.verify.sources.databases import Snapshot


def stored_positions(databases: Sequence[Snapshot]) -> dict[GroupPartition, Stored]:
    return {reader: stored for snapshot in databases for reader, stored in snapshot.positions.items()}


def progress_of(
    databases: Sequence[Snapshot],
    starts: Mapping[Partition, int],
    ends: Mapping[Partition, int],
    committed: Mapping[GroupPartition, int],
) -> Progress:
    parked: dict[GroupPartition, dict[int, str]] = {}
    for snapshot in databases:
        for reader, rows in snapshot.parked().items():
            parked[reader] = {offset: row.fate for offset, row in rows.items()}
    positions = {reader: stored.next_offset for reader, stored in stored_positions(databases).items()}
    return Progress(starts, ends, positions, committed, parked)


def mismatches(
    stored: Mapping[GroupPartition, Stored], topic_ids: Mapping[str, str], ends: Mapping[Partition, int]
) -> list[str]:
    """Why these databases and this log do not belong together, if they do not."""
    problems = []
    for (group, topic, number), (topic_id, offset) in stored.items():
        if topic not in TOPICS:
            continue
        end = ends.get(Partition(topic, number))
        if topic_ids[topic] != topic_id:
            problems.append(f"{group} has read another topic {topic!r} ({topic_id}) than this one ({topic_ids[topic]})")
        elif end is None:
            problems.append(f"{group} has read {topic}/{number}, which does not exist")
        elif offset > end:
            problems.append(
                f"{topic}/{number} ends at offset {end}, and {group} has read up to {offset}: records are gone"
            )
    for topic, groups in READERS.items():
        partitions = sum(partition.topic == topic for partition in ends)
        for group in groups:
            count = sum(reader[:2] == (group, topic) for reader in stored)
            if count not in (0, partitions):
                problems.append(f"{group} has positions in {count} partitions of {topic}, which has {partitions}")
    return list(dict.fromkeys(problems))
