"""Principals, and an authenticator that takes their names for credentials."""

import math
from collections.abc import Sequence

from common.auth.authenticator import Open
from common.auth.principal import CUSTOMER, Principal, Unauthenticated


def principal(subject: str, *scopes: str, expires_at: float = math.inf) -> Principal:
    """A principal with a token; a customer, unless other scopes are given."""
    return Principal(subject, frozenset(scopes or (CUSTOMER,)), expires_at, "token")


class ByName(Open):
    """Knows these principals by `Bearer` and their subject, once they were verified."""

    def __init__(self, *principals: Principal) -> None:
        self.principals = {f"Bearer {each.subject}".encode(): each for each in principals}
        self.verified: list[bytes] = []

    def known(self, authorization: bytes | None) -> Principal | None:
        return self.principals.get(authorization or b"") if authorization in self.verified else None

    async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
        if not authorizations:
            raise Unauthenticated("send Authorization: Bearer, with a token or an API key", presented=False)
        self.verified += authorizations
        if authorizations[0] not in self.principals:
            raise Unauthenticated("the token is not good")
        return self.principals[authorizations[0]]
