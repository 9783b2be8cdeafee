"""Runs the generator: starts it, steers it while it runs, reads its records afterwards."""

import multiprocessing
import time
from collections.abc import Callable
from typing import Final

from bench.load.generator import generate
from bench.load.spec import Board, Records, Spec

POLL_S: Final = 0.02
LATE_SHARE_MAX: Final = 0.01
"""A generator that sent more of its requests late has not offered the load that the run says it has."""
_PROCESSES: Final = multiprocessing.get_context("spawn")
"""Not by a fork, which is not safe beside the threads of the Kafka clients."""


class GeneratorFailed(Exception):
    """The generator ended without a result."""


def run(spec: Spec, tick: Callable[[Board, float], None] | None = None, every_s: float = 0.5) -> Records:
    """Run one load to its end. Meanwhile `tick` is called with the board and the seconds since the start.

    Raises `GeneratorFailed`.
    """
    board = _PROCESSES.RawValue(Board)
    results, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=generate, args=(spec, board, sender))
    process.start()
    sender.close()
    try:
        due_s = every_s
        while not results.poll(POLL_S):
            at_s = time.time() - board.started_ns / 1e9
            if tick is not None and board.started_ns and at_s >= due_s:
                tick(board, at_s)
                due_s += every_s
        records: Records | Exception = results.recv()
    except EOFError:
        process.join()
        raise GeneratorFailed(f"the generator ended with {process.exitcode}; its last words are above") from None
    finally:
        process.kill()
        process.join()
    if isinstance(records, Exception):
        raise GeneratorFailed(f"the generator gave up: {type(records).__name__}: {records}")
    return records
