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
    """Slowdown: 5 ms between the log's acknowledgement and whoever waits for it."""
    from common.kafka.async_publisher import Acknowledged, AsyncPublisher, OnDelivery

    send = AsyncPublisher.send

    def send_late(
        self: AsyncPublisher,
        topic: str,
        key: bytes,
        value: bytes,
        partition: int = -1,
        *,
        on_delivery: OnDelivery | None = None,
    ) -> "asyncio.Future[Acknowledged]":
        loop = asyncio.get_running_loop()
        late: asyncio.Future[Acknowledged] = loop.create_future()
        sent = send(self, topic, key, value, partition, on_delivery=on_delivery)

        def pass_on() -> None:
            if late.done():
                return
            if (error := sent.exception()) is not None:
                late.set_exception(error)
            else:
                late.set_result(sent.result())

        def wait(_: object) -> None:
            loop.call_later(SLOWDOWN_S, pass_on)

        sent.add_done_callback(wait)
        return late

    AsyncPublisher.send = send_late  # type: ignore[method-assign]


def lose_an_outcome() -> None:
    """Loss: one confirmation never reaches the log, although the saga has stored it."""
    from common.kafka.publisher import Outgoing, Publisher

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
