"""`python -m tests.chaos.odd [--clock S] [--group NAME] -m MODULE [ARGUMENTS]`: a service that has something wrong.

Its clock may be off by so many seconds, or it may be in a consumer group of its own: it is then given partitions that
another instance owns as well.
"""

import argparse
import runpy
import sys
import time
from typing import Any

from inventory.consumer import InventoryHandler
from order.saga.consumer import SagaHandler
from payment.consumer import PaymentHandler


def main() -> None:
    parser = argparse.ArgumentParser(prog="odd")
    parser.add_argument("--clock", type=int, default=0, metavar="S")
    parser.add_argument("--group")
    parser.add_argument("-m", dest="module", required=True)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    chosen = parser.parse_args()
    right_s, right_ns = time.time, time.time_ns
    time.time = lambda: right_s() + chosen.clock
    time.time_ns = lambda: right_ns() + chosen.clock * 1_000_000_000
    if chosen.group:
        handlers: dict[str, Any] = {"inventory": InventoryHandler, "payment": PaymentHandler, "order": SagaHandler}
        handler = handlers[chosen.module]
        handler.group = chosen.group
    sys.argv[1:] = chosen.arguments
    runpy.run_module(chosen.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
