import pytest

from common import postgres
from common.consume import limits
from common.consume.inbox import STAY_EVERY_S
from common.errors import Fatal
from common.kafka import clients

TIMES = {
    "stay_every_ms": int(STAY_EVERY_S * 1_000),
    "statement_timeout_ms": postgres.STATEMENT_TIMEOUT_MS,
    "delivery_timeout_ms": clients.DELIVERY_TIMEOUT_MS,
    "commit_timeout_ms": clients.SOCKET_TIMEOUT_MS,
    "max_poll_interval_ms": clients.MAX_POLL_INTERVAL_MS,
}


def test_our_own_limits_agree_with_one_another() -> None:
    limits.check_batch_time(**TIMES)


def test_a_batch_that_may_outlast_the_poll_interval_is_refused_naming_both() -> None:
    with pytest.raises(Fatal, match=r"statement_timeout=30000 ms.* max.poll.interval.ms=300000"):
        limits.check_batch_time(**{**TIMES, "statement_timeout_ms": 30_000})


def test_the_longest_batch_must_be_shorter_not_just_as_long() -> None:
    times = dict.fromkeys(TIMES, 0) | {"statement_timeout_ms": 1}
    limits.check_batch_time(**{**times, "max_poll_interval_ms": limits.BATCH_STATEMENTS_MAX + 1})
    with pytest.raises(Fatal):
        limits.check_batch_time(**{**times, "max_poll_interval_ms": limits.BATCH_STATEMENTS_MAX})


def test_another_partition_count_than_the_brokers_is_refused_naming_both() -> None:
    limits.check_partitions(12, {"orders": 12, "payments": 12})
    with pytest.raises(Fatal, match="TOPIC_PARTITIONS=12, but topic 'orders' has 6 partitions"):
        limits.check_partitions(12, {"orders": 6})


def test_a_topic_that_accepts_what_cannot_be_parked_is_refused_naming_both() -> None:
    limits.check_message_size({"orders": limits.MESSAGE_BYTES_MAX})
    with pytest.raises(Fatal, match=r"'orders' accepts .* max.message.bytes=134217729, .* 134217728 bytes"):
        limits.check_message_size({"orders": limits.MESSAGE_BYTES_MAX + 1})


def test_a_process_that_needs_more_connections_than_there_are_is_refused_naming_both() -> None:
    with pytest.raises(Fatal, match=r"needs 6 database connections, but max_connections=8 less 3 reserved allows 5"):
        limits.check_connections(needed=6, taken=0, allowed=8, reserved=3)


def test_connections_that_others_hold_are_a_warning_naming_both() -> None:
    assert limits.check_connections(needed=6, taken=91, allowed=100, reserved=3) == ""
    warning = limits.check_connections(needed=6, taken=92, allowed=100, reserved=3)
    assert "92 database connections are open" in warning
    assert "max_connections=100 less 3 reserved allows 97" in warning
