"""Lets a request in to an operation, or says why not: in one place for all routes (`Frame` of `common.http.app`).

References: RFC 6750 §3 (WWW-Authenticate), RFC 9110 §15.5.2 and §15.5.4.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

from starlette.types import Scope

from common.auth.access import Access, Forbidden
from common.auth.authenticator import Authenticator, KeysAway
from common.auth.principal import Outdated, Principal, Unauthenticated
from common.http import problem
from common.http.limits.limiter import Limiter
from common.http.limits.sources import source_of_request
from common.http.problem import Problem, ProblemError

REALM: Final = 'Bearer realm="tandem"'
KEYS_AWAY: Final = problem.unavailable("the keys of the issuer of tokens cannot be read now; nothing was changed")


def authorizations_of(scope: Scope) -> list[bytes]:
    """The credentials that a request brings."""
    return [value for name, value in scope["headers"] if name == b"authorization"]


async def admit(
    authenticator: Authenticator, limiter: Limiter, access: Access, scope: Scope, authorizations: Sequence[bytes]
) -> None:
    """Note who asks by these `Authorization` headers, and to whose things they are confined, in the scope of the
    request. The request counts, and so do credentials that are not good.

    Raises `ProblemError` 401, 403, 429 or, while no token can be verified, 503.
    """
    state: dict[str, Any] = scope.setdefault("state", {})
    principal = await identify(authenticator, limiter, authorizations, source_of_request(scope, limiter.proxies))
    if (limited := limiter.refusal_of_principal(principal, time.perf_counter())) is not None:
        raise ProblemError(limited)
    try:
        state["confined_to"] = access.confinement(principal)
    except Forbidden:
        needed = ", ".join(access.accepted)
        raise ProblemError(forbidden(f"this needs one of the scopes {needed}", access)) from None
    state["principal"] = principal


async def identify(
    authenticator: Authenticator, limiter: Limiter, authorizations: Sequence[bytes], source: str
) -> Principal:
    """Who asks by these `Authorization` headers. Credentials that are not known yet are verified only while not too
    many from this source were wrong. Those that have ended do not count: their clients would lock out others.

    Raises `ProblemError` 401, 429 or 503.
    """
    if len(authorizations) == 1 and (known := authenticator.known(authorizations[0])) is not None:
        return known
    now = time.perf_counter()
    if authorizations and (limited := limiter.refusal_to_verify(source, now)) is not None:
        raise ProblemError(limited)
    try:
        principal = await authenticator.authenticate(authorizations)
    except Unauthenticated as error:
        if error.presented and not isinstance(error, Outdated):
            limiter.failed(source, now)
        raise ProblemError(unauthenticated(error)) from None
    except KeysAway:
        raise ProblemError(KEYS_AWAY) from None
    limiter.verified(principal, source, now)
    return principal


async def is_still_good(authenticator: Authenticator, authorizations: Sequence[bytes]) -> bool:
    """Whether the credentials of a request that was let in, such as a stream, have neither expired nor been revoked."""
    try:
        await authenticator.authenticate(authorizations)
    except Unauthenticated:
        return False
    except KeysAway:
        return True  # nothing says that they are no longer good
    return True


def principal_of(scope: Scope) -> Principal:
    """Who asks. Raises `KeyError` for a public operation, which asks nobody."""
    principal: Principal = scope["state"]["principal"]
    return principal


def confined_to(scope: Scope) -> str | None:
    """The customer to whose things the request is confined; None if to nobody's. Raises `KeyError` for a public
    operation."""
    customer: str | None = scope["state"]["confined_to"]
    return customer


def unauthenticated(error: Unauthenticated) -> Problem:
    """401: why the credentials are not good."""
    reason = f', error="invalid_token", error_description="{error}"' if error.presented else ""
    return Problem(problem.UNAUTHENTICATED, str(error), headers=(("www-authenticate", f"{REALM}{reason}"),))


def forbidden(detail: str, access: Access) -> Problem:
    """403: the principal may not do this."""
    needed = f'{REALM}, error="insufficient_scope", scope="{" ".join(access.accepted)}"'
    return Problem(problem.FORBIDDEN, detail, headers=(("www-authenticate", needed),))


def not_in_this_name(customer: str, access: Access) -> Problem:
    """403: a customer wants to make something in another's name."""
    return forbidden(f"a customer can do this in their own name only: customer_id must be {customer!r}", access)
