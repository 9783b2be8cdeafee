"""What the faults have in common."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.chaos.arena import Arena
from tests.chaos.schedule import Fault

Witness = Callable[[], str]
Injected = Iterator[Witness]
Inject = Callable[[Arena, Fault], AbstractContextManager[Witness]]

THREAD_ENDS_S = 30.0


class NotPossible(Exception):
    """This machine or user can't inject it; the message says what it would take."""


@contextmanager
def meanwhile(act: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `act` in a thread for as long as the context lasts. It returns when its event is set."""
    over = threading.Event()
    thread = threading.Thread(target=act, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(THREAD_ENDS_S)


def rises(count: Callable[[], int], label: str) -> Witness:
    """Reports how much a count has risen since now."""
    before = count()

    def witness() -> str:
        by = count() - before
        return f"{by} {label}" if by > 0 else ""

    return witness
