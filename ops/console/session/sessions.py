"""The sessions of the console, in memory: a restart of the console ends them all.

Pure: the time is given, in seconds since 1970. A session holds the credentials that it was begun with. They are checked
with each request, as if the request had brought them, so it ends with them: when they expire or are revoked.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from common.auth.principal import Principal

SESSIONS_MAX: Final = 256
"""In all. The one that was used least recently gives way to a new one."""
SESSIONS_OF_ONE_MAX: Final = 16
"""Of one principal, so that nobody can end those of others by logging in."""
IDLE_S: Final = 30 * 60
"""A session ends so long after its last request. A page that is open counts as in use."""
LIFE_S: Final = 12 * 3_600
ID_BYTES: Final = 32


@dataclass(slots=True)
class Session:
    """A session. Times are in seconds since 1970."""

    subject: str
    authorization: bytes
    """The value of the `Authorization` header that stands for it."""
    ends_at: float
    used_at: float


class Sessions:
    """All sessions. They are kept by the hashes of their ids: who reads this memory learns no cookie."""

    def __init__(self, draw: Callable[[int], str] = secrets.token_urlsafe) -> None:
        self._draw = draw
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, principal: Principal, authorization: bytes, now: float) -> tuple[str, Session]:
        """A new session for this principal. Returns its id, 256 random bits as text, and the session."""
        self._drop_ended(now)
        own = [key for key, session in self._sessions.items() if session.subject == principal.subject]
        if len(own) >= SESSIONS_OF_ONE_MAX:
            self._drop_least_used(own)
        if len(self._sessions) >= SESSIONS_MAX:
            self._drop_least_used(list(self._sessions))
        id_ = self._draw(ID_BYTES)
        session = Session(principal.subject, authorization, min(now + LIFE_S, principal.expires_at), now)
        self._sessions[_key(id_)] = session
        return id_, session

    def find(self, id_: str, now: float) -> Session | None:
        """The session of this id, which is thereby used; None if there is none any more."""
        session = self._sessions.get(_key(id_))
        if session is None:
            return None
        if _has_ended(session, now):
            self.end(id_)
            return None
        session.used_at = now
        return session

    def end(self, id_: str) -> None:
        """End the session of this id, if there is one."""
        self._sessions.pop(_key(id_), None)

    def _drop_ended(self, now: float) -> None:
        for key in [key for key, session in self._sessions.items() if _has_ended(session, now)]:
            del self._sessions[key]

    def _drop_least_used(self, keys: list[bytes]) -> None:
        del self._sessions[min(keys, key=lambda key: self._sessions[key].used_at)]


def _has_ended(session: Session, now: float) -> bool:
    return now >= session.ends_at or now - session.used_at >= IDLE_S


def _key(id_: str) -> bytes:
    return sha256(id_.encode()).digest()
