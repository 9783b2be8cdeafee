import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from order.api.log.admission import (
    BACKLOG_FREE,
    BURST_S,
    EVERYTHING,
    FACTOR_MIN,
    GROWTH,
    LITTLE_S,
    SAMPLES_KEPT,
    SAMPLES_MIN,
    SINGLES_FACTOR_MIN,
    STANDSTILL_SAMPLES,
    TARGET_S,
    Feed,
    Gate,
    Reader,
    Sample,
    admission,
    readers,
)

MAX = 1_000_000


FEED = Feed("payment", "orders")


def reader(waiting: float, settled_per_s: float = 1_000.0) -> Reader:
    return Reader(FEED, waiting, waiting, settled_per_s)


def test_while_the_consumers_keep_up_all_are_let_in() -> None:
    assert admission([reader(0, math.inf), reader(BACKLOG_FREE, 1.0), reader(TARGET_S / 2 * 999)], MAX) == EVERYTHING


def test_a_backlog_worth_the_target_lets_in_as_many_as_are_settled() -> None:
    assert admission([reader(TARGET_S * 20_000, 20_000.0)], MAX).orders_per_s == 20_000.0


def test_single_orders_come_in_whatever_batches_have_brought() -> None:
    found = admission([reader(900_000, 1_000.0)], MAX)
    assert found.singles_per_s == 1_000.0 * SINGLES_FACTOR_MIN
    assert found.orders_per_s == 1_000.0 * FACTOR_MIN


def test_a_limit_that_turns_nobody_away_is_lifted_when_the_backlog_is_gone() -> None:
    assert admission([reader(BACKLOG_FREE, 1_000.0)], MAX, None) == EVERYTHING


def test_a_limit_that_still_turns_somebody_away_stays_and_is_raised_while_next_to_nothing_waits() -> None:
    """As if it were lifted, all would come in again at once."""
    unknown, little = math.inf, 10.0
    assert admission([reader(little, unknown)], MAX, 700.0) == (700.0 * GROWTH, 700.0 * GROWTH, "")
    assert admission([reader(LITTLE_S * 9_000, unknown)], MAX, 9_000.0) == (9_000.0, 9_000.0, "")
    found = admission([reader(little, 20_000.0)], MAX, 700.0)
    assert found.orders_per_s is not None
    assert found.orders_per_s > 20_000.0


def test_a_limit_that_was_much_too_low_is_outgrown() -> None:
    """Its speed was measured while the machine was busy with something else, say; now nobody waits any more."""
    limit = 10.0
    for _ in range(60):
        found = admission([reader(1_000.0, math.inf)], MAX, limit).singles_per_s
        assert found is not None
        limit = found
    assert limit > 10_000.0


@pytest.mark.parametrize("capacity", [1_700.0, 6_200.0, 20_000.0])
@pytest.mark.parametrize("latency_s", [0.15, 0.4])
def test_an_overload_that_lasts_is_let_in_steadily_and_no_slower_than_it_is_settled(
    capacity: float, latency_s: float
) -> None:
    """Twice as much is offered as is settled, after a time in which only a quarter was. In steps of a sample."""
    waiting, settled, seen, limit, let_in = 0.0, 0.0, deque[Sample](maxlen=SAMPLES_KEPT), None, []
    for step in range(4 * 120):
        at_s, per_s = step / 4, capacity / 4 if step < 4 * 30 else capacity
        offered = 2 * capacity
        admitted = offered if limit is None else min(limit, offered)
        done = min(waiting + admitted / 4, per_s / 4)
        waiting, settled = waiting + admitted / 4 - done, settled + done
        unseen = admitted * latency_s  # what is on its way waits too, as the log tells it
        seen.append(Sample(at_s, {FEED: settled}, {FEED: waiting + unseen}, {FEED: waiting + unseen}))
        limit = admission(readers(seen), MAX, None if limit is None or limit >= offered else limit).singles_per_s
        let_in.append(admitted)
    late = let_in[-4 * 30 :]
    assert sum(late) / len(late) >= 0.9 * capacity
    assert waiting < 3 * capacity + 2 * BACKLOG_FREE
    assert sum(rate >= 2 * capacity for rate in late) <= 0.1 * len(late)


def test_the_slowest_counts() -> None:
    limited = admission([reader(20_000, 40_000.0), reader(20_000, 10_000.0)], MAX)
    assert limited == admission([reader(20_000, 10_000.0)], MAX)


@given(st.floats(BACKLOG_FREE + 1, MAX - 1), st.floats(BACKLOG_FREE + 1, MAX - 1), st.floats(1, 1e5))
def test_the_more_wait_the_fewer_come_in_but_never_none(one: float, other: float, per_s: float) -> None:
    less, more = sorted((one, other))
    allowed = [admission([reader(waiting, per_s)], MAX).orders_per_s for waiting in (less, more)]
    rates = [math.inf if rate is None else rate for rate in allowed]
    assert rates[0] >= rates[1] > 0


def test_a_service_that_is_away_is_no_overload() -> None:
    assert admission([reader(500_000, 0.0), reader(10)], MAX) == EVERYTHING
    # Nor is one that is slow while another stands still: nothing can be told from either.
    assert admission([reader(500_000, 0.0), reader(50_000)], MAX) == EVERYTHING


def test_there_is_an_end_to_what_is_kept_for_it() -> None:
    found = admission([reader(MAX, 0.0)], MAX)
    assert found.orders_per_s == 0.0
    assert "payment on orders" in found.reason


def samples(*waiting: float, settled_each: float = 100.0) -> list[Sample]:
    """A quarter of a second apart."""
    return [
        Sample(n / 4, {FEED: n * settled_each}, {FEED: orders}, {FEED: 2 * orders}) for n, orders in enumerate(waiting)
    ]


def test_a_consumer_with_much_to_do_shows_its_speed() -> None:
    assert readers(samples(*[50_000.0] * SAMPLES_MIN)) == [Reader(FEED, 50_000.0, 100_000.0, 400.0)]


def test_what_it_showed_a_moment_ago_counts_when_it_has_caught_up() -> None:
    assert readers(samples(*[50_000.0] * SAMPLES_MIN, 0.0)) == [Reader(FEED, 0.0, 0.0, 400.0)]


def test_a_pause_is_no_standstill() -> None:
    waits = [50_000.0] * STANDSTILL_SAMPLES
    assert readers(samples(*waits[1:], settled_each=0.0))[0].settled_per_s == math.inf
    assert readers(samples(*waits, settled_each=0.0))[0].settled_per_s == 0.0


def test_the_time_before_a_service_came_back_does_not_make_it_slow() -> None:
    away, back = samples(*[90_000.0] * SAMPLES_KEPT, settled_each=0.0), samples(*[90_000.0] * SAMPLES_MIN)
    later = [Sample(sample.at_s + SAMPLES_KEPT / 4, *sample[1:]) for sample in back]
    assert readers([*away, *later])[0].settled_per_s == 400.0


def test_who_is_busy_with_another_topic_does_not_stand_still() -> None:
    one, other = Feed("order-saga", "payments"), Feed("order-saga", "orders")
    seen = [
        Sample(n / 4, {one: 0.0, other: settled}, {one: 50_000.0, other: 50_000.0}, {one: 50_000.0, other: 50_000.0})
        for n, settled in enumerate(range(0, 100 * STANDSTILL_SAMPLES, 100))
    ]
    assert [found.settled_per_s for found in readers(seen)] == [math.inf, 400.0]


def test_a_burst_says_nothing_of_the_consumers_speed() -> None:
    assert admission(readers(samples(*[0.0] * (SAMPLES_MIN - 1), 50_000.0)), MAX) == EVERYTHING
    assert admission(readers(samples(50_000.0)), MAX) == EVERYTHING


def admitted(gate: Gate, *, per_s: int, seconds: int, at_s: float = 0.0, each: int = 1) -> int:
    return sum(gate.admits(each, at_s + n / per_s) for n in range(per_s * seconds)) * each


def test_a_gate_without_a_rate_is_open() -> None:
    assert admitted(Gate(), per_s=10_000, seconds=1) == 10_000


def test_a_gate_lets_in_its_rate_however_much_comes() -> None:
    gate = Gate()
    gate.set_rate(1_000.0, 0.0)
    for second in range(3):
        assert abs(admitted(gate, per_s=7_000, seconds=1, at_s=second) - 1_000) <= 1_000 * BURST_S + 1


def test_many_at_once_are_let_in_on_credit_and_paid_for() -> None:
    gate = Gate()
    gate.set_rate(1_000.0, 0.0)
    assert abs(admitted(gate, per_s=100, seconds=4, each=100) - 4_000) <= 200


def test_a_quiet_time_is_not_saved_up() -> None:
    gate = Gate()
    gate.set_rate(1_000.0, 0.0)
    assert sum(gate.admits(1, 3_600.0) for _ in range(1_000)) == 1_000 * BURST_S


def test_a_gate_of_rate_nought_is_shut() -> None:
    gate = Gate()
    gate.set_rate(0.0, 0.0)
    assert admitted(gate, per_s=100, seconds=10) == 0
