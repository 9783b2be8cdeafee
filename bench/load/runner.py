"""Runs the generator: starts it, steers it while it runs, reads its result afterwards."""

import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bench.load.spec import Board, Result, Spec

START_S: Final = 30.0
LATE_SHARE_MAX: Final = 0.01
"""A generator that sent more of its requests late has not offered the load that the run says it has."""


class GeneratorFailed(Exception):
    """The generator ended without a result."""


class Records:
    """What became of each request, by its number."""

    def __init__(self, spec: Spec, result: Result) -> None:
        self.spec = spec
        self.result = result
        times_ns = array("q", result.times_ns)
        start_ns = times_ns[0] if times_ns else 0
        times_ns = array("q", (at_ns - start_ns for at_ns in times_ns))
        self.due_ns, self.done_ns = times_ns[: result.requests], times_ns[result.requests :]
        """Since the first request was due."""
        self.statuses = array("H", result.statuses)

    @property
    def by_status(self) -> dict[int, int]:
        return dict(Counter(self.statuses))

    def accept_us(self) -> list[int]:
        """Latencies of the requests that succeeded, from when each was due to when its answer was complete."""
        success = self.spec.accepted
        return [
            (done - due) // 1_000
            for due, done, status in zip(self.due_ns, self.done_ns, self.statuses, strict=True)
            if status == success
        ]

    def due_wall_us(self, request: int) -> int:
        """When a request was due, by the wall clock, in microseconds since the epoch."""
        return (self.result.started_wall_ns + self.due_ns[request]) // 1_000

    @property
    def late_share(self) -> float:
        """Share of the requests that the generator sent over 5 ms late although a connection was free."""
        return self.result.late / max(1, self.result.requests)


def run(spec: Spec, tick: Callable[[Board, float], None] | None = None, every_s: float = 0.5) -> Records:
    """Run one load to its end. Meanwhile `tick` is called with the board and the seconds since the start.

    Raises `GeneratorFailed`.
    """
    files = Path(spec.files)
    files.with_suffix(".spec").write_bytes(msgspec.json.encode(spec))
    board = Board.create(files.with_suffix(".board"))
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.load.generator", str(files.with_suffix(".spec"))],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + START_S
        while not board.started_ns and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        began = time.monotonic()
        due = began + every_s
        while process.poll() is None:
            if tick is not None and time.monotonic() >= due:
                tick(board, time.monotonic() - began)
                due += every_s
            time.sleep(0.02)
        _, errors = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise GeneratorFailed(f"the generator ended with {process.returncode}: {errors.decode()[-2_000:]}")
    result = msgspec.msgpack.decode(files.with_suffix(".result").read_bytes(), type=Result)
    if result.broken:
        raise GeneratorFailed(f"the generator gave up: {result.broken}")
    return Records(spec, result)
