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
from typing import Any, Final

from common.events import ORDERS, OrderPlaced, PaymentCompleted, StockReserved
from common.parking import Opened
from common.positions import Partition

HOLD_S: Final = 0.4


def choose(arrived: Sequence[Opened], at_s: float) -> tuple[list[Opened], list[Opened]]:
    """What to settle now, and what to hold back. See `common.inbox.Choose`."""
    until_s = at_s - HOLD_S
    decidable = _decidable(arrived)
    waiting: set[str] = set()
    stopped: set[Partition] = set()
    due: list[Opened] = []
    held: list[Opened] = []
    # Orders before results: whether a result waits depends on whether its order does.
    for one in sorted(arrived, key=_is_result):
        event, partition = _event(one), one.letter.partition
        is_placed = type(event) is OrderPlaced
        if partition in stopped:
            waits = True
        elif is_placed:
            waits = one.arrived_s > until_s and event.subject not in decidable
        else:
            waits = partition.topic != ORDERS and event is not None and event.subject in waiting
        if not waits:
            due.append(one)
            continue
        held.append(one)
        stopped.add(partition)
        if is_placed:
            waiting.add(event.subject)
    return due, held


def _decidable(arrived: Sequence[Opened]) -> set[str]:
    """The orders that have both results, or a refusal."""
    paid: set[str] = set()
    in_stock: set[str] = set()
    refused: set[str] = set()
    for one in arrived:
        event = _event(one)
        if type(event) is PaymentCompleted:
            paid.add(event.subject)
        elif type(event) is StockReserved:
            in_stock.add(event.subject)
        elif event is not None and one.letter.partition.topic != ORDERS:
            refused.add(event.subject)
    return (paid & in_stock) | refused


def _event(one: Opened) -> Any:
    return None if one.received is None else one.received.event


def _is_result(one: Opened) -> bool:
    return one.letter.partition.topic != ORDERS
