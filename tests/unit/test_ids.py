import re
import uuid
from collections.abc import Callable

import pytest

from common.events import UUID_PATTERN, OrderId, now
from common.tracing.ids import sampling
from order.api.place.ids import adopted_traceparent, new_order_id

ORDER_ID = OrderId("01a20698-5702-759d-bf21-11993ae5d7ab")
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_order_ids_are_version_7_of_the_present_time() -> None:
    before = now()
    order_id = new_order_id()
    assert re.match(UUID_PATTERN, order_id)
    parsed = uuid.UUID(order_id)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= parsed.int >> 80 <= now()


def test_order_ids_rise_and_differ_also_within_a_millisecond() -> None:
    drawn = [new_order_id() for _ in range(20_000)]
    assert drawn == sorted(set(drawn))


def test_a_valid_trace_is_taken_over() -> None:
    assert adopted_traceparent(TRACE, ORDER_ID, None) == TRACE.decode()


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    future = b"cc" + TRACE[2:]
    assert adopted_traceparent(future + b"-what-the-future-holds", ORDER_ID, None) == TRACE.decode()
    assert adopted_traceparent(future, ORDER_ID, None) == TRACE.decode()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda trace: None,
        lambda trace: b"",
        lambda trace: trace + b"-more",
        lambda trace: trace.upper(),
        lambda trace: b"ff" + trace[2:],
        lambda trace: trace[:-1],
        lambda trace: trace + b"\n",
        lambda trace: trace.replace(b"-", b"_"),
        lambda trace: b"00-" + b"0" * 32 + trace[35:],
        lambda trace: trace[:36] + b"0" * 16 + trace[52:],
    ],
)
def test_an_invalid_trace_is_replaced_by_the_orders_own(spoil: Callable[[bytes], bytes | None]) -> None:
    adopted = adopted_traceparent(spoil(TRACE), ORDER_ID, None)
    assert adopted == "00-01a206985702759dbf2111993ae5d7ab-bf2111993ae5d7ab-00"


def test_the_trace_says_whether_it_is_recorded() -> None:
    assert adopted_traceparent(None, ORDER_ID, sampling(1)).endswith("-01")
    assert adopted_traceparent(None, ORDER_ID, sampling(0.01)).endswith("-00")
    assert adopted_traceparent(TRACE, ORDER_ID, sampling(0.01)) == TRACE.decode()
