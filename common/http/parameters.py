"""Parameters outside the body: in the path and in headers. A wrong value is answered with what is allowed."""

import re
from typing import Final

from starlette.requests import Request

from common.events import IDENTIFIER_PATTERN
from common.http import problem
from common.http.problem import Problem, ProblemError

IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
_IDEMPOTENCY_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}")
REPLAYED: Final = {"idempotency-replayed": "true"}
"""The header of an answer to a key that was used before, for the same request."""
_IDENTIFIER: Final = re.compile(IDENTIFIER_PATTERN)


def path_identifier(request: Request, name: str) -> str:
    """The identifier in the path. Raises `ProblemError` 404: nothing has a name that is no identifier."""
    value = str(request.path_params[name])
    if not _IDENTIFIER.match(value):
        raise ProblemError(problem.not_found(name.removesuffix("_id"), value[:64]))
    return value


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key` header, if there is one. Raises `ProblemError` 400 if it is not valid."""
    key = request.headers.get("idempotency-key")
    return None if key is None else checked_idempotency_key(key)


def checked_idempotency_key(key: str) -> str:
    """The key. Raises `ProblemError` 400 if it is not valid."""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        detail = f"must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters"
        raise ProblemError(Problem(400, "idempotency-key", "The idempotency key is not valid", detail))
    return key


def idempotency_key_reused(key: str, owner: str) -> Problem:
    """422: the key came before with `owner`, such as "another order of this customer"."""
    detail = f"the key {key!r} belongs to {owner}; use a new one"
    return Problem(422, "idempotency-key-reused", "The idempotency key was used for another request", detail)
