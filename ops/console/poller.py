"""The one poller of all tabs, and of the metrics: reads every source each second, and publishes what it found.

Each source is read in a thread of its own, and one that does not answer in time keeps no other waiting: the page then
says so. Without a tab, it reads every three seconds, so that the metrics are fresh, and the last 15 minutes are there
when a tab comes.
"""

import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Final

from common.errors import describe
from common.events import now
from common.worker import Worker
from ops.console.flow import Flow, Reading, Scrape
from ops.console.hub import Hub
from ops.console.metrics import POINT_S, POINTS, Latency, buckets, increments, of_values
from ops.console.sources import Instances
from ops.console.store import SQL
from ops.databases import Databases
from ops.observe.gauges import Gauges
from ops.observe.samples import BrokerSample, BrokerSampler, DatabaseSample, DatabaseSampler, positions_of
from ops.tool import GROUP_OF

EVERY_S: Final = 1.0
IDLE_EVERY_S: Final = 3.0
STOP_S: Final = 5.0
ANSWER_S: Final = 0.8
"""How long a round waits for its sources."""
SCRAPE_EVERY_S: Final = 2.0
BROKER_EVERY_S: Final = 3.0
COLLECT_EVERY_S: Final = 10.0
"""A read that fails leaves its futures, its error and their frames in cycles. By itself the collector comes when there
are 50,000 such objects (`common.http.server`), which are 9 MiB; what is frozen since the start it need not visit."""
OUTCOMES_EVERY_S: Final = 2.0
OUTCOMES_S: Final = 60
OUTCOMES_MAX: Final = 500
SETTLE_OLDEST_S: Final = 20.0
SETTLE_NEWEST_S: Final = 10.0
"""Settle times are measured on orders of this age: most have settled, and one that has not is late."""
SETTLE_MAX: Final = 1_000
SETTLE_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 60.0)
ACCEPT: Final = "order_accept_seconds"
BROKER: Final = "broker"


class Source:
    """Something that is read again and again, with no more than one read under way."""

    def __init__(self, name: str, fetch: Callable[[], Any], every_s: float, pool: ThreadPoolExecutor) -> None:
        self.name = name
        self.problem = ""
        self._fetch = fetch
        self._every_s = every_s
        self._pool = pool
        self._under_way: Future[Any] | None = None
        self._began_s = -every_s
        self._last: Any = None

    def begin(self, clock_s: float) -> "Future[Any] | None":
        """Begin a read if one is due; returns the one under way."""
        if self._under_way is None and clock_s - self._began_s >= self._every_s - ANSWER_S / 2:
            self._began_s = clock_s
            self._under_way = self._pool.submit(self._fetch)
        return self._under_way

    def answer(self, clock_s: float) -> Any:
        """What was read last; None when it cannot be read now, and `problem` says why."""
        if self._under_way is None:
            return self._last
        if not self._under_way.done():
            if clock_s - self._began_s > self._every_s + 1:
                self.problem = f"no answer for {clock_s - self._began_s:.0f} s"
                self._last = None
            return self._last
        under_way, self._under_way = self._under_way, None
        try:
            self._last, self.problem = under_way.result(), ""
        except Exception as error:
            self._last, self.problem = None, describe(error)
        return self._last


class Poller:
    """A task of the process."""

    def __init__(
        self, broker: BrokerSampler, databases: Databases, instances: Instances, hub: Hub, gauges: Gauges
    ) -> None:
        self._broker = broker
        self._order_database = databases["order"]
        self._instances = instances
        self._hub = hub
        self._gauges = gauges
        self._flow = Flow()
        self._accept, self._settle = Latency(), Latency()
        self._accept_before: dict[str, dict[float, float]] = {}
        self._points: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self._point_at_s = 0.0
        self._collected_s = 0.0
        self._scraped: Sequence[Scrape] | None = None
        self._settled: list[float] | None = None
        self._shown: list[dict[str, Any]] = []
        self._api: dict[str, float | None] = self._flow.api([])
        self._wake = threading.Event()
        self._pool = ThreadPoolExecutor(8, "poll")
        self._worker = Worker("poller", self._run, retries_fatal=True, stop_timeout_s=STOP_S)
        self._sources = {
            "kafka": Source("kafka", broker.ends, EVERY_S, self._pool),
            BROKER: Source(BROKER, self._sample_broker, BROKER_EVERY_S, self._pool),
            "instances": Source("instances", instances.scrape, SCRAPE_EVERY_S, self._pool),
            "outcomes": Source("outcomes", self._outcomes, OUTCOMES_EVERY_S, self._pool),
            "settle times": Source("settle times", self._settle_times, POINT_S, self._pool),
        } | {
            service: Source(
                service, partial(self._sample_database, DatabaseSampler(databases[service])), EVERY_S, self._pool
            )
            for service in GROUP_OF
        }

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._worker.stopping.set()
        self._wake.set()
        self._worker.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._instances.close()

    def missing(self) -> list[str]:
        return self._worker.missing()

    def history(self) -> dict[str, Any]:
        """The points of the last 15 minutes, for a tab that comes."""
        return {"every_s": POINT_S, "points": list(self._points)}

    def wake(self) -> None:
        """A tab has come: go on at once."""
        self._wake.set()

    def _sample_database(self, sampler: DatabaseSampler) -> DatabaseSample:
        sample = sampler.sample()
        self._gauges.take_database(sampler.service, sample)
        return sample

    def _sample_broker(self) -> BrokerSample:
        sample = self._broker.sample(positions_of(self._gauges.databases()))
        self._gauges.take_broker(sample)
        return sample

    def _outcomes(self) -> list[dict[str, Any]]:
        return self._order_database.query(SQL["outcomes"], window_s=OUTCOMES_S, most=OUTCOMES_MAX)

    def _settle_times(self) -> list[float]:
        ages = {"oldest_s": SETTLE_OLDEST_S, "newest_s": SETTLE_NEWEST_S}
        return [row["seconds"] for row in self._order_database.query(SQL["settle_times"], **ages, most=SETTLE_MAX)]

    def _run(self) -> None:
        self._worker.report("")
        while not self._worker.stopping.is_set():
            began_s = time.monotonic()
            self.round(began_s)
            every_s = EVERY_S if self._hub.clients else IDLE_EVERY_S
            if self._wake.wait(max(0.05, began_s + every_s - time.monotonic())):
                self._wake.clear()

    def round(self, clock_s: float) -> None:
        """Read what is due, and publish it. `clock_s` is now by the monotonic clock."""
        under_way = {name: future for name, source in self._sources.items() if (future := source.begin(clock_s))}
        under_way.pop(BROKER, None)  # it reads records when a group is behind: the page does not wait for that
        wait(under_way.values(), timeout=ANSWER_S)
        clock_s = time.monotonic()
        answers = {name: source.answer(clock_s) for name, source in self._sources.items()}
        scrapes = answers["instances"]
        if scrapes is not None and scrapes is not self._scraped:
            self._scraped = scrapes
            broker: BrokerSample | None = answers[BROKER]
            self._shown = self._flow.instances(scrapes, broker.assigned if broker else {})
            self._api = self._flow.api(scrapes)
            self._observe(scrapes)
        times = answers["settle times"]
        if times is not None and times is not self._settled:
            self._settled = times
            self._settle.add(of_values(times, SETTLE_BOUNDS_S))
        if clock_s - self._collected_s >= COLLECT_EVERY_S and any(source.problem for source in self._sources.values()):
            self._collected_s = clock_s
            gc.collect()
        document = self._document(answers, clock_s)
        self._hub.publish("flow", document)
        if clock_s - self._point_at_s >= POINT_S:
            self._point_at_s = clock_s
            self._end_interval(document)

    def _document(self, answers: Mapping[str, Any], clock_s: float) -> dict[str, Any]:
        broker: BrokerSample | None = answers[BROKER]
        stored: dict[str, DatabaseSample] = {s: answers[s] for s in GROUP_OF if answers[s] is not None}
        reading = Reading(
            now(),
            clock_s,
            answers["kafka"] or {},
            {GROUP_OF[service]: sample.positions for service, sample in stored.items()},
            broker.first_unread if broker else {},
            {name: self._sources[name].problem for name in ("kafka", *GROUP_OF) if self._sources[name].problem},
        )
        return {
            **self._flow.topics_and_arrows(reading),
            "api": self._api,
            "outcomes": {"window_s": OUTCOMES_S, **outcomes(answers["outcomes"] or [])},
            "parked": {s: sum(stored[s].parked.values()) if s in stored else None for s in GROUP_OF},
            "stopped": {service: sample.stopped for service, sample in stored.items() if sample.stopped},
            "instances": self._shown,
            "latency": {"accept": self._accept.window(), "settle": self._settle.window()},
        }

    def _observe(self, scrapes: Sequence[Scrape]) -> None:
        """Add what the apis have measured since the last scrape."""
        cumulative = {scrape.name: buckets(scrape.values, ACCEPT) for scrape in scrapes if scrape.values}
        for name, after in cumulative.items():
            if after and name in self._accept_before:
                self._accept.add(increments(self._accept_before[name], after))
        self._accept_before = {name: after for name, after in cumulative.items() if after}

    def _end_interval(self, document: Mapping[str, Any]) -> None:
        known = [arrow for arrow in document["arrows"] if arrow["lag_records"] is not None]
        point = {
            "at": document["at"],
            "accept": self._accept.end_interval(),
            "settle": self._settle.end_interval(),
            "lag_records": sum(arrow["lag_records"] for arrow in known) if known else None,
            "lag_s": max(arrow["lag_s"] for arrow in known) if known else None,
            "accepted_s": document["api"]["accepted_s"],
        }
        self._points.append(point)
        self._hub.publish("point", point, keep=False)


def outcomes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many of the newest orders have which outcome, such as `rejected: out_of_stock`."""
    counts: dict[str, int] = {}
    for row in rows:
        name = f"{row['status']}: {row['reason']}" if row["reason"] else row["status"]
        counts[name] = counts.get(name, 0) + row["orders"]
    return {"orders": sum(counts.values()), "counts": counts}
