"""The backlog as the broker tells it: what of a topic's records is orders."""

from typing import Any

import pytest

from common import positions
from common.events import ORDERS, READERS
from common.positions import Partition
from order.admission import admission, readers
from order.backlog import Backlog

LIMIT = 1_000


@pytest.mark.parametrize(("unread", "full"), [(LIMIT - 1, False), (LIMIT, True)])
def test_while_a_service_is_away_every_unread_record_may_be_an_order(
    unread: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No order is decided without it, so no outcome lies between."""

    def committed(group: str, partitions: list[Partition], _: float) -> dict[Partition, int]:
        return {p: unread if p.topic == ORDERS and group != "payment" else 0 for p in partitions}

    def bounds(_: Any, partitions: list[Partition]) -> dict[Partition, tuple[int, int]]:
        return {p: (0, unread if p.topic == ORDERS else 0) for p in partitions}

    monkeypatch.setattr(positions, "committed_offsets", committed)
    monkeypatch.setattr(positions, "log_bounds", bounds)
    groups: Any = {group: group for found in READERS.values() for group in found}
    look = Backlog("nowhere:1", "test", 1, LIMIT)._look(None, groups)  # type: ignore[arg-type]
    found = admission(readers([look]), LIMIT)
    assert (found.orders_per_s == 0.0) is full
    assert ("up to 1000 orders wait for payment on orders" in found.reason) is full
