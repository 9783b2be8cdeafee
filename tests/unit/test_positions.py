import pytest

from common.consume.positions import (
    ENDS_ASKED,
    Start,
    Stored,
    Truncated,
    WentBack,
    check_not_superseded,
    confirmed,
    start_offset,
)
from common.errors import LossDetected, Superseded
from common.kafka.broker import Partition, Topic, check_partition_counts, check_same

PARTITION = Partition("orders", 3)


def start(*, position: int, committed: int | None, first: int = 0, end: int = 100, topic_id: str = "one") -> int:
    return start_offset(PARTITION, topic_id, Stored("one", position), committed, first, end)


def test_reading_starts_at_the_smaller_of_position_and_committed_offset() -> None:
    assert start(position=50, committed=40) == 40, "stored, but perhaps not published: publish it again"


def test_a_database_behind_its_committed_offsets_has_lost_transactions() -> None:
    """The database commits first. Committed offsets that are ahead of it prove that it lost what it had committed."""
    with pytest.raises(LossDetected, match=r"offset 50 is committed, but the database's position is 40.*'just replay'"):
        start(position=40, committed=50)
    assert start(position=50, committed=50) == 50


def test_without_a_committed_offset_reading_starts_at_the_beginning() -> None:
    assert start(position=50, committed=None) == 0
    assert start(position=50, committed=None, first=20) == 20
    assert start(position=0, committed=None) == 0


def test_a_trimmed_log_is_fine_up_to_the_position() -> None:
    assert start(position=50, committed=50, first=50) == 50
    with pytest.raises(LossDetected, match="starts at offset 51, after the position 50"):
        start(position=50, committed=50, first=51)


def test_a_log_that_ends_before_the_position_was_truncated() -> None:
    assert start(position=100, committed=100, end=100) == 100
    with pytest.raises(LossDetected, match="ends at offset 100, before the position 101"):
        start(position=101, committed=101, end=100)


def test_a_topic_created_anew_is_not_the_one_that_was_read() -> None:
    with pytest.raises(LossDetected, match="created anew"):
        start(position=5, committed=5, topic_id="two")


def test_a_result_goes_to_its_orders_partition_number_so_counts_must_be_equal() -> None:
    topics = {"orders": Topic("orders", "a", 12), "payments": Topic("payments", "b", 12)}
    check_partition_counts(topics)
    with pytest.raises(LossDetected, match="equal partition counts"):
        check_partition_counts({**topics, "inventory": Topic("inventory", "c", 6)})


def test_a_topic_is_the_same_while_its_id_and_its_partition_count_are() -> None:
    described = Topic("orders", "a", 12)
    check_same(described, Topic("orders", "a", 12))
    with pytest.raises(LossDetected, match="created anew"):
        check_same(described, Topic("orders", "b", 12))
    with pytest.raises(LossDetected, match="has 13 partitions, positions are known for 12"):
        check_same(described, Topic("orders", "a", 13))


def test_a_position_behind_the_one_that_was_stored_is_a_database_that_went_back() -> None:
    other = Partition("orders", 4)
    known = {PARTITION: 50, other: 7}
    check_not_superseded(known, {PARTITION: 50, other: 7}, known)
    with pytest.raises(Superseded, match="another instance has it"):
        check_not_superseded(known, {PARTITION: 51, other: 7}, known)
    with pytest.raises(
        WentBack, match=r"orders/3: the database went back: its position is 49, and 50 was stored"
    ) as back:
        check_not_superseded(known, {PARTITION: 49, other: 7}, known)
    assert back.value.positions == {PARTITION: 50}, "the others stay as they are committed"
    assert isinstance(back.value, LossDetected)


class Ends:
    """Answers of brokers, of which the first ones are cut off from the others."""

    def __init__(self, cut_off: int) -> None:
        self.cut_off, self.asked = cut_off, 0

    def find(self, _: object) -> list[Start]:
        self.asked += 1
        if self.asked <= self.cut_off:
            raise Truncated("the log ends at offset 5, before the position 7")
        return []

    def confirmed(self, copies: int) -> list[Start]:
        return confirmed(self.find, object(), object, copies)  # type: ignore[arg-type]


def test_a_broker_that_is_cut_off_is_no_truncated_log() -> None:
    ends = Ends(cut_off=2)
    assert ends.confirmed(copies=3) == []
    assert ends.asked == 3


@pytest.mark.parametrize(("copies", "asked"), [(3, ENDS_ASKED), (1, 1)])
def test_a_log_that_all_say_was_truncated_is_a_loss(copies: int, asked: int) -> None:
    ends = Ends(cut_off=1_000)
    with pytest.raises(LossDetected, match="ends at offset 5"):
        ends.confirmed(copies)
    assert ends.asked == asked
