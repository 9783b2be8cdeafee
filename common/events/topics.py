"""Which service reads and publishes which topic."""

from collections.abc import Mapping
from typing import Final, get_args

from common.events.envelope import Event
from common.events.kinds import (
    DEPOSITS,
    ENTERED,
    INVENTORY,
    ORDERS,
    PAYMENTS,
    PRODUCTS,
    RESTOCKS,
    AccountDeposited,
    OnInventory,
    OnPayments,
    OrderCancelRequested,
    OrderDeadlinePassed,
    OrderPlaced,
    Outcome,
    ProductChanged,
    ProductRestocked,
)

SAGA: Final = "order-saga"
READS: Final[Mapping[str, tuple[str, ...]]] = {
    SAGA: (ORDERS, PAYMENTS, INVENTORY),
    "payment": (ORDERS,),
    "inventory": (ORDERS,),
}
"""The topics about orders that each consumer group reads."""
READERS: Final[Mapping[str, tuple[str, ...]]] = {
    topic: tuple(group for group, topics in READS.items() if topic in topics) for topic in READS[SAGA]
}
"""The consumer groups that read each topic about orders."""

SENDS: Final[Mapping[str, tuple[type[Event], ...]]] = {
    "order-api": (OrderPlaced, OrderCancelRequested),
    SAGA: (*get_args(Outcome), OrderDeadlinePassed),
    "payment": (*get_args(OnPayments), AccountDeposited),
    "inventory": (*get_args(OnInventory), ProductChanged, ProductRestocked),
}
"""The events that each service publishes; the deadline timer is part of the saga."""
RECEIVES: Final[Mapping[str, tuple[str, ...]]] = {**READS, "order-api": (PRODUCTS,)}
"""The topics that each service reads: the catalogue without a consumer group, each instance all of it."""
TOPICS: Final = (*READERS, PRODUCTS, *ENTERED)
"""All of them."""
ENTERS: Final[Mapping[str, tuple[str, ...]]] = {"payment": (DEPOSITS,), "inventory": (RESTOCKS,)}
"""The topics to which a service publishes what was entered over HTTP."""
PUBLISHES: Final[Mapping[str, str]] = {service: kinds[0].topic for service, kinds in SENDS.items()}
"""The topic to which each service publishes its events about orders."""
