"""Place a million orders over HTTP on a stack of its own, and prove every one: `python -m bench.million [ORDERS]`.

They are sent 100 to a request, as fast as they are settled, in loads of a minute.
"""

import sys
from pathlib import Path
from typing import Final

from bench.command import parser, run, say
from bench.load.runner import GeneratorFailed
from bench.measure.meter import private_meter

LOAD_S: Final = 60.0
FIRST_REQUESTS_PER_S: Final = 10.0
LINES: Final = 100


def place_and_prove(orders: int, directory: Path) -> None:
    """Raises `NoResult`."""
    with private_meter(directory, say) as meter:
        requests_per_s = FIRST_REQUESTS_PER_S
        while meter.orders < orders:
            load = meter.governed(f"{meter.orders:,} of {orders:,}", requests_per_s, LOAD_S, lines=LINES)
            if not load.orders:
                raise GeneratorFailed("no order was accepted")
            requests_per_s = max(requests_per_s, load.confirmed_per_s / LINES)
        took_s = sum(load.duration_s + load.drain_s for load in meter.measured)
        confirmed = sum(load.confirmed for load in meter.measured)
        say(f"{meter.orders:,} orders, {confirmed:,} confirmed, in {took_s:.0f} s: {meter.orders / took_s:,.0f}/s")
        print(meter.verify())


if __name__ == "__main__":
    options = parser("million", __doc__)
    options.add_argument(
        "orders", type=int, nargs="?", default=1_000_000, help="place at least this many (%(default)s)"
    )
    orders = options.parse_args().orders
    sys.exit(run(lambda directory: place_and_prove(orders, directory)))
