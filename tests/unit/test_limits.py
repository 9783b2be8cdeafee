import pytest

from common import postgres
from common.consume import limits
from common.consume.inbox import POLL_AT_LEAST_EVERY_S
from common.errors import Fatal
from common.kafka import clients
from common.kafka.clients import MESSAGE_BYTES_MAX

STATEMENTS_MAX = 13
"""In the longest batch's transaction, which is payment's: BEGIN, lock positions, read the guards, lock accounts, read
payments, read who is blocked, COPY payments, COPY ledger, park, update payments, update balances, advance, COMMIT."""


def test_the_longest_batch_is_shorter_than_the_poll_interval() -> None:
    """Between two polls a consumer may repeat a batch for `POLL_AT_LEAST_EVERY_S`, and then once more: its statements,
    its publishing, its offsets, each with its timeout. After the poll interval the group takes the consumer for
    dead."""
    longest_ms = (
        int(POLL_AT_LEAST_EVERY_S * 1_000)
        + STATEMENTS_MAX * postgres.STATEMENT_TIMEOUT_MS
        + clients.DELIVERY_TIMEOUT_MS
        + clients.SOCKET_TIMEOUT_MS
    )
    assert longest_ms < clients.MAX_POLL_INTERVAL_MS


def test_another_partition_count_than_the_brokers_is_refused_naming_both() -> None:
    limits.check_partitions(12, {"orders": 12, "payments": 12})
    with pytest.raises(Fatal, match="TOPIC_PARTITIONS=12, but topic 'orders' has 6 partitions"):
        limits.check_partitions(12, {"orders": 6})


def test_a_topic_that_accepts_records_too_large_to_park_is_refused_naming_both() -> None:
    limits.check_message_size({"orders": MESSAGE_BYTES_MAX})
    with pytest.raises(Fatal, match=r"'orders' accepts .* max.message.bytes=134217729, .* 134217728 bytes"):
        limits.check_message_size({"orders": MESSAGE_BYTES_MAX + 1})


def test_a_process_that_needs_more_connections_than_there_are_is_refused_naming_both() -> None:
    with pytest.raises(Fatal, match=r"needs 6 database connections, but max_connections=8 less 3 reserved allows 5"):
        limits.check_connections(needed=6, taken=0, allowed=8, reserved=3)


def test_connections_that_others_hold_are_a_warning_naming_both() -> None:
    assert limits.check_connections(needed=6, taken=91, allowed=100, reserved=3) == ""
    warning = limits.check_connections(needed=6, taken=92, allowed=100, reserved=3)
    assert "92 database connections are open" in warning
    assert "max_connections=100 less 3 reserved allows 97" in warning
