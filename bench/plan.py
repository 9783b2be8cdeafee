"""How long each part of a run takes: about a minute, five minutes or half an hour, the stack's start included."""

from typing import Final

from msgspec import Struct

REFERENCE_PER_S: Final = 17.0
"""1,000 orders a minute, the load that the system which this one replaces was measured at."""


class Plan(Struct, frozen=True, kw_only=True):
    name: str
    warm_s_max: float
    """How long the broker's JVM may take to get warm, see `bench.stack.warm`."""
    warm_up_s: float
    """Orders then, through everything."""
    echo_s: float
    """Of each of the echo measurements, before and after the rest: the machine drifts."""
    broker_records: int
    accept_s: float
    govern_s: float
    """How long the governor looks for the rate that is then to be held."""
    hold_s: float
    climbs: int
    """How often a rate that was held at once is raised, to see whether more is held too."""
    fixed_rates: tuple[float, ...]
    shares: tuple[float, ...]
    """Of the confirmed rate."""
    low_point_s: float
    point_s: float
    breaking_step: float
    breaking_s: float
    keyed_s: float
    batch_s: float
    drain_orders: int = 0
    away_s: float = 0
    growth_orders: int = 0
    chain_s: float = 0
    """0: without drain, recovery, growth (and spread and instances), the chain."""


QUICK: Final = Plan(
    name="quick",
    warm_s_max=20,
    warm_up_s=4,
    echo_s=1.5,
    broker_records=60_000,
    accept_s=2,
    govern_s=5,
    hold_s=5,
    climbs=0,
    fixed_rates=(REFERENCE_PER_S,),
    shares=(0.5, 2.0),
    low_point_s=3,
    point_s=3,
    breaking_step=0,
    breaking_s=0,
    keyed_s=0,
    batch_s=0,
)
DEFAULT: Final = Plan(
    name="default",
    warm_s_max=45,
    warm_up_s=10,
    echo_s=3,
    broker_records=300_000,
    accept_s=5,
    govern_s=10,
    hold_s=15,
    climbs=1,
    fixed_rates=(10.0, REFERENCE_PER_S),
    shares=(0.25, 0.5, 0.75, 1.0, 2.0),
    low_point_s=12,
    point_s=12,
    breaking_step=0.15,
    breaking_s=5,
    keyed_s=8,
    batch_s=8,
)
FULL: Final = Plan(
    name="full",
    warm_s_max=90,
    warm_up_s=20,
    echo_s=6,
    broker_records=1_000_000,
    accept_s=10,
    govern_s=20,
    hold_s=60,
    climbs=1,
    fixed_rates=(10.0, REFERENCE_PER_S),
    shares=(0.25, 0.5, 0.75, 1.0, 2.0),
    low_point_s=60,
    point_s=30,
    breaking_step=0.1,
    breaking_s=10,
    keyed_s=20,
    batch_s=20,
    drain_orders=200_000,
    away_s=60,
    growth_orders=5_000_000,
    chain_s=8,
)
