"""A worker's thread: what a failure does to it, and what it reports."""

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from common import worker
from common.errors import LOSS_HELP, Fatal, LossDetected, Transient, describe
from common.worker import Worker


@pytest.fixture(autouse=True)
def quick_collector() -> Iterator[None]:
    """A worker collects after each run, and the objects of all the tests before would take it half a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "delays_s", lambda *_: iter([0.0] * 9))


LOSS = f"test: a gap; {LOSS_HELP}"


class Script:
    """Work that raises one error after the other, and then stops; notes what was reported at each start."""

    def __init__(self, *errors: Exception, retries_fatal: bool = False) -> None:
        self._errors: Iterator[Exception] = iter(errors)
        self.worker = Worker("test", self._work, retries_fatal=retries_fatal)
        self.reported: list[list[str]] = []

    def _work(self) -> None:
        self.reported.append(self.worker.missing())
        for error in self._errors:
            raise error
        self.worker.stopping.set()

    def run(self) -> None:
        self.worker.start()
        self.worker._thread.join()


def test_it_starts_again_after_a_transient_failure_and_reports_why() -> None:
    script = Script(Transient("the broker is away"))
    script.run()
    assert script.reported == [["test: not started"], ["test: the broker is away"]]
    assert script.worker.missing() == ["test: stopped"]


@pytest.mark.parametrize("error", [Fatal("no such table"), ValueError("no such table")])
def test_a_fatal_failure_ends_it_unless_it_is_to_be_retried(error: Exception) -> None:
    ended = Script(error)
    ended.run()
    assert ended.reported == [["test: not started"]]
    assert ended.worker.missing() == [f"test: {describe(error)}"]
    assert REGISTRY.get_sample_value("tandem_worker_ended", {"group": "test"}) == 1
    retried = Script(error, retries_fatal=True)
    retried.run()
    assert retried.reported == [["test: not started"], [f"test: {describe(error)}"]]


def test_a_loss_is_retried_and_reported_until_it_is_over() -> None:
    script = Script(LossDetected("a gap"), LossDetected("a gap"), Transient("the broker is away"))
    script.run()
    assert script.reported[1:] == [[LOSS]] * 3
    script.worker.report("")
    assert script.worker.missing() == [LOSS]
    assert REGISTRY.get_sample_value("tandem_loss_detected", {"group": "test"}) == 1
    script.worker.report_no_loss()
    assert REGISTRY.get_sample_value("tandem_loss_detected", {"group": "test"}) == 0
    assert script.worker.missing() == []


def test_stop_returns_when_the_work_has_ended() -> None:
    def work() -> None:
        waiting.stopping.wait()
        ended.append(True)

    ended: list[bool] = []
    waiting = Worker("test", work)
    waiting.start()
    waiting.stop()
    assert ended == [True]


class Client:
    """What a run uses: it has threads for as long as it is there."""


@pytest.mark.parametrize(
    ("kind", "retries_fatal"), [(Transient, False), (LossDetected, False), (ValueError, False), (ValueError, True)]
)
def test_what_a_failed_run_used_is_gone_before_the_delay(kind: type[Exception], retries_fatal: bool) -> None:
    clients: list[weakref.ref[Client]] = []
    left: list[int] = []

    def work() -> None:
        if len(clients) == 3:
            tested.stopping.set()
            return
        client = Client()
        clients.append(weakref.ref(client))
        try:
            raise kind("away")
        except kind as error:
            cycle = error  # the frame refers to the error, and the error to the frame
            raise cycle from None

    def count() -> int:
        return sum(client() is not None for client in clients)

    class Counting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            left.append(count())
            return super().wait(timeout)

    tested = Worker("test", work, retries_fatal=retries_fatal)
    tested.stopping = Counting()
    gc.disable()
    try:
        tested.start()
        tested._thread.join()
        assert count() == 0
    finally:
        gc.enable()
    assert not any(left)
