"""Token buckets: what a key may send, and what is kept of the keys."""

from hypothesis import given
from hypothesis import strategies as st

from common.http.limits.buckets import Buckets, Rate

NOW = 5_000.0


def taken(buckets: Buckets, key: str, now: float, times: int) -> int:
    return sum(buckets.take(key, now) == 0 for _ in range(times))


def test_a_key_may_send_its_burst_at_once_and_then_its_rate() -> None:
    buckets = Buckets(Rate(50, 200))
    assert taken(buckets, "cust-1", NOW, 300) == 200
    assert taken(buckets, "cust-1", NOW + 1, 300) == 50
    assert taken(buckets, "cust-1", NOW + 100, 300) == 200


def test_a_refusal_says_when_there_is_a_token_and_takes_none() -> None:
    buckets = Buckets(Rate(50, 200))
    assert taken(buckets, "cust-1", NOW, 200) == 200
    waits = {buckets.take("cust-1", NOW) for _ in range(10)}
    assert len(waits) == 1
    assert abs(waits.pop() - 0.02) < 1e-6
    assert taken(buckets, "cust-1", NOW + 0.021, 10) == 1


def test_keys_do_not_share_a_bucket() -> None:
    buckets = Buckets(Rate(1, 3))
    assert taken(buckets, "greedy", NOW, 100) == 3
    assert taken(buckets, "modest", NOW, 1) == 1


def test_many_tokens_are_taken_together_or_as_far_as_they_go() -> None:
    buckets = Buckets(Rate(10, 100))
    assert buckets.take("cust-1", NOW, 101) > 0
    assert buckets.left("cust-1", NOW) == 100
    assert buckets.take("cust-1", NOW, 60) == 0
    assert buckets.left("cust-1", NOW) == 40
    assert buckets.take_up_to("cust-1", NOW, 1_000) == 40
    assert buckets.take_up_to("cust-1", NOW, 1_000) == 0
    assert buckets.take_up_to("cust-1", NOW + 1, 1_000) == 10


def test_a_bucket_is_kept_while_it_is_not_full_and_forgotten_after() -> None:
    buckets = Buckets(Rate(10, 100))  # 10 s to fill
    assert taken(buckets, "cust-1", NOW, 100) == 100
    for second in range(1, 9):
        assert taken(buckets, "other", NOW + second, 1) == 1
    assert buckets.left("cust-1", NOW + 9) == 90
    for second in range(10, 40, 10):
        buckets.take("other", NOW + second)
    assert len(buckets) <= 2
    assert buckets.left("cust-1", NOW + 40) == 100


def test_memory_is_bounded_and_those_in_use_are_not_forgotten() -> None:
    buckets = Buckets(Rate(1, 10), keys_max=100)
    assert taken(buckets, "busy", NOW, 10) == 10
    for n in range(10_000):
        buckets.take(f"address-{n}", NOW)
        if n % 50 == 0:
            assert buckets.take("busy", NOW) > 0
        assert len(buckets) <= 200


@given(
    st.integers(1, 10_000),
    st.integers(1, 10_000),
    st.lists(st.tuples(st.floats(0, 20, allow_nan=False), st.integers(1, 50)), max_size=60),
)
def test_no_sequence_of_requests_gets_more_than_burst_and_rate(
    per_s: int, burst: int, requests: list[tuple[float, int]]
) -> None:
    """And one that is refused has really nothing to take: by a bucket that is filled step by step."""
    buckets, tokens, now = Buckets(Rate(per_s, burst)), float(burst), NOW
    for pause_s, wanted in requests:
        now += pause_s
        tokens = min(burst, tokens + pause_s * per_s)
        got = buckets.take(str(per_s), now, wanted) == 0
        if abs(tokens - wanted) > 1e-3:
            assert got == (tokens > wanted)
        if got:
            tokens -= wanted
