"""The sequence in which marked rows are redriven: that of the log, whatever the broker's clock said."""

from collections.abc import Iterator

import pytest

from common.consume.redrive import marked
from common.kafka.broker import Partition
from common.postgres import Conn
from tests.stack import Stack

PARTITION = Partition("parked-order-test", 0)


@pytest.fixture
def payment(stack: Stack) -> Iterator[Conn]:
    """Payment's database, with a topic of its own that nobody reads. Nothing stays."""
    with stack.postgres.connect("payment") as owner:
        owner.autocommit = False
        owner.execute("INSERT INTO positions VALUES (%s, %s, 'now', 9, NULL)", PARTITION)
        yield owner
        owner.rollback()


def park(owner: Conn, offset: int, second: int, *, topic_id: str = "now", state: str = "redrive") -> None:
    owner.execute(
        """INSERT INTO parked_events (topic, partition, "offset", topic_id, key, value, record_time, root, error, state)
           VALUES (%s, %s, %s, %s, 'ann', '', to_timestamp(%s), true, '', %s)""",
        (*PARTITION, offset, topic_id, second, state),
    )


def turns(owner: Conn) -> list[tuple[str, int]]:
    return [(row.topic_id, row.record.offset) for row in marked(owner, [PARTITION])]


def test_a_clock_that_was_set_back_changes_nothing(payment: Conn) -> None:
    park(payment, 5, 1_000)
    park(payment, 6, 100)
    park(payment, 7, 500)
    assert turns(payment) == [("now", 5), ("now", 6), ("now", 7)]


def test_a_marked_row_waits_for_an_unmarked_one_before_it(payment: Conn) -> None:
    park(payment, 5, 1_000, state="parked")
    park(payment, 6, 100)
    assert turns(payment) == []


def test_rows_of_an_earlier_topic_come_first(payment: Conn) -> None:
    park(payment, 1, 100)
    park(payment, 8, 9_000, topic_id="before")
    assert turns(payment) == [("before", 8), ("now", 1)]
