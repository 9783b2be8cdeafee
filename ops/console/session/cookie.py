"""The cookie of a session.

- Scripts cannot read it (HttpOnly), and no page of another site makes a browser send it (SameSite=Strict). A page of
  the same site on another port could: `common.http.heads` refuses its requests by their origin.
- A cookie belongs to a host and not to a port, so its name has the port of the console.
- Over TLS it goes nowhere else (Secure), and its name lets no other host set it (`__Host-`).

Reference: RFC 6265bis (draft-ietf-httpbis-rfc6265bis-20) §4.1.
"""

import re
from typing import Final

from starlette.types import Scope

_SECURE_PREFIX: Final = "__Host-"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class Cookie:
    """The cookie of the console on this port."""

    def __init__(self, port: int) -> None:
        self._name = f"tandem-console-{port}"

    def read(self, scope: Scope) -> str | None:
        """The id of a session, if a request has one. Over TLS only the cookie with the prefix counts: another host of
        the same domain, or a page without TLS, can set one without it."""
        values: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name == b"cookie":
                for pair in value.decode("latin-1").split(";"):
                    key, _, text = pair.strip().partition("=")
                    values.setdefault(key, text)
        id_ = values.get(_SECURE_PREFIX + self._name)
        if id_ is None and scope.get("scheme") != "https":
            id_ = values.get(self._name)
        return id_ if id_ is not None and _ID.fullmatch(id_) else None

    def set_(self, scope: Scope, id_: str, life_s: int) -> str:
        """The value of `Set-Cookie` that keeps this id for `life_s`."""
        secure = _is_secure(scope)
        name = _SECURE_PREFIX + self._name if secure else self._name
        return f"{name}={id_}; Path=/; Max-Age={life_s}; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}"

    def forget(self, scope: Scope) -> str:
        """The value of `Set-Cookie` that takes it away."""
        return self.set_(scope, "", 0)


def _is_secure(scope: Scope) -> bool:
    """Whether the browser speaks TLS, with this process or with a proxy before it: it says so in `Origin`, which has
    been checked."""
    return scope.get("scheme") == "https" or any(
        name == b"origin" and value.lower().startswith(b"https://") for name, value in scope["headers"]
    )
