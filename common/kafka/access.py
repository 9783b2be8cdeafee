"""Who may do what at the broker: the rights of every user, from what its service reads and publishes.

Without a right everything is refused (StandardAuthorizer). `ADMIN` and the broker itself need none.
A service beside Tandem gets `rights_beside`, and topics and groups of its own, whose names begin with its name.

References: Kafka's documentation, "Authorization and ACLs": a right to read or write includes the right to describe.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from common.config.kafka import Brokers
from common.events import ORDERS, PRODUCTS, READERS, READS, RECEIVES, SENDS
from common.files import write
from common.kafka import broker, scram, wire
from common.secrets.passwords import new_password

ADMIN: Final = "admin"
"""Makes topics, users and rights."""
BROKER: Final = "kafka"
OPERATOR: Final = "operator"
"""Trims topics, and sets back or deletes what a group has committed."""
AUDITOR: Final = "auditor"
"""Reads everything and changes nothing: `verify`, `trace` and `replay`."""
CONSOLE: Final = "console"
WARM_UP: Final = "warm-up"
TOPICS: Final = (*READERS, PRODUCTS)
ANY: Final = "*"
CLUSTER: Final = "kafka-cluster"
ANSWER_S: Final = 15.0
ITERATIONS: Final = 4_096
"""The least that Kafka takes. More would slow down guessing, and nobody guesses a password of 192 random bits."""
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
                *_each(user, "TOPIC", TOPICS, "READ", "DELETE", "DESCRIBE_CONFIGS"),
                *_each(user, "GROUP", [ANY], "READ", "DELETE"),
                Right(user, "BROKER", CLUSTER, "DESCRIBE"),
            ]
        case "warm-up":
            return [
                *_each(user, "TOPIC", [WARM_UP], "CREATE", "READ", "WRITE", "DELETE"),
                Right(user, "TOPIC", ORDERS, "DESCRIBE"),
                Right(user, "GROUP", WARM_UP, "DESCRIBE"),
            ]
    return list(_of_service(user))


def _of_service(service: str) -> Iterable[Right]:
    sends = sorted({kind.topic for kind in SENDS[service]})
    receives = list(RECEIVES[service])
    if service == "inventory":
        receives.append(PRODUCTS)  # the relay compares it with its database
        yield Right(service, "TRANSACTIONAL_ID", "inventory-", "WRITE", prefixed=True)
    yield from _each(service, "TOPIC", receives, "READ", "DESCRIBE_CONFIGS")
    yield from _each(service, "TOPIC", sends, "WRITE", "DESCRIBE_CONFIGS")
    # A client that joins no group names one all the same, after its instance.
    yield Right(service, "GROUP", f"{service}-", "DESCRIBE", prefixed=True)
    if service in READS:
        yield Right(service, "GROUP", service, "READ")
    else:  # the api measures how far the others are behind
        yield from _each(service, "TOPIC", READERS, "DESCRIBE")
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
    """How these rights differ from what they must be. Those of other users matter if they could change the topics."""
    wanted, current = rights(), frozenset(current)
    strange = [
        right
        for right in current - wanted
        if right.user in USERS or (_names_ours(right) and right.operation not in _HARMLESS)
    ]
    missing = sorted(wanted - current)
    return [*(Drift(right, True) for right in missing), *(Drift(right, False) for right in sorted(strange))]


def _names_ours(right: Right) -> bool:
    if right.kind == "BROKER":
        return True
    if right.kind != "TOPIC":
        return False
    return any(right.name in (ANY, topic) or (right.prefixed and topic.startswith(right.name)) for topic in TOPICS)


def fetch_drift(admin: AdminClient) -> list[Drift]:
    """How the broker's rights differ from what they must be. Raises `Transient` and `Fatal`."""
    return drift_of(_right(binding) for binding in _fetch(admin))


def _fetch(admin: AdminClient) -> list[AclBinding]:
    everything = AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]  # of any name
        ResourcePatternType.ANY,
        None,  # type: ignore[arg-type]  # for all users
        None,  # type: ignore[arg-type]  # for all hosts
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    with broker.query("the rights cannot be read"):
        bindings = admin.describe_acls(everything, request_timeout=ANSWER_S).result()
    return [binding for binding in bindings if binding.permission_type == AclPermissionType.ALLOW]


def _right(binding: AclBinding) -> Right:
    prefixed = binding.resource_pattern_type == ResourcePatternType.PREFIXED
    user = binding.principal.removeprefix("User:")
    kind, operation = ResourceType(binding.restype), AclOperation(binding.operation)
    return Right(user, kind.name, binding.name, operation.name, prefixed)


def grant(admin: AdminClient, granted: Iterable[Right]) -> None:
    """Give these rights. Raises `Transient` and `Fatal`."""
    bindings = [
        AclBinding(*_pattern(right), f"User:{right.user}", ANY, AclOperation[right.operation], AclPermissionType.ALLOW)
        for right in granted
    ]
    _await(admin.create_acls(bindings, request_timeout=ANSWER_S) if bindings else {}, "rights cannot be granted")


def revoke(admin: AdminClient, revoked: Iterable[Right]) -> None:
    """Take these rights away. Raises `Transient` and `Fatal`."""
    filters = [
        AclBindingFilter(
            *_pattern(right), f"User:{right.user}", ANY, AclOperation[right.operation], AclPermissionType.ALLOW
        )
        for right in revoked
    ]
    _await(admin.delete_acls(filters, request_timeout=ANSWER_S) if filters else {}, "rights cannot be taken away")


def _pattern(right: Right) -> tuple[ResourceType, str, ResourcePatternType]:
    pattern = ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL
    return ResourceType[right.kind], right.name, pattern


def _await(futures: Mapping[Any, Any], failed: str) -> None:
    for future in futures.values():
        with broker.query(failed):
            future.result()


def set_passwords(brokers: Brokers, admin: AdminClient, passwords: Mapping[str, str]) -> list[str]:
    """Make the users that are missing, and set the passwords that are others. Returns whose were set. Raises
    `Transient` and `Fatal`."""
    host, _, port = brokers.servers.split(",")[0].rpartition(":")
    with broker.query("the users cannot be read"):
        known = admin.describe_user_scram_credentials(request_timeout=ANSWER_S).result()  # type: ignore[union-attr]
    changed = []
    for user, password in passwords.items():
        if user in known:
            try:
                wire.authenticate(brokers, user, password, host, int(port))
                continue
            except scram.Refused:
                pass
        changed.append(user)
    credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    changes: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(user, credential, passwords[user].encode()) for user in changed
    ]
    if changes:
        futures = admin.alter_user_scram_credentials(changes, request_timeout=ANSWER_S)
        _await(futures, "the passwords of the users cannot be set")
    return changed


def password_file(folder: Path, user: str) -> Path:
    return folder / f"kafka-{user}.password"


def ensure_password(folder: Path, user: str) -> str:
    """The user's password, made and written to its file (0600) unless there is one. Raises `OSError`."""
    path = password_file(folder, user)
    if not path.exists():
        make_password(folder, user)
    return path.read_text(encoding="utf-8").strip()


def make_password(folder: Path, user: str) -> None:
    """Write a new password to the user's file. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write(password_file(folder, user), f"{new_password()}\n", 0o600)
