"""A consumer as a task of its process: one session of the loop after the other, in a thread of its own, with its own
client, publisher and connection."""

import os
from contextlib import suppress
from typing import Final, Generic

from common.config.process import Process
from common.consume.handler import Handler, Locked
from common.consume.loop import Session
from common.tracing.live import tracer_of
from common.worker import Worker

NICE: Final = 5
"""A consumer gets a third of the api's share of a busy processor (`nice(1)`)."""


class BatchConsumer(Worker, Generic[Locked]):
    """Runs a handler over its topics until stopped: one `Session` after the other."""

    def __init__(self, process: Process, handler: Handler[Locked]) -> None:
        super().__init__(f"{handler.group} consumer", self._run_session, group=handler.group)
        self._process = process
        self._handler = handler
        self.tracer = tracer_of(handler.group, process.tracing)
        """None when tracing is off."""
        self._session: Session[Locked] | None = None

    def degraded(self) -> list[str]:
        """What is not as it must be while it works."""
        return self._session.degraded() if self._session else []

    def _run_session(self) -> None:
        _lower_priority()
        self._session = Session(self._process, self._handler, self, self.tracer)
        try:
            self._session.run()
        finally:
            self._session = None


def _lower_priority() -> None:
    """On a busy machine the requests of waiting clients go first. On Linux this concerns the calling thread and those
    that it starts, such as its Kafka clients'; elsewhere the whole process."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
