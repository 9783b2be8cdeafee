"""`python -m ops.warm_up`: warms a broker that has just started, until the first orders come.

For Compose, where the broker's CPU is another container's: it goes by the time that a request takes. See
`common.kafka.warmth`.
"""

import time
from collections.abc import Sequence

from common.config.env import Env
from common.config.kafka import brokers
from common.kafka.warmth import NAME, warm_up_until_orders_come
from ops import tool


def main(_: Sequence[str]) -> int:
    print(warm_up_until_orders_come(brokers(Env(NAME)), time.monotonic, "the time"))
    return 0


if __name__ == "__main__":
    tool.run(main)
