"""How long orders linger, by `order.api.log.linger`."""

from math import isclose
from types import SimpleNamespace
from typing import Any

import pytest

from order.api.log.admission import SAMPLES_MIN, STANDSTILL_SAMPLES, Feed, Sample
from order.api.log.linger import LINGER_MAX_S, SHARE, UNSEEN_S, WAITING_MIN, linger_s, waited_s
from order.api.log.orders_log import OrdersLog

LEAST_S = 0.003


def samples(count: int = SAMPLES_MIN, **groups: tuple[float, float]) -> list[Sample]:
    """A sample each quarter of a second: of each consumer group, what it settles in a second and what waits for it."""
    feeds = {Feed(group, "orders"): figures for group, figures in groups.items()}
    return [
        Sample(
            number / 4,
            {feed: 1_000.0 + settled_per_s * number / 4 for feed, (settled_per_s, _) in feeds.items()},
            {feed: waiting for feed, (_, waiting) in feeds.items()},
            {},
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("wait_s", [0.0, UNSEEN_S, UNSEEN_S + LEAST_S / SHARE])
def test_who_is_settled_at_once_is_gathered_for_the_least_time(wait_s: float) -> None:
    assert isclose(linger_s(LEAST_S, samples(saga=(5_000.0, 5_000.0 * wait_s))), LEAST_S)


def test_a_share_of_what_orders_wait_goes_before_the_answer() -> None:
    assert isclose(linger_s(LEAST_S, samples(saga=(5_000.0, 2_500.0))), SHARE * (0.5 - UNSEEN_S))


def test_nobody_waits_longer_for_the_hand_over_than_the_most_of_it() -> None:
    assert linger_s(LEAST_S, samples(saga=(5_000.0, 500_000.0))) == LINGER_MAX_S
    assert linger_s(0.05, samples(saga=(5_000.0, 500_000.0))) == 0.05


def test_the_slowest_reader_tells() -> None:
    assert waited_s(samples(payment=(5_000.0, 1_000.0), saga=(5_000.0, 2_000.0))) == 0.4


def test_while_a_reader_is_away_nobody_s_answer_takes_longer() -> None:
    """The saga then holds every order for as long as it waits for results."""
    seen = samples(STANDSTILL_SAMPLES, payment=(0.0, 90_000.0), saga=(1_000.0, 600.0))
    assert linger_s(LEAST_S, seen) == LEAST_S
    assert linger_s(LEAST_S, samples(STANDSTILL_SAMPLES, saga=(1_000.0, 600.0))) == LINGER_MAX_S


def test_a_few_orders_that_wait_tell_nothing() -> None:
    assert waited_s(samples(saga=(10.0, WAITING_MIN - 1))) == 0.0


def test_what_waits_now_and_then_counts_by_its_mean() -> None:
    """A consumer that goes on by leaps does not make everybody wait."""
    leaping = samples(saga=(5_000.0, 0.0))
    leaping[-1] = leaping[-1]._replace(waiting={Feed("saga", "orders"): 4_000.0})
    assert waited_s(leaping) == 1_000.0 / 5_000.0


def test_without_looks_nothing_can_be_told() -> None:
    assert waited_s([]) == 0.0
    assert waited_s(samples(SAMPLES_MIN - 1, saga=(5_000.0, 5_000.0))) == 0.0


def test_the_log_gathers_as_long_as_the_looks_tell() -> None:
    log: Any = SimpleNamespace(_settings=SimpleNamespace(linger_ms=3), _publisher=SimpleNamespace(linger_s=0.0))
    OrdersLog.set_linger(log, samples(saga=(5_000.0, 500_000.0)))
    assert log._publisher.linger_s == LINGER_MAX_S
    OrdersLog.set_linger(log, ())
    assert log._publisher.linger_s == LEAST_S
