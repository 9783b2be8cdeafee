"""What the consumers' log says of batches, by `common.consume.tally`."""

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from common.consume.parking import Letter, Parked, Received, Sorted
from common.consume.tally import TELL_EVERY_S, Stopwatch, Tally
from common.events import Milliseconds
from common.kafka.broker import Partition

PLACE = Partition("orders", 0)
RECEIVED = Received(PLACE, 0, Milliseconds(0), None)
PARKED = Parked(Letter(PLACE, 0, Milliseconds(0), b"c", b"", ()), True, "", "parked")


@pytest.fixture
def told() -> Iterator[list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []
    sink = logger.add(lambda message: lines.append({"message": message.record["message"], **message.record["extra"]}))
    yield lines
    logger.remove(sink)


def counted(tally: Tally) -> None:
    tally.count(4, Sorted([RECEIVED] * 2, [RECEIVED], [PARKED]), 3, {"store": 0.002, "publish": 0.001})


def test_a_second_s_batches_are_summed_up_in_one_line(told: list[dict[str, Any]]) -> None:
    tally = Tally("payment")
    tally.tell_when_due(100.0)
    counted(tally)
    counted(tally)
    tally.tell_when_due(100.0 + 0.9 * TELL_EVERY_S)
    assert told == []
    tally.tell_when_due(100.0 + TELL_EVERY_S)
    tally.tell_when_due(100.0 + 3 * TELL_EVERY_S)
    assert [{name: value for name, value in line.items() if name != "service"} for line in told] == [
        {
            "message": "batches", "group": "payment", "batches": 2, "records": 8, "repeats": 2, "parked": 2,
            "published": 6, "store_ms": 4.0, "publish_ms": 2.0,
        }
    ]  # fmt: skip


def test_what_was_counted_since_is_told_at_the_end(told: list[dict[str, Any]]) -> None:
    tally = Tally("payment")
    tally.tell_when_due(100.0)
    counted(tally)
    tally.tell()
    tally.tell()
    assert [line["batches"] for line in told] == [1]


def test_a_stage_lasts_from_the_end_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    at_s = iter([100.0, 103.0, 108.0])
    monkeypatch.setattr("common.consume.tally.time.perf_counter", lambda: next(at_s))
    clock = Stopwatch()
    clock.lap("store")
    clock.lap("publish")
    assert clock.laps == {"store": 3.0, "publish": 5.0}
