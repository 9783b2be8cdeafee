"""How long each part of a run takes: about one minute, five minutes or half an hour, with the start of the stack."""

from typing import Final

from msgspec import Struct

REFERENCE_PER_S: Final = 17.0
"""1,000 orders a minute, the load at which the system that this one replaces was measured."""


class Plan(Struct, frozen=True, kw_only=True):
    """A field that a plan does not set is as in the default plan. A part whose time is 0 is left out."""

    name: str
    warm_s_max: float = 45
    """How long the broker's JVM may take to get warm, see `bench.measure.broker`."""
    warm_up_s: float = 10
    """Then orders go through everything."""
    echo_s: float = 3
    """The length of each echo measurement. There are several in a run, because the machine drifts."""
    broker_records: int = 300_000
    accept_s: float = 5
    govern_s: float = 10
    """How long the governor looks for the rate that is then held."""
    hold_s: float = 15
    fixed_rates: tuple[float, ...] = (10.0, REFERENCE_PER_S)
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 2.0)
    """Rates to offer, as shares of the confirmed rate."""
    low_point_s: float = 12
    point_s: float = 12
    pairs_a_start: int = 5
    """With --against, and the length of each of its loads."""
    slice_s: float = 8
    variant_s: float = 8
    """The length of the loads with keys, and of those with many orders in a request."""
    comparison_s: float = 0
    """The length of each load that compares instances, or one customer and one product with many."""
    drain_orders: int = 0
    away_s: float = 0
    growth_orders: int = 0
    chain_s: float = 0
    """With this, a run also measures drain, recovery, instances, spread, growth and the chain."""


DEFAULT: Final = Plan(name="default")
QUICK: Final = Plan(
    name="quick",
    warm_s_max=20,
    warm_up_s=4,
    echo_s=1.5,
    broker_records=60_000,
    accept_s=2,
    govern_s=5,
    hold_s=5,
    fixed_rates=(REFERENCE_PER_S,),
    shares=(0.5, 2.0),
    low_point_s=3,
    point_s=3,
    pairs_a_start=3,
    slice_s=5,
    variant_s=0,
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
    low_point_s=60,
    point_s=30,
    pairs_a_start=10,
    slice_s=15,
    comparison_s=10,
    variant_s=20,
    drain_orders=200_000,
    away_s=60,
    growth_orders=5_000_000,
    chain_s=8,
)
