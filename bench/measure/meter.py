"""Measures loads on one stack: runs each, waits until every order is decided, accounts for the CPU."""

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from msgspec.structs import replace

from bench.load import governor, runner
from bench.load.spec import Board, Spec
from bench.load.wire import MANY_PATH, Population
from bench.measure import broker
from bench.measure.measured import Measured, Mode, NoResult, check, evaluate
from bench.measure.orders_log import OrdersLog
from bench.stack.private import CUSTOMERS_WITH_TOKEN, StackFailed, System
from common.kafka.warmth import SECONDS_MAX, Warmth

CONNECTIONS_MAX: Final = 2_000
CONNECTIONS_CLOSED: Final = 128
FIRST_RATE: Final = 500.0

Say = Callable[[str], None]
Tick = Callable[[Board, float], None]


class Meter:
    """Measures loads on one system, and keeps the ids of all orders that were acknowledged."""

    def __init__(self, system: System, directory: Path, say: Say) -> None:
        self.system = system
        self.directory = directory
        self.say = say
        self.log = OrdersLog(system.brokers)
        self.measured: list[Measured] = []
        self.orders = 0
        self._accepted_file = directory / "accepted.txt"
        self._accepted_file.touch()
        self._count = 0

    def warm_broker(self, seconds_max: float = SECONDS_MAX) -> Warmth:
        """Warm up the broker, see `bench.measure.broker`."""
        warmth = broker.warm_up(self.system, seconds_max)
        self.say(f"warm-up: {warmth}")
        return warmth

    def open(
        self, name: str, rate: float, duration_s: float, *, meanwhile: Tick | None = None, **options: Any
    ) -> Measured:
        """An open-loop load of `rate` requests a second. `meanwhile` is called every half second."""
        spec = self._spec("open", duration_s, rate=rate, connections=CONNECTIONS_MAX, **options)
        return self._measure(name, spec, "open", meanwhile)

    def closed(
        self,
        name: str,
        duration_s: float,
        *,
        settle: bool,
        connections: int = CONNECTIONS_CLOSED,
        requests_max: int = 0,
        **options: Any,
    ) -> Measured:
        """A closed-loop load. Its orders need not be decided at its end, unless it is to `settle` them."""
        spec = self._spec("closed", duration_s, connections=connections, requests_max=requests_max, **options)
        return self._measure(name, spec, "closed", settle=settle)

    def governed(self, name: str, first_rate: float, duration_s: float, **options: Any) -> Measured:
        """An open-loop load whose rate follows the rate of settling. See `bench.load.governor`."""
        spec = self._spec("open", duration_s, rate=first_rate, connections=CONNECTIONS_MAX, **options)
        governing = _Governing(self.log, self.log.records(), spec)
        return self._measure(name, spec, "governed", governing)

    def highest_held(self, name: str, first_rate: float, govern_s: float, hold_s: float, **options: Any) -> Measured:
        """The load at the highest rate that is held without a growing backlog, to 5 %. See `bench.load.governor`.

        The governor's rate is tried first. If no rate is held, the last try is returned with a warning.
        """
        lines = max(1, options.get("lines", 0))
        governed = self.governed(f"{name}, governed", max(FIRST_RATE, first_rate) / lines, govern_s, **options)
        if not governed.settled_late_per_s:
            raise NoResult(f"{governed.name}: nothing was settled")
        tried: dict[float, Measured] = {}

        def why_not(rate: float) -> str:
            tried[rate] = self.open(f"{name}, {rate:.0f}/s", rate / lines, hold_s, **options)
            return tried[rate].why_not_held()

        rate, warning = governor.highest_held(governed.settled_late_per_s, why_not)
        held = tried[rate]
        if warning:
            held.warnings.append(warning)
        return held

    def _spec(self, mode: Literal["open", "closed"], duration_s: float, **options: Any) -> Spec:
        self._count += 1
        options = {"population": Population(seed=self._count), **options}
        if tokens := self.system.layout.tokens:
            drawn: Population = options["population"]
            population = replace(drawn, customers=min(drawn.customers, CUSTOMERS_WITH_TOKEN))
            options |= {"population": population, "tokens": tokens}
        if options.get("lines"):
            options |= {"path": MANY_PATH, "accepted": 200}
        authority = self.system.layout.authority
        return Spec(port=self.system.api_port, mode=mode, duration_s=duration_s, authority=authority, **options)

    def _measure(
        self, name: str, spec: Spec, mode: Mode, meanwhile: Tick | None = None, *, settle: bool = True
    ) -> Measured:
        starts = self.log.ends()
        window = self.system.window()
        records = runner.run(spec, meanwhile)
        awaited = sum(starts.values()) + 2 * len(records.ids)
        grows = settle and self.log.await_records(awaited)[0] >= awaited
        cpu = window.end(records.cpu_s)
        outcomes = self.log.outcomes_since(starts)
        # The log also has orders whose answer came too late for the generator, so more records may have to be awaited.
        while grows and (open_ := sum(not outcomes[i].decisions for _, i in records.ids if i in outcomes)):
            before = self.log.records()
            after, _ = self.log.await_records(before + open_)
            outcomes = self.log.outcomes_since(starts)
            grows = after > before
        self.orders += len(records.ids)
        with self._accepted_file.open("a") as file:
            file.writelines(f"{order_id}\n" for _, order_id in records.ids)
        if settle:
            check(records, outcomes)
        measured = evaluate(name, mode, records, outcomes, cpu)
        self.measured.append(measured)
        self.say(str(measured))
        return measured

    def verify(self) -> str:
        """Have the audit prove that no acknowledged order was lost and that all books agree. Returns what it printed.

        Raises `NoResult`.
        """
        began = time.monotonic()
        try:
            output = self.system.tool("ops.verify", "--accepted", str(self._accepted_file))
        except StackFailed as error:
            raise NoResult(str(error)) from error
        self.say(f"verified: {self.orders:,} acknowledged orders, in {time.monotonic() - began:.0f} s")
        return output.strip()


@contextmanager
def private_meter(directory: Path, say: Say, **options: Any) -> Iterator[Meter]:
    """A meter on a stack of its own, in a directory of its own. `options` are those of `System`."""
    directory.mkdir(exist_ok=True)
    with System(directory / "stack", **options) as system:
        yield Meter(system, directory, say)
    # Its data need not be written to disk while the next stack is measured.
    shutil.rmtree(directory / "stack", ignore_errors=True)


class _Governing:
    """Sets the generator's rate by what has been settled according to the log.

    The backlog counts from what was due, so it includes orders that wait for a connection.
    """

    def __init__(self, log: OrdersLog, records_before: int, spec: Spec) -> None:
        self._log = log
        self._before = records_before
        self._lines = spec.orders_a_request
        self._rate = spec.rate * self._lines
        self._due = 0.0
        self._samples = deque([(0.0, 0)], maxlen=3)
        self._rising = True

    def __call__(self, board: Board, at_s: float) -> None:
        self._due += self._rate * (at_s - self._samples[-1][0])
        settled = self._log.records() - self._before - board.accepted
        self._samples.append((at_s, settled))
        before_s, before = self._samples[0]
        per_s = max(0.0, settled - before) / (at_s - before_s)
        backlog = self._due - board.refused - board.failed - settled
        self._rate, self._rising = governor.next_rate(self._rate, per_s, backlog, rising=self._rising)
        board.rate_milli = int(self._rate / self._lines * 1_000)
