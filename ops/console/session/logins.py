"""Logging in and out: the endpoints of `/api/session`, and what a session stands for.

A login is a request with a token or an API key in `Authorization`, which is judged like any other. After that the
cookie stands for that header: it is added to each request that has the cookie and no such header of its own.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from common.audit.entry import Author
from common.auth import guard
from common.auth.authenticator import Authenticator
from common.auth.guard import principal_of
from common.auth.principal import CUSTOMER, MERCHANT, OPERATOR
from common.http.once import author_of
from common.http.requests import read_body
from common.http.responses import json_response
from common.http.validation import decode_body
from ops.console.session.cookie import Cookie
from ops.console.session.sessions import Sessions

PLACES_ORDERS: Final = frozenset({CUSTOMER, MERCHANT})


class Nothing(Struct, forbid_unknown_fields=True):
    """An empty object: the request is sent with a content type, which no page of another site can do unasked."""


class SessionView(Struct, frozen=True):
    """Who uses the console, and what they may do beyond reading."""

    actor: Annotated[str, Meta(description="by whom acts are recorded")]
    by: Annotated[Literal["token", "key", "anonymous"], Meta(description="how that is known; anonymous: AUTH=off")]
    may: tuple[Literal["act", "place"], ...]
    ends_at: Annotated[int | None, Meta(description="milliseconds since 1970; null: it does not end")]


_nothing: Final = msgspec.json.Decoder(Nothing)


class Logins:
    """The sessions of one console, behind HTTP. `actor` is who acts with AUTH=off, `now` is in seconds since 1970."""

    def __init__(self, cookie: Cookie, actor: str, now: Callable[[], float] = time.time) -> None:
        self._cookie = cookie
        self._actor = actor
        self._now = now
        self._sessions = Sessions()

    def authorizations_of(self, scope: Scope) -> list[bytes]:
        """The credentials of a request: its own, or those of its session, which it is given as if it had brought
        them."""
        own = guard.authorizations_of(scope)
        id_ = None if own else self._cookie.read(scope)
        session = None if id_ is None else self._sessions.find(id_, self._now())
        if session is None:
            return own
        state: dict[str, Any] = scope.setdefault("state", {})
        state["session"] = id_
        scope["headers"] = [*scope["headers"], (b"authorization", session.authorization)]
        return [session.authorization]

    async def is_admitted(self, authenticator: Authenticator, scope: Scope) -> bool:
        """Whether a request that was let in, such as a stream, would be let in again now. Its session is thereby
        used."""
        id_ = scope["state"].get("session")
        if id_ is not None and self._sessions.find(id_, self._now()) is None:
            return False
        return await guard.is_still_good(authenticator, guard.authorizations_of(scope))

    async def log_in(self, request: Request) -> Response:
        """Begin a session for the credentials of this request, in the place of the one that it has."""
        decode_body(await read_body(request), _nothing)
        principal, now = principal_of(request.scope), self._now()
        if principal.kind == "anonymous" or "session" in request.scope["state"]:
            return await self.shown(request)
        (authorization,) = guard.authorizations_of(request.scope)
        self._end(request)
        id_, session = self._sessions.begin(principal, authorization, now)
        cookie = self._cookie.set_(request.scope, id_, int(session.ends_at - now))
        return json_response(self._view(request.scope, session.ends_at), 201, {"set-cookie": cookie})

    async def shown(self, request: Request) -> Response:
        """Who sends this request."""
        id_ = request.scope["state"].get("session")
        session = None if id_ is None else self._sessions.find(id_, self._now())
        ends_at = principal_of(request.scope).expires_at if session is None else session.ends_at
        return json_response(self._view(request.scope, ends_at))

    async def log_out(self, request: Request) -> Response:
        """End the session of this request."""
        self._end(request)
        return Response(status_code=204, headers={"set-cookie": self._cookie.forget(request.scope)})

    def author(self, request: Request) -> Author:
        """Who acts by this request, for the audit."""
        author = author_of(request)
        return author._replace(principal=self._actor, kind="user") if author.kind == "anonymous" else author

    def _end(self, request: Request) -> None:
        id_ = self._cookie.read(request.scope)
        if id_ is not None:
            self._sessions.end(id_)

    def _view(self, scope: Scope, ends_at: float) -> SessionView:
        principal = principal_of(scope)
        may: list[Literal["act", "place"]] = []
        if OPERATOR in principal.scopes:
            may.append("act")
        if not principal.scopes.isdisjoint(PLACES_ORDERS):
            may.append("place")
        actor = self._actor if principal.kind == "anonymous" else principal.subject
        return SessionView(actor, principal.kind, tuple(may), None if ends_at == float("inf") else int(ends_at * 1000))
