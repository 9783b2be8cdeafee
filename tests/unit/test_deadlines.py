import pytest

from common.events import Milliseconds
from common.kafka.broker import Partition
from order.saga import deadlines
from order.saga.deadlines import LAGGARD_MS, cutoffs, to_watch, walk_end
from order.saga.store import Pending, Reading

ORDERS, PAYMENTS, INVENTORY = Partition("orders", 0), Partition("payments", 0), Partition("inventory", 0)
NOW, DEADLINE_MS = Milliseconds(100_000), 60_000
LONG_AGO, LATELY = Milliseconds(10_000), Milliseconds(90_000)


def due(payments: Reading, inventory: Reading) -> int:
    ends = {PAYMENTS: 50, INVENTORY: 50}
    return cutoffs({PAYMENTS: payments, INVENTORY: inventory}, ends, NOW, DEADLINE_MS)[0]


def test_with_all_results_read_the_deadline_alone_counts() -> None:
    assert due(Reading(50, LONG_AGO), Reading(50, LONG_AGO)) == NOW - DEADLINE_MS


def test_unread_results_hold_back_every_order_whose_result_may_be_among_them() -> None:
    assert due(Reading(50, LONG_AGO), Reading(49, LATELY)) == LATELY - DEADLINE_MS
    assert due(Reading(49, LATELY), Reading(50, LONG_AGO)) == LATELY - DEADLINE_MS
    assert due(Reading(49, LONG_AGO), Reading(49, LATELY)) == LONG_AGO - DEADLINE_MS


def test_with_nothing_read_nothing_is_due() -> None:
    assert due(Reading(0, None), Reading(50, LATELY)) == -DEADLINE_MS
    assert cutoffs({}, {PAYMENTS: 1, INVENTORY: 1}, NOW, DEADLINE_MS)[0] == -DEADLINE_MS


def test_a_broker_ahead_of_our_clock_makes_nothing_due_early() -> None:
    assert due(Reading(49, Milliseconds(NOW + 1)), Reading(50, LATELY)) == NOW - DEADLINE_MS


def test_orders_that_lie_unread_hold_back_those_behind_them() -> None:
    readings = {ORDERS: Reading(9, LATELY), PAYMENTS: Reading(50, LONG_AGO), INVENTORY: Reading(50, LONG_AGO)}
    assert cutoffs(readings, {ORDERS: 10, PAYMENTS: 50, INVENTORY: 50}, NOW, DEADLINE_MS)[0] == LATELY - DEADLINE_MS


def test_the_walk_ends_where_an_order_may_still_come() -> None:
    assert walk_end({0: Milliseconds(500), 1: Milliseconds(400)}) == 399


def test_a_partition_that_is_far_behind_does_not_hold_up_the_walk() -> None:
    assert walk_end({0: Milliseconds(500_000), 1: Milliseconds(0)}) == 500_000 - LAGGARD_MS - 1


def test_orders_not_yet_due_and_the_newest_named_one_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer whose clock is ahead names the newest orders too early."""
    monkeypatch.setattr(deadlines, "WATCHED_MAX", 2)
    named = [Pending(f"named-{at}", "c", 0, "", Milliseconds(at), due=True) for at in (1, 2, 3)]
    waiting = Pending("waiting", "c", 0, "", Milliseconds(9), due=False)
    assert to_watch([*named, waiting]) == {"waiting", "named-3"}
