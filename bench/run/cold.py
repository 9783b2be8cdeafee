"""The loads on a stack that has just started, without any warm-up: its first burst and its first minute."""

from pathlib import Path
from typing import Any, Final

from bench.measure.measured import Measured
from bench.measure.meter import Meter, Say, private_meter

CONNECTIONS: Final = 64
BURST_S_MAX: Final = 300.0
FIRST_MINUTE_PER_S: Final = 200.0


def first_burst(directory: Path, orders: int, say: Say, **options: Any) -> Measured:
    """`orders` from a closed loop, on a stack of its own. `options` are those of `System`. Raises `NoResult`."""
    with private_meter(directory, say, **options) as meter:
        burst = meter.closed("first burst", BURST_S_MAX, settle=True, connections=CONNECTIONS, requests_max=orders)
        meter.verify()
    return burst


def first_minute(meter: Meter, orders: int) -> Measured:
    """`orders` at a fixed rate. Raises `NoResult`."""
    return meter.open("first minute", FIRST_MINUTE_PER_S, orders / FIRST_MINUTE_PER_S)
