"""The log lines of `common.consume.tally`."""

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from common.consume.parking import Parked, Sorted
from common.consume.records import Received, Record
from common.consume.tally import REPORT_EVERY_S, Stopwatch, Tally
from common.events import Milliseconds
from common.kafka.broker import Partition

PARTITION = Partition("orders", 0)
RECEIVED = Received(PARTITION, 0, Milliseconds(0), None)
PARKED = Parked(Record(PARTITION, 0, Milliseconds(0), b"c", b""), True, "not an event", "parked")


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    written: list[dict[str, Any]] = []
    sink = logger.add(lambda message: written.append({"message": message.record["message"], **message.record["extra"]}))
    yield written
    logger.remove(sink)


def summaries(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["message"] == "batches"]


def counted(tally: Tally) -> None:
    tally.count(4, Sorted([RECEIVED] * 2, [RECEIVED], [PARKED]), 3, {"store": 0.002, "publish": 0.001})


def test_the_batches_of_a_second_are_summed_up_in_one_line(lines: list[dict[str, Any]]) -> None:
    tally = Tally("payment")
    tally.report_when_due(100.0)
    counted(tally)
    counted(tally)
    tally.report_when_due(100.0 + 0.9 * REPORT_EVERY_S)
    assert summaries(lines) == []
    tally.report_when_due(100.0 + REPORT_EVERY_S)
    tally.report_when_due(100.0 + 3 * REPORT_EVERY_S)
    assert [{name: value for name, value in line.items() if name != "service"} for line in summaries(lines)] == [
        {
            "message": "batches", "group": "payment", "batches": 2, "records": 8, "repeats": 2, "parked": 2,
            "published": 6, "store_ms": 4.0, "publish_ms": 2.0,
        }
    ]  # fmt: skip


def test_the_remaining_counts_are_reported_at_the_end(lines: list[dict[str, Any]]) -> None:
    tally = Tally("payment")
    tally.report_when_due(100.0)
    counted(tally)
    tally.report()
    tally.report()
    assert [line["batches"] for line in summaries(lines)] == [1]


def test_a_stage_lasts_from_the_end_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    at_s = iter([100.0, 103.0, 108.0])
    monkeypatch.setattr("common.consume.tally.time.perf_counter", lambda: next(at_s))
    clock = Stopwatch()
    clock.lap("store")
    clock.lap("publish")
    assert clock.laps == {"store": 3.0, "publish": 5.0}


def test_each_parked_event_has_a_line_of_its_own(lines: list[dict[str, Any]]) -> None:
    counted(Tally("payment"))
    [line] = lines
    assert line["message"] == "parked: not an event"
    assert (line["customer"], line["topic"], line["partition"], line["offset"]) == ("c", "orders", 0, 0)
