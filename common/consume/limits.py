"""Limits that depend on one another, checked when a process starts. Pure: values of a server are parameters.

Each check raises `Fatal` with a message that names both values. The order api's own limits are in `order.config`.
"""

from collections.abc import Mapping

from common.errors import Fatal
from common.kafka.clients import MESSAGE_BYTES_MAX


def check_partitions(configured: int, counts: Mapping[str, int]) -> None:
    """The configured partition count is the broker's. `counts` is by topic."""
    for topic, partitions in counts.items():
        if partitions != configured:
            raise Fatal(
                f"TOPIC_PARTITIONS={configured}, but topic {topic!r} has {partitions} partitions; set it to the count "
                "that the topics were created with"
            )


def check_message_size(sizes: Mapping[str, int]) -> None:
    """Every record that a topic accepts can be parked. `sizes` is each topic's max.message.bytes."""
    for topic, size in sizes.items():
        if size > MESSAGE_BYTES_MAX:
            raise Fatal(
                f"topic {topic!r} accepts messages of max.message.bytes={size}, but an event of over "
                f"{MESSAGE_BYTES_MAX} bytes could not be parked in PostgreSQL; lower it"
            )


def check_connections(*, needed: int, taken: int, allowed: int, reserved: int) -> str:
    """A warning when the database server has no room for what this process may still open; empty when it has.

    Raises `Fatal` when it could not even serve this process alone. `allowed` is max_connections, of which `reserved`
    are for superusers; `taken` are open.
    """
    usable = allowed - reserved
    if needed > usable:
        raise Fatal(
            f"this process needs {needed} database connections, but max_connections={allowed} less {reserved} reserved "
            f"allows {usable}; raise max_connections"
        )
    if taken + needed > usable:
        return (
            f"{taken} database connections are open and this process needs up to {needed}, but max_connections="
            f"{allowed} less {reserved} reserved allows {usable}: run fewer instances or raise max_connections"
        )
    return ""
