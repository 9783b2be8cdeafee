"""Limits that depend on one another, checked when a process starts. Pure: what a server has to be asked is a parameter.

Each raises `Fatal` with a message that names both values. Those of the order api alone stand in `order.config`.
"""

from collections.abc import Mapping
from typing import Final

from common.errors import Fatal

BATCH_STATEMENTS_MAX: Final = 14
"""In the longest batch's transaction, which is payment's: BEGIN, lock positions, is anybody parked, is it stopped, who
is parked, lock accounts, read payments, COPY payments and ledger, INSERT parked events, update payments and balances,
advance, COMMIT."""
MESSAGE_BYTES_MAX: Final = 128 * 1024 * 1024
"""Of what may be parked. Its bytes travel to PostgreSQL as hex, in a row of at most 1 GB; its headers are kept as hex
too, in a jsonb whose strings end at 256 MB."""


def check_batch_time(
    *,
    stay_every_ms: int,
    statement_timeout_ms: int,
    delivery_timeout_ms: int,
    commit_timeout_ms: int,
    max_poll_interval_ms: int,
) -> None:
    """Between two polls lie attempts at a batch that took less than `stay_every_ms` together, and one more: its
    statements, its publishing, its offsets, each with its timeout. Before it tries again, the consumer polls."""
    longest_ms = stay_every_ms + BATCH_STATEMENTS_MAX * statement_timeout_ms + delivery_timeout_ms + commit_timeout_ms
    if longest_ms >= max_poll_interval_ms:
        raise Fatal(
            f"a consumer may not poll for {longest_ms} ms ({stay_every_ms} ms of attempts, {BATCH_STATEMENTS_MAX} "
            f"statements of statement_timeout={statement_timeout_ms} ms, delivery.timeout.ms={delivery_timeout_ms}, "
            f"socket.timeout.ms={commit_timeout_ms} for the offsets), which must be less than max.poll.interval.ms="
            f"{max_poll_interval_ms}, or the group takes it for dead; lower the timeouts"
        )


def check_partitions(configured: int, found: Mapping[str, int]) -> None:
    """What the process was told of the partition count is what the broker has. `found` is by topic."""
    for topic, partitions in found.items():
        if partitions != configured:
            raise Fatal(
                f"TOPIC_PARTITIONS={configured}, but topic {topic!r} has {partitions} partitions; set it to the count "
                "that the topics were created with"
            )


def check_message_size(found: Mapping[str, int]) -> None:
    """Whatever a topic accepts can be parked. `found` is each topic's max.message.bytes."""
    for topic, size in found.items():
        if size > MESSAGE_BYTES_MAX:
            raise Fatal(
                f"topic {topic!r} accepts messages of max.message.bytes={size}, but an event of over "
                f"{MESSAGE_BYTES_MAX} bytes could not be parked in PostgreSQL; lower it"
            )


def check_connections(*, needed: int, taken: int, allowed: int, reserved: int) -> str:
    """A warning when the database server has no room for what this process may still open; empty when it has.

    Raises `Fatal` when it could not even serve this process alone. `allowed` is max_connections, of which `reserved`
    are for superusers; `taken` are open, by whomever.
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
