from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from common.backoff import delay_s, delays_s


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_above_the_cap_nor_below_zero(attempt: int, draw: float) -> None:
    assert 0 <= delay_s(attempt, draw, first_s=0.05, cap_s=5) < 5


def test_the_bound_doubles_until_the_cap() -> None:
    assert [delay_s(n, 0.5, first_s=1, cap_s=8) for n in range(6)] == [0.5, 1, 2, 4, 4, 4]


def test_the_jitter_is_full() -> None:
    assert delay_s(3, 0.0, first_s=1, cap_s=100) == 0
    assert delay_s(3, 0.999, first_s=1, cap_s=100) > 7.9


def test_the_series_goes_on_for_ever() -> None:
    delays = list(islice(delays_s(first_s=1, cap_s=4, draw=lambda: 0.5), 2_000))
    assert delays[:4] == [0.5, 1, 2, 2]
    assert delays[-1] == 2
