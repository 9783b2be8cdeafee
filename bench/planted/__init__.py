"""Faults planted into the services, to see that the bench catches them: `just bench --planted slowdown|loss`

The services' code stays as it is. A directory on PYTHONPATH makes Python plant the fault when the process that it
belongs to starts. If what the fault replaces is no longer there, that process does not start.
"""

import asyncio
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "TANDEM_PLANTED"
SLOWDOWN_S: Final = 0.005


def settings(fault: str | None) -> Mapping[str, str]:
    """The environment that plants a fault into a stack started with it."""
    if fault is None:
        return {}
    site, root = Path(__file__).with_name("site"), Path(__file__).parents[2]
    return {"PYTHONPATH": f"{site}:{root}", VARIABLE: fault}


def slow_accept() -> None:
    """Slowdown: 5 ms between the log's acknowledgement and the request that waits for it."""
    from common.kafka.async_publisher import AsyncPublisher
    from common.kafka.produce.batch import Acknowledged

    send = AsyncPublisher.send

    async def late(sent: "asyncio.Future[Acknowledged]") -> Acknowledged:
        acknowledged = await sent
        await asyncio.sleep(SLOWDOWN_S)
        return acknowledged

    def send_late(self: AsyncPublisher, *arguments: Any, **options: Any) -> "asyncio.Future[Acknowledged]":
        return asyncio.ensure_future(late(send(self, *arguments, **options)))

    AsyncPublisher.send = send_late  # type: ignore[method-assign]


def lose_an_outcome() -> None:
    """Loss: one confirmation never reaches the log, although the saga has stored it."""
    from common.kafka.produce.batch import Outgoing
    from common.kafka.publisher import Publisher

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
    """Plant a fault if it belongs to this process. Raises `SystemExit` if it cannot be planted."""
    command, planted = FAULTS[fault]
    if sys.orig_argv[-2:] == command:
        try:
            planted()
        except (ImportError, AttributeError) as error:
            raise SystemExit(f"the {fault} cannot be planted: {error}") from error
