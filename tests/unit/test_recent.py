from hypothesis import given
from hypothesis import strategies as st

from common.events import Milliseconds, OrderId
from common.kafka.produce.batch import Acknowledged
from order.api.log.recent import RecentOrders


def place(offset: int) -> Acknowledged:
    return Acknowledged(0, offset, Milliseconds(offset))


@given(st.integers(1, 50), st.integers(0, 300))
def test_the_last_orders_are_known_and_the_number_kept_is_bounded(half: int, count: int) -> None:
    recent = RecentOrders(2 * half)
    for n in range(count):
        recent.remember(OrderId(f"order-{n}"), b"", place(n))
    kept = [n for n in range(count) if recent.get(OrderId(f"order-{n}"))]
    assert kept[-half:] == list(range(count))[-half:]
    assert len(kept) <= 2 * half


def test_large_orders_are_bounded_by_their_bytes() -> None:
    recent = RecentOrders(1_000, bytes_max=10_000)
    for n in range(200):
        recent.remember(OrderId(f"order-{n}"), b"x" * 1_000, place(n))
    kept = [n for n in range(200) if recent.get(OrderId(f"order-{n}"))]
    assert 5 <= len(kept) <= 10
    assert kept == list(range(200))[-len(kept) :]


def test_an_order_is_remembered_with_its_partition_and_offset() -> None:
    recent = RecentOrders()
    recent.remember(OrderId("order-1"), b"event", place(17))
    kept = recent.get(OrderId("order-1"))
    assert kept is not None
    assert (kept.value, kept.acknowledged.offset) == (b"event", 17)
    assert recent.get(OrderId("order-2")) is None
