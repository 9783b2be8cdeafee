"""How long each part of a run takes: three minutes, nine minutes or forty, with the starts of the stacks."""

from typing import Final

from msgspec import Struct

REFERENCE_PER_S: Final = 17.0
"""1,000 orders a minute, the load at which the system that this one replaces was measured."""


class Plan(Struct, frozen=True, kw_only=True):
    """A field that a plan does not set is as in the default plan. A part whose time is 0 is left out."""

    name: str
    burst_orders: int = 20_000
    first_minute_orders: int = 10_000
    """What is sent to a stack that has just started, see `bench.run.cold`."""
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
    fixed_rates: tuple[float, ...] = (10.0, REFERENCE_PER_S, 100.0, 700.0, 1_500.0, 2_500.0)
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 2.0)
    """Rates to offer, as shares of the confirmed rate."""
    low_point_s: float = 12
    point_s: float = 12
    burst_pairs: int = 5
    """With --against: first bursts, each on a stack of its own."""
    pairs_a_start: int = 5
    slice_s: float = 8
    """With --against: other pairs, and the length of each of their loads."""
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
    burst_orders=10_000,
    first_minute_orders=2_000,
    warm_s_max=30,
    warm_up_s=4,
    echo_s=1.5,
    broker_records=60_000,
    accept_s=2,
    govern_s=5,
    hold_s=5,
    fixed_rates=(100.0, 700.0, 1_500.0, 2_500.0),
    shares=(0.5, 1.0, 2.0),
    low_point_s=5,
    point_s=3,
    burst_pairs=4,
    pairs_a_start=3,
    slice_s=4,
    variant_s=0,
)
FULL: Final = Plan(
    name="full",
    burst_orders=60_000,
    warm_s_max=90,
    warm_up_s=20,
    echo_s=6,
    broker_records=1_000_000,
    accept_s=10,
    govern_s=20,
    hold_s=60,
    low_point_s=60,
    point_s=30,
    burst_pairs=10,
    pairs_a_start=10,
    slice_s=15,
    comparison_s=10,
    variant_s=20,
    drain_orders=200_000,
    away_s=60,
    growth_orders=5_000_000,
    chain_s=8,
)
