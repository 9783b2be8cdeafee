"""Who asks: the principal of a request, and the scopes that say what it may do."""

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

Scope = Literal["customer", "merchant", "operator", "auditor"]
Kind = Literal["token", "key", "anonymous"]
"""By what a principal is known: a token (JWT), an API key, or nothing, with AUTH=off."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
CUSTOMER: Final[Scope] = "customer"
MERCHANT: Final[Scope] = "merchant"
OPERATOR: Final[Scope] = "operator"
AUDITOR: Final[Scope] = "auditor"
MACHINES: Final = frozenset(SCOPES) - {CUSTOMER}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. With the scope `customer`, the subject is the customer's id."""

    subject: str
    scopes: frozenset[str]
    expires_at: float
    """When its credentials expire, in seconds since 1970."""
    kind: Kind
    credential: str = ""
    """The id of the API key, or the token's `jti`; empty if it has none."""

    @property
    def is_machine(self) -> bool:
        """Whether it has another scope than that of customers, and so the limits of machines."""
        return not self.scopes.isdisjoint(MACHINES)


ANYONE: Final = Principal("anonymous", frozenset(SCOPES), math.inf, "anonymous")
"""Everybody, with AUTH=off."""


class Unauthenticated(Exception):
    """The credentials are missing or not good. The message says why, and nothing that would help to forge some."""

    def __init__(self, reason: str, *, presented: bool = True) -> None:
        super().__init__(reason)
        self.presented = presented
        """Whether there were any."""


class Outdated(Unauthenticated):
    """A token that may have been good once, as clients send it that have not noticed its end. No guess, and refused
    without a look at its signature, so it cannot be used to guess either."""


class Expired(Outdated):
    """A token says itself that it has expired."""


class UnknownKey(Outdated):
    """A token names a signing key that is not there; it may have been published since, or withdrawn."""
