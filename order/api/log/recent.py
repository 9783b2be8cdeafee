"""The orders that this process accepted last, so that a GET right after the 202 finds them before the saga does."""

from typing import Final, NamedTuple

from common.codec import decoder_for
from common.events import ORDERS, OrderId, OrderPlaced
from common.kafka.produce.batch import Acknowledged

RECENT_ORDERS_MAX: Final = 20_000
"""About 20 MB, two seconds of orders at full speed. Normally the saga stores an order within a tenth of a second."""
RECENT_BYTES_MAX: Final = 32 * 1024 * 1024
"""Size of the events: `RECENT_ORDERS_MAX` orders of a hundred lines each would be 240 MB."""


class Recent(NamedTuple):
    """An accepted order: its event as published, and where the log has it.

    The event is kept as bytes, which are smaller than objects and cost the garbage collector nothing.
    """

    value: bytes
    acknowledged: Acknowledged

    @property
    def placed(self) -> OrderPlaced:
        event = decoder_for[ORDERS].decode(self.value)
        assert isinstance(event, OrderPlaced)
        return event


class RecentOrders:
    """The last orders, at most `most` of them and `bytes_max` of events; the older half is forgotten at once.

    There are two dictionaries: finding the oldest entry of a single one scans past all that were removed before it.
    """

    def __init__(self, most: int = RECENT_ORDERS_MAX, bytes_max: int = RECENT_BYTES_MAX) -> None:
        self._half = most // 2
        self._half_bytes = bytes_max // 2
        self._newer_bytes = 0
        self._newer: dict[OrderId, Recent] = {}
        self._older: dict[OrderId, Recent] = {}

    def remember(self, order_id: OrderId, value: bytes, acknowledged: Acknowledged) -> None:
        if len(self._newer) >= self._half or self._newer_bytes >= self._half_bytes:
            self._newer, self._older = {}, self._newer
            self._newer_bytes = 0
        self._newer[order_id] = Recent(value, acknowledged)
        self._newer_bytes += len(value)

    def get(self, order_id: OrderId) -> Recent | None:
        return self._newer.get(order_id) or self._older.get(order_id)
