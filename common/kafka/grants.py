"""The users and rights that a broker knows: read, and set as they must be (`common.kafka.access`)."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

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
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from common.kafka import broker
from common.kafka.access import ANY, Drift, Right, drift_of

ANSWER_S: Final = 15.0
ITERATIONS: Final = 4_096
"""The least that Kafka takes. More would slow down guessing, and nobody guesses a password of 192 random bits."""


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


def set_passwords(admin: AdminClient, passwords: Mapping[str, str]) -> list[str]:
    """Give each of these users its password, and make those that are missing. Returns them. Raises `Transient` and
    `Fatal`."""
    known = _users(admin)
    credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    _alter_users(admin, [UserScramCredentialUpsertion(u, credential, p.encode()) for u, p in passwords.items()])
    return [user for user in passwords if user not in known]


def withdraw_passwords(admin: AdminClient, users: Iterable[str]) -> list[str]:
    """Let these users log in with a password no more. Returns those who could. Raises `Transient` and `Fatal`."""
    withdrawn = sorted(_users(admin) & set(users))
    _alter_users(admin, [UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512) for user in withdrawn])
    return withdrawn


def _users(admin: AdminClient) -> set[str]:
    with broker.query("the users cannot be read"):
        return set(admin.describe_user_scram_credentials(request_timeout=ANSWER_S).result())  # type: ignore[union-attr]


def _alter_users(admin: AdminClient, changes: list[UserScramCredentialAlteration]) -> None:
    if changes:
        futures = admin.alter_user_scram_credentials(changes, request_timeout=ANSWER_S)
        _await(futures, "the passwords of the users cannot be set")
