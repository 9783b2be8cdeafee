"""How long orders are gathered, by `order.pace`."""

from math import isclose

import pytest

from order.admission import Look
from order.pace import LOOKS, SHARE, SPACING_MAX_S, UNSEEN_S, WAITING_MIN, spacing_s, waited_s

LEAST_S = 0.003


def looks(count: int = LOOKS, **readers: tuple[float, float]) -> list[Look]:
    """A look each quarter of a second: of each reader, what it settles in a second and what waits for it."""
    return [
        Look(
            number / 4,
            {name: 1_000.0 + settled_per_s * number / 4 for name, (settled_per_s, _) in readers.items()},
            {name: waiting for name, (_, waiting) in readers.items()},
            {},
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("wait_s", [0.0, UNSEEN_S, UNSEEN_S + LEAST_S / SHARE])
def test_who_is_settled_at_once_is_gathered_for_the_least_time(wait_s: float) -> None:
    assert isclose(spacing_s(LEAST_S, looks(saga=(5_000.0, 5_000.0 * wait_s))), LEAST_S)


def test_a_share_of_what_orders_wait_goes_before_the_answer() -> None:
    assert isclose(spacing_s(LEAST_S, looks(saga=(5_000.0, 2_500.0))), SHARE * (0.5 - UNSEEN_S))


def test_nobody_waits_longer_for_the_hand_over_than_the_most_of_it() -> None:
    assert spacing_s(LEAST_S, looks(saga=(5_000.0, 500_000.0))) == SPACING_MAX_S
    assert spacing_s(0.05, looks(saga=(5_000.0, 500_000.0))) == 0.05


def test_the_slowest_reader_tells() -> None:
    assert waited_s(looks(payment=(5_000.0, 1_000.0), saga=(5_000.0, 2_000.0))) == 0.4


def test_a_reader_that_is_away_tells_nothing() -> None:
    assert spacing_s(LEAST_S, looks(payment=(0.0, 90_000.0))) == LEAST_S


def test_a_few_orders_that_wait_tell_nothing() -> None:
    assert waited_s(looks(saga=(10.0, WAITING_MIN - 1))) == 0.0


def test_what_waits_now_and_then_counts_by_its_mean() -> None:
    """A consumer that goes on by leaps does not make everybody wait."""
    leaping = looks(saga=(5_000.0, 0.0))
    leaping[-1] = leaping[-1]._replace(waiting={"saga": 4_000.0})
    assert waited_s(leaping) == 1_000.0 / 5_000.0


def test_without_looks_nothing_can_be_told() -> None:
    assert waited_s([]) == 0.0
    assert waited_s(looks(LOOKS - 1, saga=(5_000.0, 5_000.0))) == 0.0
