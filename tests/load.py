"""Clients that send requests without a pause while a test does something to the stack."""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

import httpx

from tests.stack import Stack
from tests.waiting import eventually

TIMEOUT_S: Final = 30.0

Step = Callable[[httpx.Client, int], object]
"""Sends the request of this number, from 0 on."""


class Clients:
    """Takes each of these steps again and again, in a thread and with a client of its own, until the block ends. What
    a step raises ends its thread, and is raised at the end of the block."""

    def __init__(self, *steps: Step, stopping: threading.Event | None = None) -> None:
        """`stopping` is set at the end of the block."""
        self._stopping = stopping or threading.Event()
        self._steps = steps
        self._pool = ThreadPoolExecutor(len(steps))

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(self._run, step) for step in self._steps]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()

    def _run(self, step: Step) -> None:
        with httpx.Client(timeout=TIMEOUT_S) as client:
            for number in itertools.count():
                if self._stopping.is_set():
                    return
                step(client, number)


def await_settled_from_now(stack: Stack, accepted: Sequence[str], orders: int, when: str) -> None:
    """Wait until the next `orders` are accepted and settled; `accepted` grows meanwhile."""
    first = len(accepted)

    def settled() -> bool:
        following = accepted[first : first + orders]
        if len(following) < orders:
            return False
        [(count,)] = stack.query(
            "order",
            "SELECT count(*) FROM orders WHERE order_id = ANY(%s::uuid[]) AND settled_at IS NOT NULL",
            (following,),
        )
        return bool(count == orders)

    eventually(settled, f"orders are settled {when}")
