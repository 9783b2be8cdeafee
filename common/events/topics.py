"""Which service reads and publishes which topic."""

from collections.abc import Mapping
from typing import Final, get_args

from common.events.envelope import Event
from common.events.kinds import (
    DEPOSITS,
    ENTERED,
    INVENTORY,
    ORDERS,
    OUTCOMES,
    PAYMENTS,
    PRODUCTS,
    RESTOCKS,
    AccountDeposited,
    OnInventory,
    OnPayments,
    OrderCancelled,
    OrderCancelRequested,
    OrderDeadlinePassed,
    OrderPlaced,
    OrderRejected,
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
    topic: tuple(group for group, topics in READS.items() if topic in topics) for topic in (*READS[SAGA], OUTCOMES)
}
"""The consumer groups that read each topic about orders. The outcomes are for others: no service of Tandem's reads
them."""

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
TOPICS_OF: Final[Mapping[type[Event], tuple[str, ...]]] = {
    **{kind: (kind.topic,) for kinds in SENDS.values() for kind in kinds},
    OrderRejected: (ORDERS, OUTCOMES),
    OrderCancelled: (ORDERS, OUTCOMES),
}
"""Where each event is published. A refusal and a cancellation are outcomes, and they tell payment and inventory to undo
their parts."""
PUBLISHES: Final[Mapping[str, tuple[str, ...]]] = {
    service: tuple(topic for topic in READERS if any(topic in TOPICS_OF[kind] for kind in kinds))
    for service, kinds in SENDS.items()
}
"""The topics to which each service publishes its events about orders."""
