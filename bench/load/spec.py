"""What the generator is told, what it counts while it runs, and what it leaves at its end."""

import ctypes
from array import array
from collections import Counter
from typing import Literal

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
    requests_max: int = 0
    """A closed loop ends after this many requests, unless `duration_s` is over before; 0 sets no limit."""
    connections: int
    """The limit in an open loop; the number in a closed loop."""
    population: Population = Population()
    keyed: bool = False
    tokens: str = ""
    """A file with the token of each customer of the population, and a merchant's as the last; none is sent without."""
    authority: str = ""
    """The certificate by which the server's is verified, a file in PEM; without it, the load is sent in the clear."""
    lines: int = 0
    """Orders in a request that carries many; 0 sends single orders."""
    accepted: int = 202
    """The status that means success."""

    @property
    def orders_a_request(self) -> int:
        return max(1, self.lines)


class Records(Struct, frozen=True, kw_only=True):
    """What became of each request, by its number, and what the generator reports about itself."""

    spec: Spec
    due_ns: "array[int]"
    done_ns: "array[int]"
    """When each request was due and when it was answered, since the start of the schedule."""
    statuses: "array[int]"
    ids: list[tuple[int, str]]
    """The request number and the order id of each acknowledged order."""
    started_wall_ns: int
    """Wall clock at the start of the schedule."""
    elapsed_s: float
    cpu_s: float
    """User and kernel CPU of the generator, from the start of the schedule to the last answer."""
    bytes_sent: int
    bytes_received: int
    connections: int
    """The most connections that were open at once."""
    waited_for_connection: int
    """Requests that fell due while all connections were taken."""
    late: int
    """Requests sent over 5 ms late although a connection was free: the generator fell behind."""

    @property
    def requests(self) -> int:
        return len(self.statuses)

    @property
    def per_s(self) -> float:
        """Requests a second until the last answer: the rate of a closed loop."""
        return self.requests / self.elapsed_s

    @property
    def by_status(self) -> dict[int, int]:
        return dict(sorted(Counter(self.statuses).items()))

    @property
    def late_share(self) -> float:
        """Share of the requests that the generator sent over 5 ms late although a connection was free."""
        return self.late / max(1, self.requests)

    def accept_us(self) -> list[int]:
        """Latencies of the requests that succeeded, from when each was due to when its answer was complete."""
        times = zip(self.due_ns, self.done_ns, self.statuses, strict=True)
        return [(done - due) // 1_000 for due, done, status in times if status == self.spec.accepted]


class Board(ctypes.Structure):
    """Counters of a running load, in memory that the generator shares with its parent."""

    accepted: int
    """Orders (not requests) that were acknowledged."""
    refused: int
    """Orders refused by a 503, or by the answer for their line."""
    failed: int
    """Orders that failed in any other way."""
    rate_milli: int
    """Requests per 1,000 s in an open loop. Set by the parent; below zero, the load ends."""
    started_ns: int
    """Wall clock when the schedule began; 0 before."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("accepted", "refused", "failed", "rate_milli", "started_ns"))
