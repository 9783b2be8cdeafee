"""What a consumer keeps of its sessions."""

import gc
import weakref
from typing import Any

import pytest

from common import worker
from common.config.env import Env
from common.config.process import process_settings
from common.consume import consumer as consumers
from common.errors import LossDetected
from payment.consumer import PaymentHandler


def test_a_session_that_has_ended_is_freed_before_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Kafka clients have threads and connections, and a consumer that has detected a loss tries every 10 s."""
    sessions: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Session:
        def __init__(self, *_: Any) -> None:
            self.callback = self.run  # a cycle, as that of the inbox with its client
            sessions.append(weakref.ref(self))

        def run(self) -> None:
            alive.append(sum(session() is not None for session in sessions))
            if len(sessions) == 5:
                consumer.stopping.set()
            raise LossDetected("a gap")

    monkeypatch.setattr(worker, "LOSS_RETRY_S", 0.0)
    monkeypatch.setattr(consumers, "Session", Session)
    consumer = consumers.BatchConsumer(
        process_settings(Env("payment", {"DB": "postgresql://x", "AUTH": "off"}), database="DB", port=8082),
        PaymentHandler(),
    )
    gc.disable()
    gc.freeze()  # the objects of other tests need not be visited
    try:
        consumer.start()
        consumer._thread.join()
    finally:
        gc.unfreeze()
        gc.enable()
    assert alive == [1] * 5
