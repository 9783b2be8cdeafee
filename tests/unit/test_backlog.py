"""The backlog as the broker reports it: which records wait for whom, and how many more orders are admitted."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from common.config.env import Env
from common.errors import Transient
from common.events import INVENTORY, ORDERS, PAYMENTS, READS
from common.kafka import broker
from common.kafka.broker import Partition
from order import config
from order.api.log.admission import EVERYTHING, SAMPLE_EVERY_S, Admission, Feed, Sample, admission
from order.api.log.backlog import Backlog

LIMIT = 1_000
SETTINGS = replace(
    config.api(Env("order-api", {"ORDER_DATABASE_URL": "postgresql://", "AUTH": "off", "TOPIC_PARTITIONS": "1"})),
    backlog_max=LIMIT,
)


def backlog(admitted: Admission = EVERYTHING) -> Backlog:
    made = Backlog(SETTINGS, lambda _: None)
    made.set(admitted)
    return made


def test_orders_are_admitted_while_there_is_room_and_then_refused_with_the_reason() -> None:
    limited = backlog(Admission(2.0, 0.0, 3.0, "7 orders wait", 4))
    assert [limited.refusal() is None for _ in range(4)] == [True, True, False, False]
    refused = limited.refusal()
    assert refused is not None
    assert refused.retry_after_s == 4
    assert refused.detail == "7 orders wait; this request placed nothing, send it again in 4 s"


def test_orders_admitted_before_a_sample_are_not_counted_again() -> None:
    limited = backlog(Admission(1.0, 1.0))
    assert limited.refusal() is None
    assert limited.refusal() is not None
    limited.set(Admission(1.0, 1.0))
    assert limited.refusal() is None
    assert limited.refusal() is not None


def test_requests_with_many_orders_take_room_from_single_ones_and_may_overdraw_it() -> None:
    limited = backlog(Admission(150.0, 50.0))
    assert limited.refusal_of_many(100) is None
    assert limited.refusal_of_many(1) is not None
    assert [limited.refusal() is None for _ in range(51)] == [True] * 50 + [False]


@pytest.mark.parametrize(("unread", "full"), [(LIMIT - 1, False), (LIMIT, True)])
def test_every_unread_record_of_a_reader_counts_as_an_order(
    unread: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Payment has never committed. Nobody is asked about the outcomes: no service of Tandem's reads them."""

    def committed(group: str, partitions: list[Partition]) -> dict[Partition, int]:
        assert {p.topic for p in partitions} == set(READS[group])
        return {} if group == "payment" else {p: unread if p.topic == ORDERS else 0 for p in partitions}

    def starts(_: Any, partitions: Iterable[Partition]) -> dict[Partition, int]:
        never_committed = dict.fromkeys(partitions, 0)
        assert {p.topic for p in never_committed} == {ORDERS}  # others are only read by groups that have committed
        return never_committed

    def ends(_: Any, partitions: list[Partition]) -> dict[Partition, int]:
        assert {p.topic for p in partitions} == {ORDERS, PAYMENTS, INVENTORY}
        return {p: unread if p.topic == ORDERS else 0 for p in partitions}

    monkeypatch.setattr(broker, "committed_offsets", committed)
    monkeypatch.setattr(broker, "log_starts", starts)
    monkeypatch.setattr(broker, "log_ends", ends)
    groups: Any = {group: group for group in READS}
    sample = backlog()._sample(None, groups)  # type: ignore[arg-type]
    assert sample.waiting == {
        Feed(group, topic): unread if group == "payment" else 0 for group, topics in READS.items() for topic in topics
    }
    admitted = admission([sample], 60.0, LIMIT)
    assert (admitted.singles == 0.0) is full
    assert "orders wait for payment on orders" in admitted.reason


def test_each_sample_sets_the_wait_and_a_failed_sample_resets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    watching = Backlog(SETTINGS, waits.append)
    answers: list[Sample | Exception] = [Sample(0.0, {}, {}), Transient("the broker is away")]

    def sample(*_: Any) -> Sample:
        answer = answers.pop(0)
        if not answers:
            watching.stopping.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("order.api.log.backlog.admission", lambda *_: Admission(5.0, 5.0, 2.5))
    monkeypatch.setattr("order.api.log.backlog.next_sample_s", lambda *_: 7.0)
    monkeypatch.setattr(watching, "_sample", sample)
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return watching.stopping.is_set()

    monkeypatch.setattr(watching.stopping, "wait", wait)
    watching._watch()
    assert waits == [0.0, 2.5, 0.0]
    assert pauses == [SAMPLE_EVERY_S, 7.0, SAMPLE_EVERY_S]
    assert watching.refusal() is None
