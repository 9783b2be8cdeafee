import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from order.api.log.admission import (
    BUSY_ORDERS,
    BUSY_SAMPLES_MIN,
    CALM_ROOM_MIN,
    CALM_SAMPLE_EVERY_S,
    EVERYTHING,
    LINGER_MAX_S,
    MANY_SHARE,
    SAMPLE_EVERY_S,
    SAMPLES_KEPT,
    SPEED_S,
    STANDSTILL_SAMPLES,
    UNSEEN_S,
    Admission,
    Feed,
    Sample,
    admission,
    linger_s,
    next_sample_s,
    speed,
)

MAX = 1_000_000
WITHIN_S = 60.0
PAYMENT, STOCK = Feed("payment", "orders"), Feed("inventory", "orders")
STEP_S = 0.25


def steady(waiting: float, settled_per_s: float, feed: Feed = PAYMENT, count: int = SAMPLES_KEPT) -> list[Sample]:
    """Samples of one consumer that settles at this rate while this number of orders waits."""
    return [Sample(n * STEP_S, {feed: n * STEP_S * settled_per_s}, {feed: waiting}) for n in range(count)]


def test_a_burst_is_admitted_while_the_speed_of_the_consumers_is_unknown() -> None:
    admitted = admission(steady(200_000.0, 3_000.0, count=BUSY_SAMPLES_MIN), WITHIN_S, MAX)
    assert (admitted.singles, admitted.wait_s) == (MAX - 200_000, 0.0)


def test_idle_consumers_do_not_show_their_speed() -> None:
    assert speed(PAYMENT, steady(BUSY_ORDERS, 100.0)) == math.inf


def test_orders_are_admitted_while_the_backlog_can_be_settled_in_time() -> None:
    admitted = admission(steady(100_000.0, 3_000.0), WITHIN_S, MAX)
    assert (admitted.singles, admitted.many) == (80_000.0, max(0.0, MANY_SHARE * 180_000 - 100_000))
    assert admitted.wait_s == pytest.approx(100_000 / 3_000)


def test_past_the_limit_no_order_is_admitted_and_the_client_is_told_when_to_retry() -> None:
    admitted = admission(steady(186_000.0, 3_000.0), WITHIN_S, MAX)
    assert (admitted.singles, admitted.many, admitted.retry_after_s) == (0.0, 0.0, 3)
    assert admitted.reason == "186,000 orders wait for payment on orders, which is behind or away"


def test_the_slowest_consumer_counts() -> None:
    fast, slow = steady(20_000.0, 40_000.0), steady(20_000.0, 1_000.0, STOCK)
    both = [
        Sample(a.at_s, {**a.settled, **b.settled}, {**a.waiting, **b.waiting}) for a, b in zip(fast, slow, strict=True)
    ]
    assert admission(both, WITHIN_S, MAX) == admission(slow, WITHIN_S, MAX)


def test_a_service_that_is_away_is_no_overload() -> None:
    admitted = admission(steady(500_000.0, 0.0), WITHIN_S, MAX)
    assert (admitted.singles, admitted.wait_s) == (500_000.0, 0.0)


def test_a_service_that_has_just_gone_away_is_no_overload_once_it_stands_still() -> None:
    before = steady(100_000.0, 2_000.0)
    last = before[-1]
    still = [last._replace(at_s=last.at_s + n * STEP_S) for n in range(1, STANDSTILL_SAMPLES)]
    assert speed(PAYMENT, [*before, *still[:-1]]) < 2_000.0
    assert speed(PAYMENT, [*before, *still]) == math.inf


@pytest.mark.parametrize("limit", [MAX, MAX + 10])
def test_the_log_takes_up_to_its_limit_whether_its_readers_are_away_or_fast(limit: int) -> None:
    away, fast = Sample(0.0, {PAYMENT: 0.0}, {PAYMENT: MAX}), steady(MAX, 1e6)
    assert admission([away], WITHIN_S, limit).singles == admission(fast, WITHIN_S, limit).singles == limit - MAX


def test_without_a_backlog_orders_are_admitted_up_to_the_limit_of_the_log() -> None:
    assert admission(steady(0.0, 0.0), WITHIN_S, MAX).singles == MAX
    assert EVERYTHING.singles == math.inf


@given(st.floats(0, MAX), st.floats(0, MAX), st.floats(1, 1e5))
def test_a_longer_backlog_admits_fewer_orders(first: float, second: float, per_s: float) -> None:
    less, more = (admission(steady(waiting, per_s), WITHIN_S, MAX) for waiting in sorted((first, second)))
    assert less.singles >= more.singles >= 0
    assert less.many >= more.many >= 0


@pytest.mark.parametrize("capacity", [1_700.0, 6_200.0, 20_000.0])
@pytest.mark.parametrize("processes", [1, 3])
def test_under_lasting_overload_orders_are_admitted_as_fast_as_they_settle(capacity: float, processes: int) -> None:
    """Twice as many orders are offered as are settled. No api process knows of the others."""
    within_s, waiting, settled, room = 10.0, 0.0, 0.0, math.inf
    samples = deque[Sample](maxlen=SAMPLES_KEPT)
    admitted_late = most = 0.0
    steps = 4 * 120
    for step in range(steps):
        admitted = min(2 * capacity * STEP_S, processes * room)
        done = min(waiting + admitted, capacity * STEP_S)
        waiting, settled = waiting + admitted - done, settled + done
        samples.append(Sample(step * STEP_S, {PAYMENT: settled}, {PAYMENT: waiting}))
        room = admission(samples, within_s, MAX).singles
        if step >= steps / 2:
            admitted_late += admitted
            most = max(most, waiting)
    assert admitted_late >= 0.95 * capacity * steps / 2 * STEP_S
    assert most <= (within_s + processes * STEP_S) * capacity


@pytest.mark.parametrize(
    ("waiting", "room", "expected"),
    [
        (BUSY_ORDERS, MAX, CALM_SAMPLE_EVERY_S),
        (BUSY_ORDERS + 1, MAX, SAMPLE_EVERY_S),
        (0.0, CALM_ROOM_MIN, CALM_SAMPLE_EVERY_S),
        (0.0, CALM_ROOM_MIN - 1, SAMPLE_EVERY_S),
    ],
)
def test_samples_are_few_while_no_consumer_is_behind_and_no_limit_is_near(
    waiting: float, room: float, expected: float
) -> None:
    waits = {PAYMENT: 0.0, STOCK: waiting}
    assert next_sample_s(Sample(0.0, {}, waits), Admission(singles=2 * room, many=room)) == expected


def test_a_speed_is_forgotten_after_its_time_however_far_apart_the_samples_are() -> None:
    busy = steady(2 * BUSY_ORDERS, 900.0, count=SAMPLES_KEPT // 2)
    idle = {PAYMENT: 0.0}

    def calm(seconds: int) -> list[Sample]:
        last = busy[-1]
        return [Sample(last.at_s + n + 1, last.settled, idle) for n in range(seconds)]

    assert speed(PAYMENT, [*busy, *calm(5)]) == pytest.approx(900.0)
    assert speed(PAYMENT, [*busy, *calm(int(SPEED_S))]) == math.inf


def test_orders_linger_for_longer_while_they_wait_to_be_settled() -> None:
    assert linger_s(0.003, 0.0) == linger_s(0.003, UNSEEN_S) == 0.003
    assert linger_s(0.003, UNSEEN_S + 0.1) == pytest.approx(0.008)
    assert linger_s(0.003, 60.0) == LINGER_MAX_S
    assert linger_s(0.05, 60.0) == 0.05
