"""Which connections are admitted, and which give way, when there are too many."""

import resource
from collections.abc import Iterator

import pytest
from loguru import logger

from common.errors import Fatal
from common.http import connections
from common.http.connections import NEW_S, Gate, make_room, room_in
from common.http.repeats import REPORT_EVERY_S


class Guest:
    """A connection that has waited for this long, or is being answered."""

    def __init__(self, source: str, waits_since: tuple[bool, float] | None = (False, 0.0)) -> None:
        self.source = source
        self.waits_since = waits_since
        self.end = ""

    def give_way(self) -> None:
        self.end = "gave way"

    def turn_away(self) -> None:
        self.end = "turned away"


NOW = 5_000.0


def let_in(gate: Gate, *guests: Guest, now: float = NOW) -> None:
    for guest in guests:
        gate.admit(guest, now)


def test_the_newest_connection_takes_the_place_of_the_longest_waiting_one() -> None:
    gate = Gate(limit=4)
    waiting = [Guest("a", (False, 3.0)), Guest("b", (False, 1.0)), Guest("c", (False, 2.0))]
    let_in(gate, *waiting, Guest("d", None), Guest("e"))
    assert [guest.end for guest in waiting] == ["", "gave way", ""]


def test_connections_that_never_sent_a_request_give_way_first() -> None:
    gate = Gate(limit=2)
    answered, silent = Guest("a", (True, 1.0)), Guest("b", (False, 9.0))
    let_in(gate, answered, silent, Guest("c"))
    assert (answered.end, silent.end) == ("", "gave way")


def test_a_new_connection_gives_way_last_since_its_request_may_be_on_its_way() -> None:
    gate = Gate(limit=2)
    new, idle = Guest("a", (False, NOW - NEW_S / 2)), Guest("b", (True, NOW - NEW_S / 4))
    let_in(gate, new, idle, Guest("c", (False, NOW)))
    assert (new.end, idle.end) == ("", "gave way")


def test_a_connection_that_is_being_answered_never_gives_way() -> None:
    gate = Gate(limit=2)
    busy, newest = [Guest("a", None), Guest("b", None)], Guest("c")
    let_in(gate, *busy, newest)
    assert [guest.end for guest in busy] == ["", ""]
    assert newest.end == "turned away"


def test_a_source_with_its_full_share_displaces_only_its_own_connections() -> None:
    gate = Gate(limit=5)
    other, own = Guest("b", (False, 0.0)), [Guest("a", (False, 5.0 + n)) for n in range(4)]
    let_in(gate, other, *own)
    assert (other.end, [guest.end for guest in own]) == ("", ["gave way", "", "", ""])
    for guest in own:
        guest.waits_since = None
    last, stranger = Guest("a"), Guest("c")
    let_in(gate, last, stranger)
    assert (other.end, last.end, stranger.end) == ("", "turned away", "")


def test_the_source_with_the_most_connections_gives_way_first() -> None:
    gate = Gate(limit=4)
    few, most = Guest("b", (False, 0.0)), [Guest("a", (True, 9.0 + n)) for n in range(3)]
    let_in(gate, few, *most, Guest("c"))
    assert (few.end, most[0].end) == ("", "gave way")


def test_a_flood_leaves_room_for_clients_that_send_requests() -> None:
    gate = Gate(limit=100)
    flood = [Guest("a", (False, float(n))) for n in range(1_100)]
    asking = []
    for number, guest in enumerate(flood):
        gate.admit(guest, NOW)
        if number % 100 == 0:
            asking.append(Guest("a", None))
            gate.admit(asking[-1], NOW)
            assert asking[-1].end == ""
    assert sum(not guest.end for guest in flood) <= 75
    assert all(guest.end == "" for guest in asking)


def test_a_connection_that_has_ended_is_uncounted_once() -> None:
    gate = Gate(limit=2)
    first, second, third = Guest("a", None), Guest("b", None), Guest("c")
    let_in(gate, first, second)
    gate.leave(first)
    gate.leave(first)
    gate.admit(third, NOW)
    assert third.end == ""
    gate.admit(Guest("d"), NOW)
    gate.leave(third)  # it gave way, and its connection is lost a moment later
    assert len(gate._guests) == 2


@pytest.fixture
def lines() -> Iterator[list[str]]:
    kept: list[str] = []
    sink = logger.add(lambda message: kept.append(message.record["message"]), level="WARNING")
    yield kept
    logger.remove(sink)


def test_closed_and_refused_connections_are_logged_now_and_then_with_their_number(lines: list[str]) -> None:
    gate = Gate(limit=1)
    gate.report(0.0)
    assert lines == []
    let_in(gate, Guest("a"), Guest("b", None), Guest("c"))
    gate.report(1.0)
    assert lines == ["too many connections: 1 that asked for nothing were closed, 1 refused"]
    gate.admit(Guest("d"), NOW)
    gate.report(REPORT_EVERY_S)
    assert len(lines) == 1
    gate.report(1.0 + REPORT_EVERY_S)
    assert lines[1:] == ["too many connections: 0 that asked for nothing were closed, 1 refused"]


@pytest.mark.parametrize("descriptors", [512, 1_024, 4_096, 20_000, 1_048_576])
def test_the_limits_fit_the_descriptors(descriptors: int) -> None:
    """Even when all waiting connections are accepted before any of them is refused."""
    room = room_in(descriptors)
    assert room.connections + room.backlog + connections.DESCRIPTORS_RESERVED <= descriptors
    assert min(room.connections, room.backlog) > 0
    assert 2 * room.long_lived <= room.connections / 2


def test_too_few_descriptors_are_refused() -> None:
    with pytest.raises(Fatal, match="limit of open files is 511, but at least 512 are needed"):
        room_in(511)


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [(1_024, 4_096, 4_096), (1_024, 1_048_576, 16_384), (1_024, 1_024, None), (65_536, 65_536, None),
     (1_024, resource.RLIM_INFINITY, 16_384), (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None)],
)  # fmt: skip
def test_the_soft_limit_is_raised_as_far_as_allowed(
    soft: int, hard: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_.append(limits))
    room = make_room()
    assert set_ == ([] if raised is None else [(raised, hard)])
    assert room.descriptors == (raised or (16_384 if soft == resource.RLIM_INFINITY else soft))
