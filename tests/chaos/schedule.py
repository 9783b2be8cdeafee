"""Which faults there are, and the order in which a seed deals them. Pure: the same seed deals the same."""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

CONSUMERS: Final = ("order-saga", "payment", "inventory")
DATABASES: Final = ("order", "payment", "inventory")
INSTANCES: Final = tuple(f"{service}-{number}" for service in ("order-api", *CONSUMERS) for number in (1, 2))
SERVERS: Final = ("postgres", "kafka")
SECOND_FAULT_SHARE: Final = 0.3
REST_S: Final = (0.5, 3.0)


@dataclass(frozen=True)
class Kind:
    """A kind of fault, and what it may hit for how long."""

    name: str
    targets: tuple[str, ...]
    lasts_s: tuple[float, float]
    alone: bool = False
    """It needs the servers' cooperation to be injected or healed, so no other fault comes on top of it."""


def _numbered(service: str) -> tuple[str, ...]:
    """One instance of a service, the other, or both."""
    return (f"{service}-1", f"{service}-2", service)


_ANY_CONSUMER: Final = tuple(f"{service}-{number}" for service in CONSUMERS for number in (1, 2))
_LINKS: Final = (*INSTANCES, *CONSUMERS, "order-api")

KINDS: Final = (
    Kind("kill-api", _numbered("order-api"), (1, 6)),
    Kind("kill-saga", _numbered("order-saga"), (1, 10)),
    Kind("kill-payment", _numbered("payment"), (1, 10)),
    Kind("kill-inventory", _numbered("inventory"), (1, 10)),
    Kind("kill-postgres", ("postgres",), (0.5, 6), alone=True),
    Kind("kill-kafka", ("kafka",), (0.5, 6), alone=True),
    # Past the group's session timeout (6 s): others have its partitions when it wakes up.
    Kind("freeze-past-session", _ANY_CONSUMER, (8, 14)),
    # Past idle_in_transaction_session_timeout (10 s) for most: the server gives up on it.
    Kind("freeze-in-transaction", _ANY_CONSUMER, (8, 16), alone=True),
    Kind("freeze-server", SERVERS, (2, 12), alone=True),
    # Runs a tenth of the time, in slices: a machine that is overcommitted.
    Kind("stutter", (*SERVERS, *INSTANCES), (4, 10), alone=True),
    Kind("cut-database", _LINKS, (1, 8)),
    Kind("cut-kafka", _LINKS, (1, 8)),
    Kind("reset-connections", _LINKS, (3, 8)),
    Kind("delay-database", _LINKS, (4, 10)),
    Kind("delay-kafka", _LINKS, (4, 10)),
    Kind("throttle-database", _LINKS, (4, 10)),
    Kind("throttle-kafka", _LINKS, (4, 10)),
    Kind("half-open-database", _LINKS, (4, 12)),
    Kind("half-open-kafka", _LINKS, (4, 12)),
    Kind("rebalance-storm", CONSUMERS, (6, 12)),
    Kind("two-owners", CONSUMERS, (6, 12), alone=True),
    Kind("wrong-clock", INSTANCES, (5, 12)),
    Kind("deadlock", ("payment", "inventory"), (5, 10), alone=True),
    Kind("serialization-failure", DATABASES, (5, 10), alone=True),
    Kind("lock-timeout", DATABASES, (6, 9), alone=True),
    Kind("terminate-sessions", DATABASES, (3, 8), alone=True),
    Kind("connections-exhausted", DATABASES, (4, 10), alone=True),
    Kind("slow-disk", ("postgres",), (5, 10), alone=True),
    Kind("disk-full", SERVERS, (3, 8), alone=True),
    Kind("poison", ("orders", "payments", "inventory"), (1, 4), alone=True),
    Kind("events-again", ("orders", "payments", "inventory"), (1, 4), alone=True),
    Kind("offsets-rewound", CONSUMERS, (0.1, 1), alone=True),
)
NAMES: Final = tuple(kind.name for kind in KINDS)


@dataclass(frozen=True)
class Fault:
    """One fault to come."""

    kind: str
    target: str
    lasts_s: float
    seed: int
    """The seed of the fault's own draws, such as by how much a clock is wrong or which events come again."""

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"


@dataclass(frozen=True)
class Step:
    """After a rest, one fault or two at once."""

    rest_s: float
    faults: tuple[Fault, ...]


def deal(seed: int, only: Collection[str] = ()) -> Iterator[Step]:
    """Steps without end. Every kind comes once before any comes again, so that a short run has seen most of them."""
    draw = random.Random(seed)
    kinds = [kind for kind in KINDS if not only or kind.name in only]
    while True:
        deck = draw.sample(kinds, len(kinds))
        for kind in deck:
            first = _fault(draw, kind)
            faults = [first]
            others = [other for other in kinds if not other.alone and other is not kind]
            if others and not kind.alone and draw.random() < SECOND_FAULT_SHARE:
                second = _fault(draw, draw.choice(others))
                if not _same_service(first, second):
                    faults.append(second)
            yield Step(round(draw.uniform(*REST_S), 1), tuple(faults))


def _fault(draw: random.Random, kind: Kind) -> Fault:
    lasts_s = round(draw.uniform(*kind.lasts_s), 1)
    return Fault(kind.name, draw.choice(kind.targets), lasts_s, draw.randrange(2**32))


def _same_service(first: Fault, second: Fault) -> bool:
    return first.target.rstrip("-12") == second.target.rstrip("-12")
