"""Slots: the same for all consumers, and longer for those that are busy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.consume.timetable import LONG_FROM, LONG_SLOT_S, LONG_UNTIL, SLOT_S, Timetable

START_S = 100.0
FETCH_S = 0.005
"""A batch begins so long after its slot."""


class Consumer:
    """Begins a batch in each slot of its timetable, or as soon as the one before has ended."""

    def __init__(self, phase: float = 0.0) -> None:
        self.timetable = Timetable(phase)
        self.at_s = START_S
        self.switches = 0

    def work(self, batch_s: float, batches: int = 200) -> "Consumer":
        for _ in range(batches):
            before_s = self.timetable.slot_s
            self.timetable.began(self.at_s)
            self.switches += self.timetable.slot_s != before_s
            self.timetable.ended(self.at_s + batch_s)
            self.at_s += max(batch_s, self.timetable.until_next_slot_s(self.at_s) + FETCH_S)
        return self

    @property
    def slot_s(self) -> float:
        return self.timetable.slot_s


@given(st.floats(0, 1e10), st.sampled_from([0.0, 0.4]), st.sampled_from([0.001, 0.04]))
def test_the_next_slot_begins_within_a_slot_and_at_the_same_moment_for_all(
    at_s: float, phase: float, batch_s: float
) -> None:
    timetable = Consumer(phase).work(batch_s).timetable
    until_s = timetable.until_next_slot_s(at_s)
    assert 0 < until_s <= timetable.slot_s
    slots = (at_s + until_s) / timetable.slot_s - phase
    assert slots == pytest.approx(round(slots), abs=1e-3)


def test_every_second_short_slot_begins_a_long_one() -> None:
    def starts(timetable: Timetable, slots: int) -> list[float]:
        middles_s = [(n + 0.5) * timetable.slot_s for n in range(slots)]
        return [round(at_s + timetable.until_next_slot_s(at_s), 6) for at_s in middles_s]

    short, long = Timetable(0.0), Consumer().work(SLOT_S).timetable
    assert long.slot_s == LONG_SLOT_S
    assert starts(long, 20) == starts(short, 40)[1::2]


def test_a_consumer_that_works_for_a_third_of_the_time_takes_long_slots() -> None:
    assert Consumer().work((LONG_FROM - 0.01) * SLOT_S).slot_s == SLOT_S
    assert Consumer().work((LONG_FROM + 0.01) * SLOT_S).slot_s == LONG_SLOT_S


def test_slots_stay_long_until_little_is_worked() -> None:
    busy = Consumer().work(SLOT_S)
    assert busy.work((LONG_UNTIL + 0.01) * LONG_SLOT_S).slot_s == LONG_SLOT_S
    assert busy.work((LONG_UNTIL - 0.01) * LONG_SLOT_S).slot_s == SLOT_S


@given(st.floats(0, 1))
def test_a_batch_that_always_takes_as_long_changes_slots_once_at_most(share: float) -> None:
    """Even if it takes as long in long slots, and so half of the share."""
    assert Consumer().work(share * SLOT_S, batches=1_000).switches <= 1


def test_slow_batches_that_come_seldom_are_not_busy() -> None:
    consumer = Consumer()
    for _ in range(100):
        consumer.at_s += 1.0
        consumer.work(LONG_SLOT_S, batches=1)
        assert consumer.slot_s == SLOT_S


def test_slots_are_short_again_after_some_seconds_without_a_batch() -> None:
    busy = Consumer().work(SLOT_S)
    busy.at_s += 5.0
    assert busy.work(0.001, batches=2).slot_s == SLOT_S


def test_a_batch_ends_once() -> None:
    """The inbox says so before each poll, also when no record comes."""
    timetable = Timetable(0.0)
    for n in range(1_000):
        at_s = START_S + n * SLOT_S
        timetable.began(at_s)
        timetable.ended(at_s + 0.1 * SLOT_S)
        timetable.ended(at_s + 0.9 * SLOT_S)
    assert timetable.slot_s == SLOT_S
