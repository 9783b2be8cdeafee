"""Faults planted into the services, to see that the bench catches them: `just bench --planted slowdown|loss`

Their code stays as it is. A directory put on PYTHONPATH has Python plant the fault at the start of the one process that
it belongs to; where what it replaces is no longer there, that process does not start.
"""

import asyncio
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

VARIABLE: Final = "TANDEM_PLANTED"
SLOWDOWN_S: Final = 0.005


def settings(fault: str | None) -> Mapping[str, str]:
    """The environment that plants a fault into the stack started with it."""
    if fault is None:
        return {}
    site, root = Path(__file__).with_name("site"), Path(__file__).parents[2]
    return {"PYTHONPATH": f"{site}:{root}", VARIABLE: fault}


def slow_accept() -> None:
    """Slowdown: 5 ms between an order and the log."""
    from order.desk import OrderDesk
    from order.responses import Accepted

    place = OrderDesk.place

    async def place_later(self: OrderDesk, body: bytes, traceparent: bytes | None) -> Accepted:
        await asyncio.sleep(SLOWDOWN_S)
        return await place(self, body, traceparent)

    OrderDesk.place = place_later  # type: ignore[method-assign]


def lose_an_outcome() -> None:
    """Loss: one confirmation never reaches the log, although the saga has stored it."""
    from common.kafka import Outgoing, Publisher

    publish = Publisher.publish
    lost: list[Outgoing] = []

    def publish_all_but_one(self: Publisher, records: Iterable[Outgoing]) -> None:
        kept = []
        for record in records:
            if not lost and b'"order.confirmed"' in record.value:
                lost.append(record)
            else:
                kept.append(record)
        publish(self, kept)

    Publisher.publish = publish_all_but_one  # type: ignore[method-assign]


FAULTS: Final = {"slowdown": (["order", "api"], slow_accept), "loss": (["order", "saga"], lose_an_outcome)}


def plant(fault: str) -> None:
    """Plant a fault if this is the process it belongs to. Raises `SystemExit` when it cannot be planted."""
    command, planted = FAULTS[fault]
    if sys.orig_argv[-2:] == command:
        try:
            planted()
        except (ImportError, AttributeError) as error:
            raise SystemExit(f"the {fault} cannot be planted: {error}") from error
