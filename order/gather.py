"""Which of the arrived records the saga settles next: an order together with its results, so that its row is written
once. Pure.

An order's `order.placed` comes first, the two results some milliseconds later. Written as they come, an order costs
three writes of its row. So a placed order is held back, in memory, until both of its results are there, one has
refused, or `HOLD_S` have passed; a result that came before its fellow is held back likewise. Nothing is lost by it: the
positions move only with what is settled. Nobody waits longer for an outcome either, since there is none before the
results. A pending order can be seen in the order database up to `HOLD_S` later; who asks for it sooner is answered from
the api's memory, or waits (`order.lookup`).

Of each partition a beginning is chosen, whatever lies behind it: positions have no holes.
"""

from collections.abc import Sequence
from typing import Final

from common.events import ORDERS, OrderPlaced, PaymentCompleted, StockReserved
from common.parking import Opened
from common.positions import Partition

HOLD_S: Final = 0.4


def choose(arrived: Sequence[Opened], at_s: float) -> tuple[list[Opened], list[Opened]]:
    """What to settle now, and what to hold back. See `common.inbox.Choose`."""
    until_s = at_s - HOLD_S
    paid: set[str] = set()
    in_stock: set[str] = set()
    refused: set[str] = set()
    for one in arrived:
        if one.received is not None:
            event = one.received.event
            if isinstance(event, PaymentCompleted):
                paid.add(event.subject)
            elif isinstance(event, StockReserved):
                in_stock.add(event.subject)
            elif one.letter.partition.topic != ORDERS:
                refused.add(event.subject)
    decidable = (paid & in_stock) | refused
    held_orders: set[str] = set()
    stopped: set[Partition] = set()
    due: list[Opened] = []
    held: list[Opened] = []
    # `orders` first: whether a result waits depends on whether its order does.
    for one in arrived:
        if one.letter.partition.topic == ORDERS:
            partition = one.letter.partition
            waits = one.arrived_s > until_s and _is_placed(one) and one.received.event.subject not in decidable  # type: ignore[union-attr]
            if waits or partition in stopped:
                stopped.add(partition)
                held.append(one)
                if _is_placed(one):
                    held_orders.add(one.received.event.subject)  # type: ignore[union-attr]
            else:
                due.append(one)
    for one in arrived:
        partition = one.letter.partition
        if partition.topic != ORDERS:
            if partition in stopped or (one.received is not None and one.received.event.subject in held_orders):
                stopped.add(partition)
                held.append(one)
            else:
                due.append(one)
    return due, held


def _is_placed(one: Opened) -> bool:
    return one.received is not None and type(one.received.event) is OrderPlaced
