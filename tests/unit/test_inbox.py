from hypothesis import given
from hypothesis import strategies as st

from common.inbox import SPACING_MAX_S, SPACING_OF_BUSY, spacing_s


def test_a_consumer_rests_for_a_share_of_the_time_that_its_last_batch_took() -> None:
    assert spacing_s(0.004) == SPACING_OF_BUSY * 0.004


def test_however_long_a_batch_took_the_next_is_not_put_off_for_longer_than_the_limit() -> None:
    assert spacing_s(60.0) == SPACING_MAX_S


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_the_spacing_rises_with_the_work(one: float, other: float) -> None:
    assert spacing_s(min(one, other)) <= spacing_s(max(one, other))
