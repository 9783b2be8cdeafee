"""The same seed deals the same faults, and soon deals every kind."""

from itertools import islice

import pytest

from tests.chaos.disk import orphans
from tests.chaos.faults import INJECT
from tests.chaos.schedule import KINDS, NAMES, SECOND_FAULT_SHARE, Step, deal


def steps(seed: int, count: int = 200, only: tuple[str, ...] = ()) -> list[Step]:
    return list(islice(deal(seed, only), count))


def test_a_seed_deals_the_same_every_time_and_another_seed_something_else() -> None:
    assert steps(7) == steps(7)
    assert steps(7) != steps(8)


def test_every_kind_comes_before_any_comes_again() -> None:
    assert {step.faults[0].kind for step in steps(7, len(KINDS))} == set(NAMES)


def test_faults_stay_within_what_their_kind_allows() -> None:
    kinds = {kind.name: kind for kind in KINDS}
    for step in steps(7):
        for fault in step.faults:
            kind = kinds[fault.kind]
            assert fault.target in kind.targets
            assert kind.lasts_s[0] <= fault.lasts_s <= kind.lasts_s[1]


def test_some_faults_come_in_pairs_but_an_exclusive_fault_comes_alone() -> None:
    alone = {kind.name for kind in KINDS if kind.alone}
    twos = [step for step in steps(7) if len(step.faults) == 2]
    assert len(twos) > SECOND_FAULT_SHARE * 200 / 4
    assert not any(fault.kind in alone for step in twos for fault in step.faults)


@pytest.mark.parametrize("only", [("deadlock",), ("kill-api", "cut-kafka")])
def test_only_chosen_faults_are_dealt(only: tuple[str, ...]) -> None:
    assert {fault.kind for step in steps(7, only=only) for fault in step.faults} == set(only)


def test_each_kind_can_be_injected() -> None:
    assert set(INJECT) == set(NAMES)


def test_a_disk_is_an_orphan_if_its_process_was_killed() -> None:
    mounts = (
        "/dev/vda / ext4 rw 0 0\n"
        "tandem-chaos-11 /mnt/a/kafka-disk tmpfs rw,relatime 0 0\n"
        "tandem-chaos-12 /mnt/b/kafka-disk tmpfs rw,relatime 0 0\n"
    )
    assert orphans(mounts, is_alive=lambda pid: pid == 12) == ["/mnt/a/kafka-disk"]
