from hypothesis import given
from hypothesis import strategies as st

from common.inbox import LINGER_MAX_S, Rate, linger_s


def test_a_quiet_consumer_does_not_wait() -> None:
    assert linger_s(0) == 0
    assert linger_s(600) == 0


def test_a_busy_one_waits_for_the_whole_time() -> None:
    assert linger_s(3_500) == LINGER_MAX_S
    assert linger_s(10**9) == LINGER_MAX_S


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_wait_rises_with_the_rate(one: float, other: float) -> None:
    assert linger_s(min(one, other)) <= linger_s(max(one, other))


def test_the_rate_follows_what_arrives() -> None:
    rate = Rate()
    for tick in range(1, 101):
        rate.count(100, tick * 0.1)
    assert 950 < rate.per_s < 1_050
    for tick in range(101, 140):
        rate.count(0, tick * 0.1)
    assert rate.per_s < 10
