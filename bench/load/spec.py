"""What the generator is told, what it counts while it runs, and what it leaves at its end."""

import ctypes
import mmap
from pathlib import Path
from typing import Literal, Self

from msgspec import Struct

from bench.load.wire import ORDERS_PATH, Population

NO_ANSWER = 0
"""The status recorded for a request that timed out or whose connection broke."""


class Spec(Struct, frozen=True, kw_only=True):
    """One load."""

    host: str = "127.0.0.1"
    port: int
    path: str = ORDERS_PATH
    mode: Literal["open", "closed"]
    rate: float = 0
    """Requests a second in an open loop. The board may change it during the load."""
    duration_s: float
    connections: int
    """The limit in an open loop; the number in a closed loop."""
    population: Population = Population()
    keyed: bool = False
    lines: int = 0
    """Orders in a request that carries many; 0 sends single orders."""
    accepted: int = 202
    """The status that means success."""
    files: str
    """Spec, board and result are beside this path, with `.spec`, `.board` and `.result` added."""

    @property
    def orders_a_request(self) -> int:
        return max(1, self.lines)


class Result(Struct, frozen=True, kw_only=True):
    """What the generator recorded, and what it reports about itself."""

    times_ns: bytes
    """When each request was due, then when each was answered, as eight-byte integers of the monotonic clock."""
    statuses: bytes
    """The status of each answer, as two-byte integers."""
    ids: list[tuple[int, str]]
    """The request number and the order id of each acknowledged order."""
    started_wall_ns: int
    """Wall clock at the start of the schedule."""
    elapsed_s: float
    cpu_s: float
    """User and kernel CPU of the generator, from the start of the schedule to the last answer."""
    requests: int
    bytes_sent: int
    bytes_received: int
    connections: int
    """The most connections that were open at once."""
    waited_for_connection: int
    """Requests that fell due while all connections were taken."""
    late: int
    """Requests sent over 5 ms late although a connection was free: the generator fell behind."""
    broken: str
    """Why it gave up; empty if it did not."""


class Board(ctypes.Structure):
    """Counters of a running load, in a file that the generator and its parent both map into memory."""

    accepted: int
    """Orders (not requests) that were acknowledged."""
    refused: int
    """Orders refused by a 503, or by the answer for their line."""
    failed: int
    """Orders that failed in any other way."""
    rate_milli: int
    """Requests per 1,000 s in an open loop. Set by the parent."""
    stopped: int
    """1 when the parent wants no more requests sent. Answers still outstanding are awaited."""
    started_ns: int
    """Wall clock when the schedule began; 0 before."""

    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("accepted", "refused", "failed", "rate_milli", "stopped", "started_ns")
    )

    @classmethod
    def create(cls, path: Path) -> Self:
        path.write_bytes(bytes(ctypes.sizeof(cls)))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        with path.open("r+b") as file:
            return cls.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(cls)))
