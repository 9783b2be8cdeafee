"""Lets a request in to an operation, or says why not: in one place for all routes (`Frame` of `common.http.app`).

References: RFC 6750 §3 (WWW-Authenticate), RFC 9110 §15.5.2 and §15.5.4.
"""

from typing import Any, Final

from starlette.types import Scope

from common.auth.access import Access, Forbidden
from common.auth.authenticator import Authenticator, KeysAway
from common.auth.principal import Principal, Unauthenticated
from common.http import problem
from common.http.problem import Problem, ProblemError

REALM: Final = 'Bearer realm="tandem"'
KEYS_AWAY: Final = problem.unavailable("the keys of the issuer of tokens cannot be read now; nothing was changed")


async def admit(authenticator: Authenticator, access: Access, scope: Scope) -> None:
    """Note who asks, and to whose things they are confined, in the scope of the request.

    Raises `ProblemError` 401, 403 or, while no token can be verified, 503.
    """
    state: dict[str, Any] = scope.setdefault("state", {})
    authorizations = [value for name, value in scope["headers"] if name == b"authorization"]
    try:
        principal = await authenticator.authenticate(authorizations)
        state["confined_to"] = access.confinement(principal)
    except Unauthenticated as error:
        raise ProblemError(unauthenticated(error)) from None
    except Forbidden:
        needed = ", ".join(access.accepted)
        raise ProblemError(forbidden(f"this needs one of the scopes {needed}", access)) from None
    except KeysAway:
        raise ProblemError(KEYS_AWAY) from None
    state["principal"] = principal


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
