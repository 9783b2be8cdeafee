"""The ids of traces and spans. They are derived, so that all processes, and `just trace` afterwards, agree on them.

An order's trace is the one of its request's `traceparent`; without one, the order's id is the trace's id. The span that
sent an event has an id derived from the event's, the span that processed it one derived from that and the consumer.

Whether an order is recorded depends on the last 32 bits of its id alone: on the trace's id, a client could decide it.
These bits are random. The 42 before them count up from a random number within a millisecond, so W3C's flag `random`,
which is about the last 56 bits of a trace's id, is not set.

References: W3C Trace Context Level 2 §3.2.2.3 and §3.2.2.5; RFC 9562 §6.2, method 1.
"""

import re
from hashlib import blake2b
from typing import Final, NamedTuple

from common.events import OrderId

UNSAMPLED: Final = "00"
SAMPLED: Final = "01"
"""The flags of a trace that an order's id makes."""
RANDOM_BITS: Final = 32
RANDOM: Final = slice(-(RANDOM_BITS // 4), None)
"""The digits of an order's id that decide whether it is recorded."""
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
_PLACED: Final = ":order.placed:1"


class Sampling(NamedTuple):
    """Which orders are recorded, by their ids alone: nothing has to be asked or passed on."""

    threshold: str
    """8 hexadecimal digits. Of equal length and in lower case, texts compare like their numbers."""

    def includes(self, order_id: str) -> bool:
        """Whether this order is recorded."""
        return order_id[RANDOM] >= self.threshold


def sampling(share: float) -> Sampling:
    """Records this share of all orders, above 0 up to 1."""
    rejected = min(round((1 - share) * 2**RANDOM_BITS), 2**RANDOM_BITS - 1)
    return Sampling(f"{rejected:0{RANDOM_BITS // 4}x}")


def own_traceparent(order_id: OrderId, recorded: Sampling | None) -> str:
    """The `traceparent` of an order whose request had none. Its span is the one that sends `order.placed`."""
    digits = order_id.replace("-", "")
    flags = SAMPLED if recorded is not None and digits[RANDOM] >= recorded.threshold else UNSAMPLED
    return f"00-{digits}-{digits[16:]}-{flags}"


class Trace(NamedTuple):
    """The trace of an order, as hexadecimal digits, and the span of the caller that began it, if any."""

    trace_id: str
    caller_span_id: str | None


def trace_of(order_id: str, traceparent: str) -> Trace:
    """The trace of an order. Anyone may write anything into a topic: an invalid `traceparent` counts as none."""
    own = order_id.replace("-", "")
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or match[1] == own:
        return Trace(own, None)
    return Trace(match[1], match[2])


def sent_span_id(event_id: str) -> str:
    """The span that sent the event of this id."""
    if event_id.endswith(_PLACED):
        return event_id.removesuffix(_PLACED).replace("-", "")[16:]
    return _derived(event_id)


def sent_again_span_id(event_id: str, cause_id: str) -> str:
    """The span that sent an event another time, in answer to the event `cause_id`."""
    return _derived(f"{event_id} {cause_id}")


def processed_span_id(group: str, event_id: str) -> str:
    """The span in which a consumer group processed the event of this id."""
    return _derived(f"{group} {event_id}")


def _derived(text: str) -> str:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
