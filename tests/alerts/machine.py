"""Whether other work keeps this machine too busy for an alert about speed to say anything about Tandem."""

import threading
import time
from collections import deque
from types import TracebackType
from typing import Final, Self

NAP_S: Final = 0.01
LATE_S: Final = 0.02
"""A thread that is ready and waits this long for a processor is late; so is an order then."""
LATE_SHARE_MAX: Final = 0.05
REMEMBERED: Final = 20_000
"""Naps: over three minutes of them."""


class Machine:
    """Takes naps, and notes by how much each was longer than it should have been."""

    def __init__(self) -> None:
        self._naps: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._nap, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()

    def _nap(self) -> None:
        while not self._ending.is_set():
            began_s = time.monotonic()
            time.sleep(NAP_S)
            woke_s = time.monotonic()
            self._naps.append((woke_s, woke_s - began_s - NAP_S))

    def late_share(self, since_s: float) -> float:
        """The share of naps since then, by the monotonic clock, after which a processor was not free in time."""
        late = [late_s > LATE_S for woke_s, late_s in tuple(self._naps) if woke_s > since_s]
        return sum(late) / max(1, len(late))
