import re
import uuid
from collections.abc import Callable

import pytest

from common.events import UUID_PATTERN, now
from order.api.place.ids import DRAWS_AT_ONCE, TraceContexts, new_order_id

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
    assert TraceContexts().adopt(TRACE) == TRACE.decode()


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert TraceContexts().adopt(b"cc" + TRACE[2:] + b"-what-the-future-holds") == TRACE.decode()
    assert TraceContexts().adopt(b"cc" + TRACE[2:]) == TRACE.decode()


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
def test_an_invalid_trace_is_replaced(spoil: Callable[[bytes], bytes | None]) -> None:
    adopted = TraceContexts().adopt(spoil(TRACE))
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", adopted)
    assert adopted != TRACE.decode()


def test_new_traces_differ() -> None:
    traces = TraceContexts()
    drawn = [traces.adopt(None) for _ in range(2 * DRAWS_AT_ONCE)]
    assert len(set(drawn)) == len(drawn)
