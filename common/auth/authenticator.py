"""Tells who asks, by the `Authorization` header of a request (RFC 6750), and remembers it until it expires.

A token is verified once. After that the header is found in a dictionary, which is all that an order costs. What is
remembered goes when keys change, so that a key that is revoked, or an issuer's that is withdrawn, is refused at once.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from loguru import logger

from common.auth.api_keys import PREFIX, StoredKey, check_key, read_key_file
from common.auth.principal import ANYONE, Principal, Unauthenticated, UnknownKey
from common.auth.remembered import Remembered
from common.auth.signing_keys import SigningKey, read_jwks
from common.auth.sources import FILE_CHECK_EVERY_S, KeysFile, KeysUrl, fetch
from common.auth.tokens import TOKEN_BYTES_MAX, Expected, check_token
from common.config.auth import Auth

_BEARER: Final = re.compile(rb"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)")
_KEY_PREFIX: Final = PREFIX.encode()
_USUAL: Final = (b"Bearer ", b"bearer ")
"""How clients write the scheme. HTTP allows more forms, thousands with blanks: remembered in each of them, one token
would drive out all others."""


class KeysAway(Exception):
    """The issuer's keys could not be read yet, so no token can be verified."""


class Authenticator(Protocol):
    """Tells who asks."""

    def known(self, authorization: bytes | None) -> Principal | None:
        """The principal of this header if it is remembered and its credentials have not expired."""

    async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
        """The principal of a request with these `Authorization` headers. Raises `Unauthenticated` and `KeysAway`."""

    async def keep_current(self) -> None:
        """Follow the sources of the keys, until it is cancelled."""

    def missing(self) -> list[str]:
        """What it lacks to tell who asks."""

    def degraded(self) -> list[str]:
        """What it lacks to learn of newer keys."""


class Open:
    """Takes everybody for a principal with all scopes (AUTH=off)."""

    def known(self, authorization: bytes | None) -> Principal | None:
        return ANYONE

    async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
        return ANYONE

    async def keep_current(self) -> None:
        await asyncio.Event().wait()

    def missing(self) -> list[str]:
        return []

    def degraded(self) -> list[str]:
        return []


class Closed(Open):
    """Knows nobody."""

    def known(self, authorization: bytes | None) -> Principal | None:
        return None

    async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
        raise Unauthenticated("this process takes no credentials")


class Verifying:
    """Verifies tokens and API keys."""

    def __init__(
        self, settings: Auth, now: Callable[[], float] = time.time, fetch_keys: Callable[[str], bytes] = fetch
    ) -> None:
        """`now` is in seconds since 1970. Raises `Fatal` when a file of keys cannot be read."""
        self._expected = Expected(settings.issuer, settings.audience, settings.leeway_s)
        self._now = now
        self._signing: KeysFile[dict[str, SigningKey]] | KeysUrl[dict[str, SigningKey]] | None = None
        self._api_keys: KeysFile[dict[str, StoredKey]] | None = None
        if settings.jwks_url is not None:
            self._signing = KeysUrl("AUTH_JWKS", settings.jwks_url, read_jwks, fetch_keys)
        elif settings.jwks_file is not None:
            self._signing = KeysFile("AUTH_JWKS", settings.jwks_file, read_jwks)
        if settings.keys_file is not None:
            self._api_keys = KeysFile("AUTH_KEYS_FILE", settings.keys_file, read_key_file)
        self._remembered = Remembered(settings.remembered_max)
        self._known = self._remembered.principals

    def known(self, authorization: bytes | None) -> Principal | None:
        principal = self._known.get(authorization)
        return principal if principal is not None and self._now() < principal.expires_at else None

    async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
        if not authorizations:
            raise Unauthenticated("send Authorization: Bearer, with a token or an API key", presented=False)
        if len(authorizations) > 1:
            raise Unauthenticated(f"there are {len(authorizations)} Authorization headers, must be one")
        (authorization,) = authorizations
        if (principal := self.known(authorization)) is not None:
            return principal
        text = _credentials(authorization)
        usual = authorization if authorization.removesuffix(text) in _USUAL else _USUAL[0] + text
        if (principal := self.known(usual)) is not None:
            return principal
        try:
            principal = self._check(text)
        except UnknownKey:
            if not await self._newer_keys():
                raise
            principal = self._check(text)
        self._remembered.add(usual, principal, self._now())
        return principal

    def _check(self, text: bytes) -> Principal:
        if text.startswith(_KEY_PREFIX):
            return check_key(text, (self._api_keys and self._api_keys.value) or {}, self._now())
        if self._signing is None:
            raise Unauthenticated("this process takes API keys, and no tokens")
        if self._signing.value is None:
            raise KeysAway
        return check_token(text, self._signing.value, self._expected, self._now())

    async def _newer_keys(self) -> bool:
        """Look for keys that were published since. Returns whether there are other ones now."""
        if isinstance(self._signing, KeysUrl):
            return self._forget_if(await self._signing.refresh_soon())
        return self._refresh_files()

    def _refresh_files(self) -> bool:
        files = [source for source in (self._signing, self._api_keys) if isinstance(source, KeysFile)]
        changed = [file.refresh() for file in files]
        return self._forget_if(any(changed))

    def _forget_if(self, changed: bool) -> bool:
        """What is remembered may rest on a key that is gone."""
        if changed:
            self._remembered.forget_all()
        return changed

    async def keep_current(self) -> None:
        await asyncio.gather(self._follow_files(), self._follow_url())

    async def _follow_files(self) -> None:
        while True:
            await asyncio.sleep(FILE_CHECK_EVERY_S)
            self._refresh_files()

    async def _follow_url(self) -> None:
        while isinstance(self._signing, KeysUrl):
            try:
                self._forget_if(await self._signing.refresh())
            except Exception as error:  # whatever a library raises, the next fetch may work
                logger.opt(exception=error).error("keys not fetched: {}", error)
            await asyncio.sleep(self._signing.pause_s())

    def missing(self) -> list[str]:
        return self._signing.missing() if isinstance(self._signing, KeysUrl) else []

    def degraded(self) -> list[str]:
        sources = [source for source in (self._signing, self._api_keys) if source is not None]
        return [problem for source in sources for problem in source.degraded()]


def _credentials(authorization: bytes) -> bytes:
    """What follows the scheme. Raises `Unauthenticated`."""
    if len(authorization) > TOKEN_BYTES_MAX + len(b"Bearer "):
        raise Unauthenticated(f"the credentials are over {TOKEN_BYTES_MAX} bytes")
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise Unauthenticated("the Authorization header must be like: Bearer TOKEN")
    return match[1]


OPEN: Final = Open()
CLOSED: Final = Closed()


def authenticator(settings: Auth | None) -> Authenticator:
    """What tells who asks, by these settings; None is AUTH=off. Raises `Fatal` when a file of keys cannot be read."""
    return OPEN if settings is None else Verifying(settings)
