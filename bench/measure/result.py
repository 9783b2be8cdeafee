"""A run's result, as it is written to the history and shown in the reports."""

from msgspec import Struct

from bench.load.latency import Latency
from bench.measure.ceilings import Copy, Echo
from bench.measure.meter import Measured
from bench.stack.broker import BrokerRates
from bench.stack.machine import Machine
from bench.stack.warm import Warmth


class Ceilings(Struct, frozen=True, kw_only=True):
    echo: Echo
    """The median, by rate, of those measured in the run."""
    echo_per_s: list[float]
    """All of them, in time: how much the machine drifted."""
    copy: Copy
    broker: BrokerRates


class Disk(Struct, frozen=True, kw_only=True):
    """Bytes an order, over all orders of the run."""

    tables: float
    """Tables and indexes of the three databases."""
    wal: float
    """PostgreSQL's write-ahead log, which it recycles."""
    log: float
    """Kafka's topics, all of them."""


class Breaking(Struct, frozen=True, kw_only=True):
    """The first rate of a rising series at which p95 of accept was over 50 ms or over 0.1 % of requests failed."""

    per_s: float
    """0 when none was reached."""
    why: str
    tried_per_s: list[float]


class Verified(Struct, frozen=True, kw_only=True):
    """What the audit said."""

    orders: int
    """Acknowledged orders it was given."""
    seconds: float
    output: str


class Ratios(Struct, frozen=True, kw_only=True):
    """What holds on any machine. None where a part was not measured."""

    cpu_of_confirmed_to_echo: float
    """CPU of a confirmed order, everything but the generator, to that of an echo request."""
    confirmed_to_echo: float
    accept_to_echo: float
    batch_confirmed_to_echo: float | None
    keyed_cpu_to_unkeyed: float | None
    """The api's CPU of a keyed order to that of an unkeyed one."""
    goodput_at_double: float | None
    """Confirmed at 200 % offered to the confirmed rate."""


class Drain(Struct, frozen=True, kw_only=True):
    """One consumer, alone, on a backlog."""

    service: str
    records: int
    seconds: float
    records_per_s: float
    cpu_us: dict[str, float]
    """A record, by process."""


class Recovery(Struct, frozen=True, kw_only=True):
    """Payment is away while orders go on coming, then comes back."""

    offered_per_s: float
    away_s: float
    gone_within_s: float
    """From its return to the last decided order of the backlog."""
    load: Measured


class ChainPoint(Struct, frozen=True, kw_only=True):
    """The same work done synchronously, at one delay of the payment gateway."""

    gateway_ms: int
    at_reference: Latency
    """Open loop, at the reference's 17 orders a second."""
    highest_per_s: float
    """Closed loop."""
    connections: int
    at_highest: Latency
    cpu_us: dict[str, float]
    """An order, by process, at the highest rate."""


class Run(Struct, frozen=True, kw_only=True):
    """Everything a run found out."""

    at: str
    plan: str
    seconds: float
    machine: Machine
    started_in_s: dict[str, float]
    ceilings: Ceilings
    warmth: Warmth
    warm_up: Measured
    accept: Measured
    """Consumers stopped."""
    accept_drain_per_s: float
    """How fast the consumers, all three at once, worked off what `accept` had left."""
    confirmed: Measured
    confirmed_keyed: Measured | None
    confirmed_batch: Measured | None
    ladder: list[Measured]
    breaking: Breaking | None
    memory_bytes: dict[str, int]
    idle_cpu_share: dict[str, float]
    """Of one core, when nothing happens."""
    disk: Disk
    ratios: Ratios
    verified: Verified
    left_out: list[str]
    """What was not measured, and why."""
    warnings: list[str]
    drains: list[Drain] = []
    growth: list[Measured] = []
    spread: list[Measured] = []
    instances: list[Measured] = []
    recovery: Recovery | None = None
    chain: list[ChainPoint] = []
