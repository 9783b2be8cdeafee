"""What a process remembers of principals when there are more of them than it has room for."""

import random

import pytest

from common.auth.remembered import Remembered
from tests.unit.principals import principal

ROOM = 200


@pytest.fixture
def remembered() -> Remembered:
    return Remembered(ROOM, random.Random(7).randrange)


def share_found(remembered: Remembered, principals: int, rounds: int, now: float = 0.0) -> float:
    """The share of requests that find their principal when so many take turns; the first half of the rounds is not
    counted."""
    found = 0
    for turn in range(rounds):
        for number in range(principals):
            key = b"%d" % number
            if key not in remembered.principals:
                remembered.add(key, principal("cust"), now)
            elif 2 * turn >= rounds:
                found += 1
    return found / (principals * (rounds - (rounds + 1) // 2))


def test_those_for_whom_there_is_room_are_all_found(remembered: Remembered) -> None:
    assert share_found(remembered, ROOM, 4) == 1


def test_of_more_than_there_is_room_for_a_part_is_found(remembered: Remembered) -> None:
    assert share_found(remembered, ROOM + ROOM // 2, 200) > 0.5
    assert len(remembered.principals) == len(remembered._keys) == ROOM


def test_those_whose_credentials_have_expired_make_room_first(remembered: Remembered) -> None:
    for number in range(ROOM):
        remembered.add(b"old %d" % number, principal("cust", expires_at=10), 0.0)
    assert share_found(remembered, ROOM // 2, 4, now=10) > 0.95


def test_new_credentials_of_one_that_is_remembered_take_its_place(remembered: Remembered) -> None:
    for expires_at in (10, 20):
        remembered.add(b"key", principal("cust", expires_at=expires_at), 0.0)
    assert remembered.principals[b"key"].expires_at == 20
    assert len(remembered._keys) == 1
    remembered.forget_all()
    assert not remembered.principals
    assert not remembered._keys
