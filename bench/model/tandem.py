"""Tandem as a model: the api lingers, the log, three consumers that keep the timetable, and their databases.

What the model knows of the code are its timetable (decisions 22 and 43), the linger and the largest batch. What it
knows of a machine are the costs of a batch, a request and an order (`bench.model.costs`), which were measured. From
both follow the size of batches, how long everything waits for everything else, and the CPU of an order.

Orders come at even intervals, as from the bench's generator, for customers in all partitions alike. Every order is
confirmed. Not in the model: admission, parked events, the growth of tables, other work on the machine.
"""

import random
from collections import deque
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from bench.model.engine import Cores, Lock, Process, Signal, Simulation
from common.consume.inbox import ARRIVE_S, BATCH_RECORDS_MAX, FETCH_S
from common.consume.timetable import Timetable
from inventory.consumer import InventoryHandler
from order.saga.consumer import SagaHandler
from payment.consumer import PaymentHandler

GROUPS: Final = ("api", "saga", "payment", "inventory", "broker", "postgres")
CONSUMERS: Final = ("payment", "inventory", "saga")
PHASES: Final = {
    "payment": PaymentHandler.phase,
    "inventory": InventoryHandler.phase,
    "saga": SagaHandler.phase,
}
LINGER_S: Final = 0.004
"""`ORDER_LINGER_MS` as it is set."""
POSTGRES_SHARES: Final = {"payment": 0.25, "inventory": 0.15, "saga": 0.6}
"""How PostgreSQL's cost of an order divides among the three databases, from the drains of the full run."""
_BEFORE, _BETWEEN, _AFTER = 0.4, 0.3, 0.3
"""The shares of a consumer's work on a batch before the lock, between lock and commit, and after."""
_LOCKING = 0.4
"""The share of PostgreSQL's work on a batch up to the lock."""
WARM_UP_S: Final = 2.0
SIMULATED_PER_S: Final = 6_000


class Costs(Struct, frozen=True, kw_only=True):
    """CPU in seconds of each group: for a second of being there, for a unit of work, and for an order."""

    idle: dict[str, float]
    """A second, of each process; the broker and PostgreSQL are one each."""
    batch: dict[str, float]
    request: dict[str, float]
    """For each partition that records are sent to in one go."""
    order: dict[str, float]
    generator: float = 0.0
    hop_s: float = 0.0
    """Not CPU: how long a message takes to the next process and wakes it."""
    spread: float = 0.0
    """How much the stages of a batch differ from one another: their standard deviation over their mean."""


class Shape(Struct, frozen=True, kw_only=True):
    """What runs where, and how much comes. Without `apart`, everything shares `cores`; with it, each api and each
    consumer has a core of its own, each database and each broker `cores`."""

    rate: float
    """Orders a second."""
    seconds: float = 8.0
    apis: int = 1
    instances: int = 1
    """Of each consumer."""
    partitions: int = 6
    cores: int = 2
    apart: bool = False
    brokers: int = 1
    copies: int = 1
    """Replicas of the log: each more costs a broker an append."""
    is_split: bool = True
    """Whether instances of inventory lock rows of their own. Otherwise one waits until the other has committed."""

    @property
    def lot(self) -> int:
        """How many orders go through the model as one, so that a high rate can be simulated in reasonable time."""
        return max(1, round(self.rate / SIMULATED_PER_S))


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of it, without the warm-up. Latencies in ms."""

    orders: int
    settled_share: float
    """What is settled of what comes, by how many orders wait on average in the second half and in the first: below 1,
    more and more do."""
    accept_p50: float
    settle_p50: float
    settle_p99: float
    cpu_us: dict[str, float]
    """Of an order, by group."""
    work: dict[str, dict[str, float]]
    """By group: batches, requests and orders a second."""

    @property
    def total_cpu_us(self) -> float:
        return sum(self.cpu_us.values())


class Order:
    """An order on its way. Times in seconds."""

    __slots__ = ("accepted_s", "due_s", "partition", "results", "settled_s")

    def __init__(self, due_s: float, partition: int) -> None:
        self.due_s = due_s
        self.partition = partition
        self.results = 0
        self.accepted_s = self.settled_s = 0.0


class Consumer:
    """An instance of a service: what waits for it, and when it may begin its next batch."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.waiting: deque[Order | None] = deque()
        """None is an order that has no results yet."""
        self.signal = Signal()
        self.timetable = Timetable(PHASES[service])
        self.next_slot_s = 0.0

    def begin(self, now_s: float) -> None:
        """A batch has been read and decoded."""
        self.timetable.began(now_s)
        self.next_slot_s = now_s + self.timetable.until_next_slot_s(now_s)

    def add(self, records: Sequence[Order | None]) -> None:
        if records:
            self.waiting.extend(records)
            self.signal.set()


def nothing_done() -> dict[str, dict[str, float]]:
    """By group: batches, requests and orders."""
    return {group: dict.fromkeys(("batch", "request", "order"), 0.0) for group in GROUPS}


class Model:
    """One run of the model."""

    def __init__(self, shape: Shape, costs: Costs, seed: int = 1) -> None:
        self._shape, self._costs = shape, costs
        self._draw = random.Random(seed)
        self.simulation = Simulation()
        shared = Cores(self.simulation, shape.cores)

        def machine(cores: int) -> Cores:
            return Cores(self.simulation, cores) if shape.apart else shared

        self._brokers = [machine(shape.cores) for _ in range(shape.brokers)]
        self._databases = {service: machine(shape.cores) for service in CONSUMERS}
        self._generator = machine(1)
        self._stock = Lock()
        self.orders: list[Order] = []
        self._pending: list[list[Order]] = [[] for _ in range(shape.apis)]
        self._signals = [Signal() for _ in range(shape.apis)]
        self._consumers: dict[str, list[Consumer]] = {}
        self.cpu_s = dict.fromkeys(GROUPS, 0.0)
        self.work = nothing_done()
        for service in CONSUMERS:
            self._consumers[service] = [Consumer(service) for _ in range(shape.instances)]
            for consumer in self._consumers[service]:
                self.simulation.spawn(self._consume(consumer, machine(1)))
        for number in range(shape.apis):
            self.simulation.spawn(self._serve(number, machine(1)))
        self.simulation.spawn(self._arrive())

    def _spend(self, group: str, batches: int = 0, requests: int = 0, orders: float = 0) -> float:
        """Count the work of a group. Returns its CPU in seconds."""
        costs, done = self._costs, self.work[group]
        orders *= self._shape.lot
        done["batch"] += batches
        done["request"] += requests
        done["order"] += orders
        cpu_s = costs.batch[group] * batches + costs.request[group] * requests + costs.order[group] * orders
        self.cpu_s[group] += cpu_s
        return cpu_s

    def _vary(self) -> float:
        """A factor for the time of a stage, 1 on average, of a gamma distribution."""
        spread = self._costs.spread
        return self._draw.gammavariate(spread**-2, spread**2) if spread else 1.0

    def _arrive(self) -> Process:
        shape, simulation = self._shape, self.simulation
        number = 0
        while True:
            due_s = number * shape.lot / shape.rate
            if due_s > simulation.now_s:
                yield simulation.sleep(due_s - simulation.now_s)
            order = Order(due_s, self._draw.randrange(shape.partitions))
            self.orders.append(order)
            api = self._draw.randrange(shape.apis)
            self._pending[api].append(order)
            self._signals[api].set()
            if self._costs.generator:
                simulation.spawn(self._compute(self._generator, self._costs.generator * shape.lot))
            number += 1

    @staticmethod
    def _compute(cores: Cores, cpu_s: float) -> Process:
        yield cores.use(cpu_s)

    def _serve(self, number: int, cores: Cores) -> Process:
        """An api: what arrives while it lingers is sent together, a request for each partition."""
        while True:
            if not self._pending[number]:
                yield self._signals[number].wait()
                continue
            yield self.simulation.sleep(LINGER_S)
            orders, self._pending[number] = self._pending[number], []
            requests = len({order.partition for order in orders})
            yield cores.use(self._spend("api", requests=requests, orders=len(orders)))
            self.simulation.spawn(self._accept(orders, requests))

    def _accept(self, orders: list[Order], requests: int) -> Process:
        yield from self._append(orders, requests, len(orders))
        for order in orders:
            order.accepted_s = self.simulation.now_s
        for service in ("payment", "inventory"):
            self._deliver(service, orders)
        self._deliver("saga", orders, placed=True)  # which stores them, and decides when it has both results

    def _append(self, orders: Sequence[Order], requests: int, count: int) -> Process:
        """Send records to the log and wait until it has them, on all copies."""
        shape = self._shape
        yield self.simulation.sleep(self._costs.hop_s)
        broker = self._brokers[orders[0].partition % shape.brokers]
        cpu_s = self._spend("broker", requests=requests, orders=count / 4)
        for copy in range(shape.copies):
            yield (broker if copy == 0 else self._brokers[(orders[0].partition + copy) % shape.brokers]).use(cpu_s)
        self.cpu_s["broker"] += cpu_s * (shape.copies - 1)

    def _deliver(self, service: str, records: Sequence[Order], *, placed: bool = False) -> None:
        shape, consumers = self._shape, self._consumers[service]
        shares: list[list[Order | None]] = [[] for _ in consumers]
        for order in records:
            # The range assignor gives an instance neighbouring partitions.
            owner = order.partition * shape.instances // shape.partitions
            shares[owner].append(None if placed else order)
        for consumer, share in zip(consumers, shares, strict=True):
            consumer.add(share)

    def _consume(self, consumer: Consumer, cores: Cores) -> Process:
        """A consumer: it begins one batch in each slot at most."""
        simulation = self.simulation
        while True:
            if not consumer.waiting:
                yield consumer.signal.wait()
                continue
            if (wait_s := consumer.next_slot_s - simulation.now_s) > 0:
                yield simulation.sleep(wait_s + FETCH_S / 2 + ARRIVE_S)
            count = min(len(consumer.waiting), BATCH_RECORDS_MAX // self._shape.lot)
            batch = [consumer.waiting.popleft() for _ in range(count)]
            orders = [order for order in batch if order is not None]
            yield from self._process(consumer, orders, cores)
            consumer.timetable.ended(simulation.now_s)

    def _process(self, consumer: Consumer, orders: list[Order], cores: Cores) -> Process:
        """A batch: lock, decide, store, commit, publish."""
        simulation, hop_s, service = self.simulation, self._costs.hop_s, consumer.service
        requests = len({order.partition for order in orders})
        database = self._databases[service]
        # The broker answers a fetch or two for each batch, and now and then commits its offsets.
        simulation.spawn(self._compute(self._brokers[0], self._spend("broker", batches=1)))
        work_s = self._spend(service, 1, requests, len(orders))
        stored_s = self._spend("postgres", batches=1, orders=len(orders) * POSTGRES_SHARES[service])
        yield cores.use(work_s * _BEFORE * self._vary())
        consumer.begin(simulation.now_s)
        yield simulation.sleep(hop_s)
        exclusive = service == "inventory" and not self._shape.is_split
        if exclusive:
            yield self._stock.acquire()
        yield database.use(stored_s * _LOCKING * self._vary())
        yield simulation.sleep(hop_s)
        yield cores.use(work_s * _BETWEEN * self._vary())
        yield simulation.sleep(hop_s)
        yield database.use(stored_s * (1 - _LOCKING) * self._vary())
        if exclusive:
            self._stock.release()
        yield simulation.sleep(hop_s)
        yield cores.use(work_s * _AFTER * self._vary())
        if not orders:
            return
        yield from self._append(orders, requests, len(orders))
        if service != "saga":
            for order in orders:
                order.results += 1
            self._deliver("saga", [order for order in orders if order.results == 2])
            return
        for order in orders:
            order.settled_s = simulation.now_s


def run(shape: Shape, costs: Costs, seed: int = 1) -> Outcome:
    """Simulate, after a second of warm-up, for the seconds of the shape."""
    model = Model(shape, costs, seed)
    model.simulation.run(WARM_UP_S)
    model.cpu_s = dict.fromkeys(GROUPS, 0.0)
    model.work = nothing_done()
    end_s = WARM_UP_S + shape.seconds
    model.simulation.run(end_s)
    measured = [order for order in model.orders if order.due_s >= WARM_UP_S]
    middle_s = end_s - shape.seconds / 2
    growth = _mean_waiting(model.orders, middle_s, end_s) - _mean_waiting(model.orders, WARM_UP_S, middle_s)
    processes = {"api": shape.apis, "broker": shape.brokers, "postgres": 1} | dict.fromkeys(CONSUMERS, shape.instances)
    seconds = shape.seconds
    return Outcome(
        orders=len(measured) * shape.lot,
        settled_share=1 - max(0.0, growth * shape.lot / (shape.rate * shape.seconds / 2)),
        accept_p50=_percentile([o.accepted_s - o.due_s for o in measured if o.accepted_s], 0.5),
        settle_p50=_percentile([o.settled_s - o.due_s for o in measured if o.settled_s], 0.5),
        settle_p99=_percentile([o.settled_s - o.due_s for o in measured if o.settled_s], 0.99),
        cpu_us={
            group: (model.cpu_s[group] / seconds + costs.idle[group] * processes[group]) / shape.rate * 1e6
            for group in GROUPS
        },
        work={group: {kind: n / seconds for kind, n in done.items()} for group, done in model.work.items()},
    )


def _mean_waiting(orders: Sequence[Order], from_s: float, to_s: float) -> float:
    """How many orders wait at a time, on average between two moments: orders settle slot by slot."""
    waits = (min(o.settled_s or to_s, to_s) - max(o.due_s, from_s) for o in orders if o.due_s < to_s)
    return sum(wait for wait in waits if wait > 0) / (to_s - from_s)


def _percentile(times_s: Sequence[float], share: float) -> float:
    """In ms; 0 if there is nothing."""
    return sorted(times_s)[int(share * (len(times_s) - 1))] * 1_000 if times_s else 0.0
