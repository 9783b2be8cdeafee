"""A run's result, as it is written to the history and shown in the report."""

from msgspec import Struct

from bench.load.latency import Latency
from bench.measure.broker import Rates
from bench.measure.ceilings import Copy, Echo
from bench.measure.measured import Measured
from bench.stack.machine import Machine
from common.kafka.warmth import Warmth


class Ceilings(Struct, frozen=True, kw_only=True):
    echo: Echo
    """The median, by rate, of those measured in the run."""
    echo_per_s: list[float]
    """All of them in order, which shows how much the machine drifted."""
    copy: Copy
    log: Rates


class Disk(Struct, frozen=True, kw_only=True):
    """Bytes an order, over all orders of the run."""

    tables: float
    """Tables and indexes of the three databases."""
    wal: float
    """PostgreSQL's write-ahead log, which it recycles."""
    log: float
    """Kafka's topics, all of them."""


class Drain(Struct, frozen=True, kw_only=True):
    """One consumer, alone, on a backlog."""

    service: str
    records: int
    records_per_s: float
    cpu_us: dict[str, float]
    """A record, by process."""


class Recovery(Struct, frozen=True, kw_only=True):
    """Payment is away while orders keep arriving, then comes back."""

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

    @property
    def total_cpu_us(self) -> float:
        """Everything but the generator."""
        return sum(us for group, us in self.cpu_us.items() if group != "generator")


class Run(Struct, frozen=True, kw_only=True):
    """All results of a run."""

    at: str
    plan: str
    seconds: float
    machine: Machine
    ceilings: Ceilings
    first_burst: Measured
    """A closed loop on a stack of its own that had just started."""
    first_minute: Measured
    """A fixed rate on the main stack when it had just started."""
    warmth: Warmth
    accept: Measured
    """Accepting orders while the consumers are stopped."""
    confirmed: Measured
    keyed: Measured | None
    many: Measured | None
    """Orders sent many to a request."""
    ladder: list[Measured]
    """Loads at fixed rates."""
    memory_bytes: dict[str, int]
    idle_cpu_share: dict[str, float]
    """The share of one core, without any load."""
    disk: Disk
    orders_verified: int
    """Acknowledged orders of which the audit proved that none was lost."""
    warnings: list[str]
    drains: list[Drain] = []
    growth: list[Measured] = []
    spread: list[Measured] = []
    instances: list[Measured] = []
    recovery: Recovery | None = None
    chain: list[ChainPoint] = []

    @property
    def cpu_to_echo(self) -> float:
        """CPU of a confirmed order, without the generator, to that of an echo request."""
        return self.confirmed.total_cpu_us / self.ceilings.echo.cpu_us

    def step(self, name: str) -> Measured | None:
        """The load of the ladder with a name such as `50%`."""
        return next((load for load in self.ladder if load.name == name), None)
