"""Who may do what at the broker: the rights of every user, from what its service reads and publishes.

Without a right everything is refused (StandardAuthorizer). `ADMIN` and the broker itself need none.
A service beside Tandem gets `rights_beside`, and topics and groups of its own, whose names begin with its name.

References: Kafka's documentation, "Authorization and ACLs": a right to read or write includes the right to describe.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from common.events import ORDERS, OUTCOMES, PRODUCTS, READERS, READS, RECEIVES, SAGA, SENDS, TOPICS, TOPICS_OF

ADMIN: Final = "admin"
"""Makes topics, users and rights."""
BROKER: Final = "kafka"
OPERATOR: Final = "operator"
"""Trims topics, and sets back or deletes what a group has committed."""
AUDITOR: Final = "auditor"
"""Reads everything and changes nothing: `verify`, `trace` and `replay`."""
CONSOLE: Final = "console"
WARM_UP: Final = "warm-up"
ANY: Final = "*"
CLUSTER: Final = "kafka-cluster"
_HARMLESS: Final = frozenset({"READ", "DESCRIBE", "DESCRIBE_CONFIGS"})


class Right(NamedTuple):
    """`operation` on one resource, or on all whose names begin with `name`."""

    user: str
    kind: str
    """As Kafka has it: TOPIC, GROUP, TRANSACTIONAL_ID or BROKER (the cluster)."""
    name: str
    operation: str
    prefixed: bool = False

    def __str__(self) -> str:
        names = f"{self.name}…" if self.prefixed else self.name
        return f"{self.user}: {self.operation} on {self.kind} {names}"


def rights() -> frozenset[Right]:
    """Of all users."""
    return frozenset(right for user in USERS for right in rights_of(user))


def rights_of(user: str) -> list[Right]:
    """Of one of Tandem's own users."""
    match user:
        case "auditor" | "console":
            return [
                *_each(user, "TOPIC", TOPICS, "READ", "DESCRIBE_CONFIGS"),
                Right(user, "GROUP", ANY, "DESCRIBE"),
                Right(user, "BROKER", CLUSTER, "DESCRIBE"),
            ]
        case "operator":
            return [
                *_each(user, "TOPIC", TOPICS, "READ", "DESCRIBE_CONFIGS"),
                *_each(user, "TOPIC", READERS, "DELETE"),  # nothing else is ever trimmed
                *_each(user, "GROUP", [ANY], "READ", "DELETE"),
                Right(user, "BROKER", CLUSTER, "DESCRIBE"),
            ]
        case "warm-up":
            return [
                *_each(user, "TOPIC", [WARM_UP], "CREATE", "READ", "WRITE", "DELETE"),
                Right(user, "TOPIC", ORDERS, "DESCRIBE"),
                *_each(user, "GROUP", [WARM_UP], "READ", "DELETE"),
            ]
    return list(_of_service(user))


def _of_service(service: str) -> Iterable[Right]:
    sends = sorted({topic for kind in SENDS[service] for topic in TOPICS_OF[kind]})
    receives = list(RECEIVES[service])
    if service == "inventory":
        receives.append(PRODUCTS)  # the relay compares it with its database
        yield Right(service, "TRANSACTIONAL_ID", "inventory-", "WRITE", prefixed=True)
    if service == "payment":
        receives.append(OUTCOMES)  # payment by card, in its place, captures what is confirmed (decision 26)
    if service in READS:  # after a failover it compares what it published last with its database
        receives += [topic for topic in sends if topic not in receives]
    yield from _each(service, "TOPIC", receives, "READ", "DESCRIBE_CONFIGS")
    yield from _each(service, "TOPIC", sends, "WRITE", "DESCRIBE_CONFIGS")
    # A client that joins no group names one all the same, after its instance.
    yield Right(service, "GROUP", f"{service}-", "DESCRIBE", prefixed=True)
    if service in READS:
        yield Right(service, "GROUP", service, "READ")
    else:  # the api measures how far the others are behind
        yield from _each(service, "TOPIC", READS[SAGA], "DESCRIBE")
        yield from _each(service, "GROUP", READS, "DESCRIBE")


def rights_beside(service: str) -> list[Right]:
    """Of a service beside Tandem: it reads what happens to orders, and has topics (`<service>.…`) and groups of its
    own."""
    return [
        *_each(service, "TOPIC", READERS, "READ", "DESCRIBE_CONFIGS"),
        *(Right(service, "TOPIC", f"{service}.", right, prefixed=True) for right in ("READ", "WRITE", "CREATE")),
        Right(service, "GROUP", service, "READ"),
        Right(service, "GROUP", f"{service}-", "READ", prefixed=True),
    ]


def _each(user: str, kind: str, names: Iterable[str], *operations: str) -> list[Right]:
    return [Right(user, kind, name, operation) for name in names for operation in operations]


SERVICES: Final = tuple(SENDS)
USERS: Final = (*SERVICES, CONSOLE, AUDITOR, OPERATOR, WARM_UP)
"""All that have rights; `ADMIN` and `BROKER` are beside them."""
_OURS: Final = {"TOPIC": TOPICS, "GROUP": (*READS, WARM_UP), "TRANSACTIONAL_ID": ("inventory-relay",)}
"""What rights are given for, by kind."""


class Drift(NamedTuple):
    """A right that is missing, or that should not be there."""

    right: Right
    missing: bool

    def __str__(self) -> str:
        if self.missing:
            return f"access: {self.right} is missing; 'just topics create' grants it"
        if self.right.user in USERS:
            return f"access: {self.right} is not needed; 'just topics create' takes it away"
        return f"access: {self.right} is none of Tandem's rights; if nobody needs it, take it away as {ADMIN}"


def drift_of(current: Iterable[Right]) -> list[Drift]:
    """How these rights differ from what they must be. Those of other users matter if they interfere."""
    wanted, current = rights(), frozenset(current)
    strange = [right for right in current - wanted if right.user in USERS or interferes(right)]
    missing = sorted(wanted - current)
    return [*(Drift(right, True) for right in missing), *(Drift(right, False) for right in sorted(strange))]


def interferes(right: Right) -> bool:
    """Whether another user could with this right change what is Tandem's, or keep its services from their work. Whoever
    may read in a group takes its partitions and sets its offsets. Whoever writes under the relay's transactional id
    ends the relay."""
    if right.operation in _HARMLESS and (right.kind, right.operation) != ("GROUP", "READ"):
        return False
    return right.kind == "BROKER" or any(
        right.name in (ANY, name) or (right.prefixed and name.startswith(right.name))
        for name in _OURS.get(right.kind, ())
    )
