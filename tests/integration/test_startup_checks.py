"""Limits that depend on one another are checked at start, against the real broker (`common.consume.limits`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from common.errors import Fatal
from common.events import ORDERS
from common.kafka.broker import message_bytes_max
from common.kafka.clients import MESSAGE_BYTES_MAX
from dev.logs import tail
from ops.migrate import ensure_database
from tests.stack import Instance, Stack
from tests.waiting import eventually

NUMBER = 9


@contextmanager
def started(stack: Stack, name: str, settings: Mapping[str, str]) -> Iterator[Instance]:
    """One more instance, with these settings."""
    instance = stack.launch(name, NUMBER, settings)
    try:
        yield instance
    finally:
        del stack.instances[instance.name]
        instance.kill()


def unready(instance: Instance, *named: str) -> bool:
    missing = instance.unready()
    return missing is not None and all(name in missing for name in named)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ORDER_DEADLINE_MS": "20000"}, ("ORDER_DEADLINE_MS=20000", "delivery.timeout.ms=10000")),
        ({"ORDERS_IN_FLIGHT_MAX": "5000"}, ("ORDERS_IN_FLIGHT_MAX=5000", "queue.buffering.max.kbytes=65536")),
    ],
    ids=["a request waits longer than the log", "more in flight than fits"],
)
def test_an_api_whose_limits_contradict_one_another_says_so_and_ends(
    stack: Stack, settings: Mapping[str, str], named: tuple[str, ...]
) -> None:
    with started(stack, "order-api", settings) as api:
        assert api.process is not None
        assert api.process.wait(30) == 2
        log = tail(api.log)
        assert all(name in log for name in named), log


def test_a_consumer_that_was_told_another_partition_count_takes_nothing(stack: Stack) -> None:
    with started(stack, "payment", {"TOPIC_PARTITIONS": "7"}) as payment:
        eventually(lambda: unready(payment, "TOPIC_PARTITIONS=7", "6 partitions"), "both counts are named")


def test_a_topic_that_accepts_records_too_large_to_park_is_refused(stack: Stack) -> None:
    too_much = str(MESSAGE_BYTES_MAX + 1)

    usual = message_bytes_max(stack.admin, [ORDERS])[ORDERS]
    stack.set_topic(ORDERS, "max.message.bytes", too_much)
    try:
        with started(stack, "inventory", {}) as inventory:
            eventually(
                lambda: unready(inventory, f"max.message.bytes={too_much}", str(MESSAGE_BYTES_MAX)), "both named"
            )
    finally:
        stack.set_topic(ORDERS, "max.message.bytes", str(usual))


def test_a_database_in_another_encoding_is_refused_and_a_new_one_is_utf8(stack: Stack) -> None:
    """Text would come out of it as bytes, and nothing would be found by its name."""
    with stack.postgres.connect() as connection:
        connection.autocommit = True
        connection.execute(
            "CREATE DATABASE ascii_shop ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'"
        )
        try:
            with pytest.raises(Fatal, match="'ascii_shop' is encoded as SQL_ASCII, must be UTF8"):
                ensure_database(connection, "ascii_shop")
            connection.execute("DROP DATABASE ascii_shop")
            ensure_database(connection, "ascii_shop")
            query = "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'ascii_shop'"
            assert connection.execute(query).fetchone() == ("UTF8",)
        finally:
            connection.execute("DROP DATABASE IF EXISTS ascii_shop")
