"""Routes for tests of the server itself, open to everybody; and requests that were let in, for tests of endpoints."""

from collections.abc import Callable
from typing import Any

from common.auth.access import PUBLIC
from common.auth.principal import ANYONE
from common.http.contract.operation import Method, Operation
from common.http.contract.service import OperationRoute


def public(path: str, method: Method = "GET") -> Operation:
    """An operation."""
    return Operation(method=method, path=path, id=f"{method} {path}", summary="", tag="test", access=PUBLIC, answers=())


def public_route(path: str, endpoint: Callable[..., Any], method: Method = "GET") -> OperationRoute:
    """Its route."""
    return OperationRoute(public(path, method), endpoint)


def state_of(customer: str | None = None) -> dict[str, Any]:
    """The state of a request that was let in, confined to this customer if one is given."""
    return {"principal": ANYONE, "confined_to": customer}
