"""Limits the connections of a process, and decides which of them give way when there are too many.

Each connection takes a descriptor. A process that has none left can reach neither its database nor its broker, nor open
a file, so a part of them is kept for those. One source address may hold only a share of the rest. Beyond a limit a new
connection takes the place of those that ask for nothing: half-sent requests and idle connections. If all of them are
being answered, the new one is refused.
"""

from collections import Counter
from collections.abc import Iterable
from heapq import nsmallest
from typing import Final, NamedTuple, Protocol

from loguru import logger
from prometheus_client import Counter as Count
from uvicorn.server import ServerState

from common.errors import Fatal
from common.files import raise_limit
from common.http.repeats import REPORT_EVERY_S

DESCRIPTORS_WANTED: Final = 16_384
DESCRIPTORS_MIN: Final = 512
DESCRIPTORS_RESERVED: Final = 256
"""For databases, broker, log and listeners (about 70 in the order api), and for the admin port."""
ADMIN_CONNECTIONS_MAX: Final = 128
CONNECTIONS_MAX: Final = 10_000
BACKLOG_MAX: Final = 2_048
"""Connections that wait to be accepted. All of them may be accepted in one go, before any is refused."""
SHARE_OF_SOURCE: Final = 0.75
NEW_S: Final = 1.0
"""A connection is new for this long: its request may be on its way."""
GIVE_WAY: Final = 0.02
"""This part of the limit gives way at once, so that not every new connection looks through all others."""

_shed: Final = Count(
    "tandem_http_connections_shed_total", "Connections closed for lack of room, by reason.", ["reason"]
)
_gave_way: Final = _shed.labels("gave_way")
_refused: Final = _shed.labels("refused")


class Room(NamedTuple):
    """The limits that fit a process's descriptors."""

    descriptors: int
    connections: int
    """The most connections of the public port."""
    backlog: int

    @property
    def long_lived(self) -> int:
        """How many of them may be event streams; as many more may be requests that wait for an outcome."""
        return self.connections // 4


def room_in(descriptors: int) -> Room:
    """The limits for this number of descriptors. Raises `Fatal` if they are too few."""
    if descriptors < DESCRIPTORS_MIN:
        raise Fatal(
            f"the limit of open files is {descriptors}, but at least {DESCRIPTORS_MIN} are needed; "
            f"raise it with 'ulimit -n {DESCRIPTORS_WANTED}'"
        )
    free = descriptors - DESCRIPTORS_RESERVED
    connections = min(CONNECTIONS_MAX, free * 3 // 4)
    return Room(descriptors, connections, min(BACKLOG_MAX, free - connections))


def make_room() -> Room:
    """Raise this process's soft limit of open files as far as useful and allowed. Raises `Fatal` if it is too low."""
    return room_in(raise_limit(DESCRIPTORS_WANTED))


class Guest(Protocol):
    """A connection, as far as it matters here."""

    source: str

    @property
    def waits_since(self) -> tuple[bool, float] | None:
        """None while it is being answered. Otherwise whether it has been answered before, and since when (loop time) it
        has no request."""

    def give_way(self) -> None:
        """Close, since others need the room."""

    def turn_away(self) -> None:
        """Refuse this new connection, since there is no room for it."""


class Gate:
    """Admits the connections of one listener."""

    def __init__(self, limit: int = CONNECTIONS_MAX) -> None:
        self._limit = limit
        self._limit_of_source = max(1, int(limit * SHARE_OF_SOURCE))
        self._give_way_at_once = max(1, int(limit * GIVE_WAY))
        self._guests: set[Guest] = set()
        self._by_source: Counter[str] = Counter()
        self._gave_way = self._refused = 0
        self._reported_at = -REPORT_EVERY_S

    def admit(self, guest: Guest, now: float) -> None:
        """`guest` has connected. Others may be closed for it, or it is refused. `now` is the loop's time in seconds."""
        self._guests.add(guest)
        self._by_source[guest.source] += 1
        if self._by_source[guest.source] > self._limit_of_source:
            self._make_room(guest, [other for other in self._guests if other.source == guest.source], now)
        elif len(self._guests) > self._limit:
            self._make_room(guest, self._guests, now)

    def leave(self, guest: Guest) -> None:
        """A connection has ended, or has been asked to end."""
        if guest in self._guests:
            self._guests.remove(guest)
            self._by_source[guest.source] -= 1
            if not self._by_source[guest.source]:
                del self._by_source[guest.source]

    def _make_room(self, newest: Guest, guests: Iterable[Guest], now: float) -> None:
        """Close connections of the busiest source first: those never answered, then idle ones, then new ones, each the
        oldest first."""
        waiting = []
        for guest in guests:
            if guest is not newest and (waits := guest.waits_since) is not None:
                answered, since = waits
                turn = 1 if answered else 2 if now - since < NEW_S else 0
                waiting.append((-self._by_source[guest.source], turn, since, id(guest), guest))
        for *_, guest in nsmallest(self._give_way_at_once, waiting):
            self._gave_way += 1
            _gave_way.inc()
            self.leave(guest)
            guest.give_way()
        if not waiting:
            self._refused += 1
            _refused.inc()
            self.leave(newest)
            newest.turn_away()

    def report(self, now: float) -> None:
        """Log what was closed or refused since the last report, now and then. `now` is in seconds."""
        if not (self._gave_way or self._refused) or now - self._reported_at < REPORT_EVERY_S:
            return
        source, most = self._by_source.most_common(1)[0] if self._by_source else ("", 0)
        logger.warning(
            "too many connections: {} that asked for nothing were closed, {} refused",
            self._gave_way,
            self._refused,
            open=len(self._guests),
            limit=self._limit,
            limit_of_source=self._limit_of_source,
            busiest_source=source,
            its_connections=most,
        )
        self._gave_way = self._refused = 0
        self._reported_at = now


class ListenerState(ServerState):
    """uvicorn's state of one listener, with its gate. uvicorn sets the headers of every response once a second."""

    def __init__(self, gate: Gate | None = None) -> None:
        super().__init__()
        self.gate = gate or Gate()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return self._default_headers

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._default_headers = headers
        self.header_lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        """The same, for responses that uvicorn does not write."""
