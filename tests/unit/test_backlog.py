"""The backlog as the broker tells it: what of a topic's records is orders."""

import math
import time
from collections.abc import Sequence
from typing import Any

import pytest

from common.errors import Transient
from common.events import ORDERS, READERS
from common.kafka import broker
from common.kafka.broker import Partition
from order.api.log.admission import EVERYTHING, Admission, Feed, Reader, Sample, admission, readers
from order.api.log.backlog import BINDING_S, Backlog

LIMIT = 1_000
FEED = Feed("payment", "orders")


def limited(backlog: Backlog) -> bool:
    """Whether the next sample, at which nobody waits and nothing tells how quick the consumers are, leaves a limit."""
    nobody = [Reader(FEED, 0.0, 0.0, math.inf)]
    return admission(nobody, LIMIT, backlog._binding_per_s()) != EVERYTHING


def test_a_limit_is_kept_as_long_as_it_turns_somebody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    at_s = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: at_s[0])
    backlog = Backlog("nowhere:1", "test", 1, LIMIT, lambda _: None)
    at_s[0] += 1.0
    backlog._set(Admission(20.0, 20.0))
    assert not limited(backlog)
    at_s[0] += 1.0
    assert [backlog.refusal() is None for _ in range(5)] == [True, False, False, False, False]
    assert limited(backlog)
    at_s[0] += 0.25
    backlog._set(Admission(25.0, 25.0))
    assert backlog._binding_per_s() == 25.0
    at_s[0] += BINDING_S
    assert not limited(backlog)


def test_a_batch_that_is_turned_away_keeps_the_limit_too() -> None:
    backlog = Backlog("nowhere:1", "test", 1, LIMIT, lambda _: None)
    backlog._set(Admission(0.5, 20.0))
    assert backlog.refusal_of_many(100) is not None
    assert limited(backlog)


@pytest.mark.parametrize(("unread", "full"), [(LIMIT - 1, False), (LIMIT, True)])
def test_while_a_service_is_away_every_unread_record_may_be_an_order(
    unread: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No order is decided without it, so no outcome lies between."""

    def committed(group: str, partitions: list[Partition]) -> dict[Partition, int]:
        return {p: unread if p.topic == ORDERS and group != "payment" else 0 for p in partitions}

    def bounds(_: Any, partitions: list[Partition]) -> dict[Partition, tuple[int, int]]:
        return {p: (0, unread if p.topic == ORDERS else 0) for p in partitions}

    monkeypatch.setattr(broker, "committed_offsets", committed)
    monkeypatch.setattr(broker, "log_bounds", bounds)
    groups: Any = {group: group for found in READERS.values() for group in found}
    sample = Backlog("nowhere:1", "test", 1, LIMIT, lambda _: None)._sample(None, groups)  # type: ignore[arg-type]
    found = admission(readers([sample]), LIMIT)
    assert (found.orders_per_s == 0.0) is full
    assert ("up to 1000 orders wait for payment on orders" in found.reason) is full


def test_each_look_is_told_and_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [Sample(number / 4, {}, {}, {}) for number in range(2)]
    answers: list[Any] = [seen[0], seen[1], Transient("the broker is away")]
    told: list[Sequence[Sample]] = []

    def sample(*_: Any) -> Sample:
        answer = answers[len(told)]
        if len(told) == len(answers) - 1:
            backlog.stopping.set()
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    monkeypatch.setattr("order.api.log.backlog.SAMPLE_EVERY_S", 0.0)
    monkeypatch.setattr("order.api.log.backlog.readers", lambda _: [Reader(FEED, 0.0, 0.0, math.inf)])
    backlog = Backlog("127.0.0.1:1", "test", 1, LIMIT, told.append)
    monkeypatch.setattr(backlog, "_sample", sample)
    backlog._watch()
    assert told == [(seen[0],), tuple(seen), ()]
