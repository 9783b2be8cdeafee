"""Records that a topic loses, and what an operator then does (docs/OPERATIONS.md, "Loss detected")."""

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from common.kafka.broker import Partition
from tests.stack import Stack


def move(stack: Stack, service: str, where: Partition, to: int) -> None:
    """Accept a loss, as an operator would."""
    with stack.postgres.connect(service) as owner:
        owner.execute("UPDATE positions SET next_offset = %s WHERE topic = %s AND partition = %s", (to, *where))


def delete_records(admin: AdminClient, where: Partition, before: int) -> None:
    """Delete the records of a partition below an offset."""
    for future in admin.delete_records([TopicPartition(*where, before)]).values():
        future.result()
