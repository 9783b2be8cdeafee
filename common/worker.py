"""A thread that works until it is stopped, and starts again after a failure. Everything beside HTTP runs in one."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Final, Literal

from loguru import logger

from common import metrics
from common.backoff import CAP_S, delays_s
from common.errors import Failure, LossDetected, classify, describe

LOSS_RETRY_FIRST_S: Final = 1.0
LOSS_RETRY_S: Final = 10.0
"""The longest delay after a loss. A loss is detected again as long as it is there, so a retry is safe and notices a
repair."""
GOOD_RUN_S: Final = 60.0
"""After a run of this length the delays start small again."""

_Ending = Literal["returned", "failed", "lost", "ended"]
"""How a call of `work` ended: after a failure or a loss it is called again, but not when the worker has ended."""


class Worker:
    """Calls `work` again and again in a thread. The HTTP server starts and stops it.

    `work` returns when `stopping` is set. When it raises, it is called again after a delay; a fatal error ends the
    thread and waits for an operator, unless `retries_fatal`. A `LossDetected` is logged once and reported until
    `report_no_loss`.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        *,
        group: str = "",
        retries_fatal: bool = False,
        delay_max_s: float = CAP_S,
        stop_timeout_s: float | None = None,
    ) -> None:
        """`group` is its name in metrics and log lines, by default `name`."""
        self.stopping = threading.Event()
        self._name = name
        self._group = group or name
        self._work = work
        self._retries_fatal = retries_fatal
        self._delay_max_s = delay_max_s
        self._stop_timeout_s = stop_timeout_s
        self._problem = "not started"
        self._loss = ""
        self._log = logger.bind(group=self._group)
        self._loss_detected = metrics.loss_detected.labels(self._group)
        self._ended = metrics.worker_ended.labels(self._group)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Tell `work` to end, and wait for it, at most `stop_timeout_s`."""
        self.stopping.set()
        self._thread.join(self._stop_timeout_s)

    def missing(self) -> list[str]:
        """Why it is not at work: empty when it is."""
        problem = self._loss or self._problem
        return [f"{self._name}: {problem}"] if problem else []

    def report(self, problem: str) -> None:
        """Set what `missing` returns: a reason, or "" when it is at work."""
        self._problem = problem

    def report_no_loss(self) -> None:
        """The log and the database fit together: forget an earlier loss."""
        if self._loss:
            self._log.info("continuing, the loss is gone: {}", self._loss)
            self._loss = ""
            self._loss_detected.set(0)

    def _run(self) -> None:
        delays = self._delays()
        while not self.stopping.is_set():
            started_s = time.monotonic()
            ending = self._attempt()
            # What has failed is in reference cycles with its error, and so are its Kafka clients, of which each has
            # threads and connections (confluent-kafka-python #975). By itself the collector runs seldom
            # (common.http.server).
            gc.collect()
            if ending == "ended":
                return
            if time.monotonic() - started_s > GOOD_RUN_S:
                delays = self._delays()
            self.stopping.wait(next(delays[ending]))
        self.report("stopped")

    def _attempt(self) -> _Ending:
        """Call `work` once, and report how it failed. Nothing refers to the error when this has returned."""
        try:
            self._work()
        except LossDetected as loss:
            self._report_loss(str(loss))
            return "lost"
        except Exception as error:
            failure = classify(error)
            self._count_failure(failure)
            self.report(describe(error))
            if failure is Failure.TRANSIENT:
                self._log.warning("restarting {}: {}", self._name, describe(error))
            elif self._retries_fatal:
                self._log.opt(exception=error).error("restarting {}: {}", self._name, describe(error))
            else:
                self._log.opt(exception=error).critical("stopped, waiting for an operator: {}", describe(error))
                self._ended.set(1)
                return "ended"
            return "failed"
        return "returned"

    def _delays(self) -> dict[_Ending, Iterator[float]]:
        """Seconds until the next call of `work`, by how the last one ended."""
        return {
            "returned": repeat(0.0),
            "failed": delays_s(self._delay_max_s),
            "lost": delays_s(LOSS_RETRY_S, LOSS_RETRY_FIRST_S),
        }

    def _report_loss(self, loss: str) -> None:
        if loss != self._loss:
            self._loss = loss
            self._loss_detected.set(1)
            self._count_failure(Failure.FATAL)
            self._log.critical("loss detected, waiting for an operator: {}", loss)

    def _count_failure(self, failure: Failure) -> None:
        metrics.failures.labels(self._group, failure.value).inc()
