"""Pure: rates, lag and the state of each instance, from what was read now and a moment ago."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from common.events import READS, Milliseconds
from common.kafka.broker import Partition
from ops.console.metrics import Values, requests, total
from ops.observe.samples import Position

STAGES: Final = "batch_stage_seconds_sum"
RATE_READINGS: Final = 4
"""A rate is taken over the last three seconds: consumers commit in bursts."""
ARROWS: Final = tuple((group, topic) for group, topics in READS.items() for topic in topics)
"""Which group reads which topic."""
GAUGES: Final = {"in_flight": "pool_in_use", "backlog": "backlog_orders", "wait_s": "backlog_wait_seconds"}


@dataclass(frozen=True)
class Reading:
    """The log and the databases at one moment. What could not be read is missing, and `problems` says why."""

    at: Milliseconds
    clock_s: float
    """The monotonic clock."""
    ends: Mapping[Partition, int] = field(default_factory=dict)
    positions: Mapping[str, Mapping[Partition, Position]] = field(default_factory=dict)
    """By group."""
    first_unread: Mapping[tuple[str, Partition], Milliseconds] = field(default_factory=dict)
    """The broker's time of the first record that a group had not passed some seconds ago, where there was one."""
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scrape:
    """What an instance says of itself: /readyz and /metrics. Without `ready` it did not answer."""

    name: str
    service: str
    clock_s: float
    ready: bool | None = None
    missing: Sequence[str] = ()
    degraded: Sequence[str] = ()
    values: Values = field(default_factory=dict)
    host: str = ""
    """Where it is, if no other instance is there."""


@dataclass
class Lag:
    """Seconds of lag: the age of the first record that is not yet decided. It came after the last one that was decided,
    after all had been decided, and not before the first undecided one of a moment ago: the latest of these tells."""

    caught_up_at: dict[tuple[str, Partition], Milliseconds] = field(default_factory=dict)

    def seconds(self, group: str, partition: Partition, position: Position, end: int, reading: Reading) -> float:
        where = group, partition
        if position.next_offset >= end:
            self.caught_up_at[where] = reading.at
            return 0.0
        since = max(position.record_time or 0, self.caught_up_at.get(where, 0), reading.first_unread.get(where, 0))
        return max(0.0, (reading.at - since) / 1e3) if since else 0.0


class Flow:
    """Turns readings and scrapes into what the page shows. Its size is bounded by the number of instances."""

    def __init__(self) -> None:
        self._readings: deque[Reading] = deque(maxlen=RATE_READINGS)
        self._lag = Lag()
        self._instances: dict[str, Instance] = {}

    def topics_and_arrows(self, reading: Reading) -> dict[str, Any]:
        """What was written to each topic, what each group read of it, and how far it is behind."""
        self._readings.append(reading)
        before = self._readings[0]
        elapsed_s = reading.clock_s - before.clock_s
        topics = [
            {
                "topic": topic,
                "in_s": _rate(_of_topic(before.ends, topic), _of_topic(reading.ends, topic), elapsed_s),
                "end": sum(_of_topic(reading.ends, topic).values()),
            }
            for topic in dict.fromkeys(topic for _, topic in ARROWS)
        ]
        arrows = [self._arrow(group, topic, before, reading, elapsed_s) for group, topic in ARROWS]
        return {"at": reading.at, "problems": reading.problems, "topics": topics, "arrows": arrows}

    def _arrow(self, group: str, topic: str, before: Reading, now: Reading, elapsed_s: float) -> dict[str, Any]:
        positions = {p: at for p, at in now.positions.get(group, {}).items() if p.topic == topic}
        partitions = [
            {
                "partition": partition.number,
                "position": position.next_offset,
                "end": end,
                "lag_records": max(0, end - position.next_offset),
                "lag_s": round(self._lag.seconds(group, partition, position, end, now), 3),
            }
            for partition, position in sorted(positions.items())
            if (end := now.ends.get(partition)) is not None
        ]
        earlier = {p: at.next_offset for p, at in before.positions.get(group, {}).items() if p.topic == topic}
        return {
            "group": group,
            "topic": topic,
            "out_s": _rate(earlier, {p: at.next_offset for p, at in positions.items()}, elapsed_s),
            "lag_records": sum(p["lag_records"] for p in partitions) if partitions else None,
            "lag_s": max(p["lag_s"] for p in partitions) if partitions else None,
            "partitions": partitions,
        }

    def instances(self, scrapes: Sequence[Scrape], assigned: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        """Each instance as it stands. `assigned` are the partitions of each, by name or host, as the broker has
        them."""
        self._instances = {scrape.name: self._instances.get(scrape.name, Instance()) for scrape in scrapes}
        return [
            self._instances[scrape.name].shown(scrape)
            | {"partitions": assigned.get(scrape.name, assigned.get(scrape.host))}
            for scrape in scrapes
        ]

    def api(self, scrapes: Sequence[Scrape]) -> dict[str, float | None]:
        """What all processes of the order api take and refuse, each second, and what waits."""
        apis = [scrape for scrape in scrapes if scrape.service == "order-api" and scrape.values]
        if not apis:
            return dict.fromkeys(("accepted_s", "refused_s", "failed_s", *GAUGES))
        rates = [self._instances[scrape.name].request_rates for scrape in apis if scrape.name in self._instances]
        shown: dict[str, float | None] = {
            f"{name}_s": round(sum(rate.get(name, 0.0) for rate in rates), 2)
            for name in ("accepted", "refused", "failed")
        }
        shown["in_flight"] = sum(total(s.values, GAUGES["in_flight"], pool="orders-in-flight") for s in apis)
        for name in ("backlog", "wait_s"):  # each api measures the same backlog, and an order may wait for two readers
            shown[name] = max(
                (v for s in apis for (metric, _), v in s.values.items() if metric == GAUGES[name]), default=0
            )
        return shown


@dataclass
class Instance:
    """An instance since the last scrape."""

    last: Scrape | None = None
    last_batch_s: float | None = None
    """When its count of batches rose last, by the monotonic clock."""
    request_rates: dict[str, float] = field(default_factory=dict)

    def shown(self, scrape: Scrape) -> dict[str, Any]:
        """Its state, and its rates since the last scrape; null where they are not known."""
        last, self.last = self.last, scrape
        state = "down" if scrape.ready is None else "unready" if not scrape.ready else "ready"
        shown: dict[str, Any] = {
            "name": scrape.name,
            "service": scrape.service,
            "state": "degraded" if state == "ready" and scrape.degraded else state,
            "missing": scrape.missing,
            "degraded": scrape.degraded,
            **dict.fromkeys(("batches_s", "records_s", "records_per_batch", "batch_ms", "published_s", "last_batch_s")),
        }
        elapsed_s = scrape.clock_s - last.clock_s if last else 0.0
        if last is None or not last.values or not scrape.values or elapsed_s <= 0:
            self.request_rates = {}
            return shown
        grown = {
            name: total(scrape.values, name) - total(last.values, name)
            for name in ("batches_total", "records_total", "published_total")
        }
        counted, counted_before = requests(scrape.values), requests(last.values)
        self.request_rates = {name: max(0.0, n - counted_before[name]) / elapsed_s for name, n in counted.items()}
        if min(grown.values()) < 0:  # it has restarted
            self.last_batch_s = None
            return shown
        batches = grown["batches_total"]
        if batches:
            self.last_batch_s = scrape.clock_s
            busy_s = total(scrape.values, STAGES) - total(last.values, STAGES)
            shown["records_per_batch"] = round(grown["records_total"] / batches, 1)
            shown["batch_ms"] = round(busy_s / batches * 1e3, 2)
        shown["batches_s"] = round(batches / elapsed_s, 2)
        shown["records_s"] = round(grown["records_total"] / elapsed_s, 2)
        shown["published_s"] = round(grown["published_total"] / elapsed_s, 2)
        if self.last_batch_s is not None:
            shown["last_batch_s"] = round(scrape.clock_s - self.last_batch_s, 1)
        return shown


def _of_topic(ends: Mapping[Partition, int], topic: str) -> dict[Partition, int]:
    return {partition: end for partition, end in ends.items() if partition.topic == topic}


def _rate(before: Mapping[Partition, int], after: Mapping[Partition, int], elapsed_s: float) -> float | None:
    """How many records a second, when both are known."""
    if not before or not after or elapsed_s <= 0:
        return None
    return round(max(0.0, sum(after.values()) - sum(before.values())) / elapsed_s, 2)
